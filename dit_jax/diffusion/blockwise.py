"""Sampling block after block with a KV cache: keys and values of finished blocks are computed once.

It is `sampler.walk`, but that a sample holds the caches in the place of the past, one for each time that guidance asks
the network, and that an evaluation computes the tokens of one block. Finished blocks neither move nor see what comes
later, so samples are the same.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.grids import moving
from dit_jax.diffusion.guidance import Guidance
from dit_jax.diffusion.objective import Sample
from dit_jax.diffusion.sampler import guided, priors, walk
from dit_jax.diffusion.solvers import SOLVERS, Solver
from dit_jax.diffusion.stream import Streams, with_copies

# (x, t, cache or None, (stream, group) or None) -> (predictions, cache): `DiT.apply_with_cache` with its parameters.
CachedPredict = Callable[[Sample, Sample, Any, tuple[str, Array] | None], tuple[Sample, Any]]


def blockwise(streams: Streams, schedule: dict) -> bool:
    """Whether all that moves is one stream with a past, which a cache serves."""
    names = moving(schedule)
    return len(names) == 1 and names == [stream.copies for stream in streams.values() if stream.copies]


def walk_cached(
    cached: CachedPredict,
    streams: Streams,
    keys: Array,
    given: Sample,
    schedule: dict,
    solver: Solver = SOLVERS["2m"],
    guidance: Guidance | None = None,
    start: Sample | None = None,
) -> Sample:
    """keys [B], given {name: [B, *shape]}, schedule, in which no block sets out before the last one is done (see
    `grids.rows`) -> {name: [B, *shape]}. guidance: by this network alone. Raises ValueError if anything moves but one
    stream with a past."""
    if not blockwise(streams, schedule):
        raise ValueError("a cache is for one stream with a past that is drawn alone")
    ((name, past),) = ((stream.copies, past) for past, stream in streams.items() if stream.copies)
    groups, top = streams[name].groups, float(schedule[name].max())
    prior = priors(streams, keys)
    guide = functools.partial(guided, streams=streams, prior=prior, given=given, guidance=guidance)

    def finished(t: Sample) -> Array:
        return jnp.sum(t[name][0] == 0)

    def predict(x: Sample, t: Sample) -> Sample:
        block, caches = jnp.minimum(finished(t), groups - 1), iter(x[past])
        return guide(lambda x, t: cached(with_copies(streams, x), t, next(caches), (name, block))[0])(x, t)

    def remember(x: Sample, t: Sample, olds: Iterable, target: tuple[str, Array] | None) -> Any:
        """The caches of clean blocks, in the order in which guidance asks; the old ones but for the block `target`."""
        old, new = iter(olds), []

        def ask(x: Sample, t: Sample) -> Sample:
            predictions, cache = cached(x, t, next(old, None), target)
            new.append(cache)
            return predictions

        guide(ask)(x, t)
        return tuple(new)

    def follow(x: Sample, t: Sample) -> Sample:
        """A sample with the caches, to which every block is added once, when it is done and the next one sets out."""
        clean, last = with_copies(streams, x), finished(t) - 1
        if isinstance(x[past], Array):
            return {**x, past: remember(clean, t, (), None)}
        fresh = t[name][0, jnp.minimum(last + 1, groups - 1)] == top
        caches = jax.lax.cond(fresh, lambda: remember(clean, t, x[past], (past, last)), lambda: x[past])
        return {**x, past: caches}

    x = walk(predict, streams, keys, given, schedule, solver, start=start, follow=follow)
    return with_copies(streams, x)
