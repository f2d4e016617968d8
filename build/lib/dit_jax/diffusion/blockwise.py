"""Semi-autoregressive (block) diffusion with a KV cache: keys and values of finished blocks are computed once.

Where a stream has a past, its blocks are drawn one after another, each given those before it. Finished blocks neither
move nor attend to what comes later, so their keys and values stay, and samples are those of `sampler.sample_rows`.
There is one cache for each call by which guidance asks the network, such as the unconditional one.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.grids import moving
from dit_jax.diffusion.guidance import Guidance
from dit_jax.diffusion.sampler import Cache, Rows, priors, scan_steps, with_guidance
from dit_jax.diffusion.solver import Solver
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Arrays, Levels, Predict, Streams, with_pasts

Block = tuple[str, Array]  # a stream, and which of its groups
# (x, t, cache or None, block or None) -> (predictions, cache): `DiT.apply_with_cache` with its parameters.
ApplyWithCache = Callable[[Arrays, Levels, Any, Block | None], tuple[Arrays, Any]]


class CachedDenoiser:
    """A denoiser that runs the tokens of one block alone, or of all if None; all other keys and values are cached.

    caches: {name of a call: its KV cache}. Each call replaces its own, so the object is good for one evaluation of
    guidance; what is in `caches` after it are the new ones.
    """

    def __init__(self, apply: ApplyWithCache, caches: dict[str, Any], block: Block | None):
        self.apply, self.caches, self.block = apply, dict(caches), block

    def named_call(self, name: str) -> Predict:
        def predict(x: Arrays, t: Levels) -> Arrays:
            predictions, self.caches[name] = self.apply(x, t, self.caches.get(name), self.block)
            return predictions

        return predict

    def __call__(self, x: Arrays, t: Levels) -> Arrays:
        return self.named_call("conditional")(x, t)


def is_blockwise(streams: Streams, rows: Rows) -> bool:
    """Whether all that moves is one stream with a past, which a cache serves."""
    names = moving(rows)
    return len(names) == 1 and names == [stream.past_of for stream in streams.values() if stream.past_of]


def sample_with_cache(
    apply: ApplyWithCache,
    streams: Streams,
    keys: Array,
    given: Arrays,
    rows: Rows,
    solver: Solver = SOLVERS["2m"],
    guidance: Guidance | None = None,
    start: Arrays | None = None,
) -> Arrays:
    """keys [B], given {name: [B, *shape]}, rows, in which no block sets out before the last one is done (see
    `grids.level_rows`) -> {name: [B, *shape]}. guidance: by this network alone. Raises ValueError if anything moves but
    one stream with a past."""
    if not is_blockwise(streams, rows):
        raise ValueError("a cache is for one stream with a past that is drawn alone")
    [(past, name)] = [(past, stream.past_of) for past, stream in streams.items() if stream.past_of]
    groups, top = streams[name].groups, float(rows[name].max())
    prior = priors(streams, keys)

    def evaluate(denoiser: CachedDenoiser, x: Arrays, t: Levels) -> Arrays:
        return with_guidance(denoiser, streams, prior, given, guidance)(with_pasts(streams, x), t)

    def finished(t: Levels) -> Array:
        return jnp.sum(t[name][0] == 0)

    def predict(x: Arrays, t: Levels, caches: dict[str, Any]) -> Arrays:
        block = jnp.minimum(finished(t), groups - 1)
        return evaluate(CachedDenoiser(apply, caches, (name, block)), x, t)

    def fill(x: Arrays, t: Levels, caches: dict[str, Any], block: Block | None) -> dict[str, Any]:
        """The caches, in which the keys and values of a clean block are new."""
        denoiser = CachedDenoiser(apply, caches, block)
        evaluate(denoiser, x, t)
        return denoiser.caches

    def update(x: Arrays, t: Levels, caches: dict[str, Any]) -> dict[str, Any]:
        """Once for every block: when it is done, and the next one sets out."""
        last = finished(t) - 1
        is_new = t[name][0, jnp.minimum(last + 1, groups - 1)] == top
        return jax.lax.cond(is_new, lambda: fill(x, t, caches, (past, last)), lambda: caches)

    cache = Cache(lambda x, t: fill(x, t, {}, None), update)
    return scan_steps(predict, streams, keys, prior, given, rows, solver, start, cache)
