"""Sampling block after block with a cache: what the network has made of finished blocks is computed once.

It is `sampler.walk`, but that a sample holds the cache in the place of the past, and that an evaluation computes the
tokens of one block. Finished blocks neither move nor see what comes later, so samples are the same.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.grids import moving
from dit_jax.diffusion.objective import Sample
from dit_jax.diffusion.sampler import walk
from dit_jax.diffusion.solvers import SOLVERS, Solver
from dit_jax.diffusion.stream import Streams, with_copies

# (x, t, cache or None, (stream, group) or None) -> (predictions, cache), as `DiT.recall` with its parameters has it.
Recall = Callable[[Sample, Sample, Any, tuple[str, Array] | None], tuple[Sample, Any]]


def blockwise(streams: Streams, schedule: dict) -> bool:
    """Whether all that moves is one stream with a past, which a cache serves."""
    names = moving(schedule)
    return len(names) == 1 and names == [stream.copies for stream in streams.values() if stream.copies]


def walk_cached(
    recall: Recall,
    streams: Streams,
    keys: Array,
    given: Sample,
    schedule: dict,
    solver: Solver = SOLVERS["2m"],
    start: Sample | None = None,
) -> Sample:
    """keys [B], given {name: [B, *shape]}, schedule, in which no block sets out before the last one is done (see
    `grids.rows`) -> {name: [B, *shape]}. Raises ValueError if anything moves but one stream with a past."""
    if not blockwise(streams, schedule):
        raise ValueError("a cache is for one stream with a past that is drawn alone")
    ((name, past),) = ((stream.copies, past) for past, stream in streams.items() if stream.copies)
    groups, top = streams[name].groups, float(schedule[name].max())

    def finished(t: Sample) -> Array:
        return jnp.sum(t[name][0] == 0)

    def predict(x: Sample, t: Sample) -> Sample:
        block = jnp.minimum(finished(t), groups - 1)
        return recall(with_copies(streams, x), t, x[past], (name, block))[0]

    def follow(x: Sample, t: Sample) -> Sample:
        """A sample with the cache, to which every block is added once, when it is done and the next one sets out."""
        clean, last = with_copies(streams, x), finished(t) - 1
        if isinstance(x[past], Array):
            return {**x, past: recall(clean, t, None, None)[1]}
        fresh = t[name][0, jnp.minimum(last + 1, groups - 1)] == top
        return {**x, past: jax.lax.cond(fresh, lambda: recall(clean, t, x[past], (past, last))[1], lambda: x[past])}

    x = walk(predict, streams, keys, given, schedule, solver, start=start, follow=follow)
    return with_copies(streams, x)
