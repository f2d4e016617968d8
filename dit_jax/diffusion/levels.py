"""Noise levels that training visits.

A distribution of levels is its quantile function, u in [0, 1) -> t in [0, 1]. Evenly spread u then give every batch
nearly the same mix of levels, whatever the distribution, and a shift is one more function on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.keys import stream_id
from dit_jax.diffusion.schedules import Schedule, align, edm, level_at

if TYPE_CHECKING:
    from dit_jax.diffusion.stream import Stream, Streams

Quantile = Callable[[Array], Array]
Together = Callable[[Array, "Streams", int], dict[str, Array]]


def shifted(t, shift: float):
    """t -> s t / (1 + (s - 1) t), which adds log s to logit t: more noise for s > 1 (SD3, arXiv 2403.03206, eq. 23)."""
    return t / (t + (1 - t) / shift)  # the same, and exact at both ends


def uniform(*, shift: float = 1.0) -> Quantile:
    """t ~ U(0, 1), shifted."""
    return lambda u: shifted(u, shift)


def logit_normal(*, mean: float = 0.0, std: float = 1.0, shift: float = 1.0) -> Quantile:
    """logit t ~ N(mean, std^2), shifted (SD3). JiT's default is (0.8, 0.8)."""
    return lambda u: shifted(jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u)), shift)


def dropout(*, rate: float = 0.1) -> Quantile:
    """Absent (t = 1) with probability `rate`, else given (t = 0): the levels of a pure condition."""
    return lambda u: (u >= 1 - rate).astype(jnp.float32)


def log_normal(*, mean: float = -1.2, std: float = 1.2, schedule: Schedule = edm) -> Quantile:
    """log(sigma / alpha) ~ N(mean, std^2) (EDM); EDM2's is (-0.4, 1)."""
    return lambda u: level_at(schedule, -(mean + std * jax.scipy.special.ndtri(u)))


def steps(*, count: int = 1000) -> Quantile:
    """t = n / count, n = 1 ... count alike: DDPM's."""
    return lambda u: jnp.minimum(jnp.floor(u * count) + 1, count) / count


def spans(*, rate: float = 0.25) -> Quantile:
    """0 but at a rate, and there uniform: how much of the way down a mean velocity is taken over (MeanFlow)."""
    return lambda u: jnp.maximum(u - (1 - rate), 0.0) / max(rate, 1e-9)


LEVELS: dict[str, Callable[..., Quantile]] = {
    "uniform": uniform,
    "logit_normal": logit_normal,
    "log_normal": log_normal,
    "steps": steps,
    "dropout": dropout,
    "spans": spans,
}


def stratified(key: Array, n: int) -> Array:
    """n numbers, each uniform in (0, 1), one in each of n equal cells, in random order."""
    order, within = jax.random.split(key)
    u = jax.random.uniform(within, (n,), minval=1e-6, maxval=1 - 1e-6)
    return (jax.random.permutation(order, n) + u) / n


def forcing(key: Array, levels: Quantile, n: int, groups: int) -> Array:
    """Levels [n, groups] of examples in groups, such as frames: one for all in half of the examples; in a quarter, the
    same after a clean beginning; in a quarter, independent ones (diffusion forcing, Chen et al. 2024)."""
    kinds, first, *keys = jax.random.split(key, 2 + groups)
    own = levels(jnp.stack([stratified(key, n) for key in keys], axis=1))
    one, kind = own[:, :1], stratified(kinds, n)[:, None]
    clean = jnp.arange(groups)[None] < jax.random.randint(first, (n, 1), 1, groups)
    return jnp.where(kind < 0.75, jnp.where(clean & (kind >= 0.5), 0.0, one), own)


def apart(key: Array, levels: Quantile, n: int, groups: int) -> Array:
    """Levels [n, groups] of examples in groups that are drawn one after another, such as blocks: independent ones."""
    return levels(stratified(key, n * groups).reshape(n, groups))


def independent(key: Array, streams: Streams, n: int) -> dict[str, Array]:
    """Each stream at its own levels: {name: [n]}, or [n, G] for one in groups, `apart` if it has a past."""
    pasts = {stream.copies for stream in streams.values()}

    def of(name: str, stream: Stream) -> Array:
        own = jax.random.fold_in(key, stream_id(name))
        if stream.groups == 1:
            return stream.levels(stratified(own, n))
        spread = apart if name in pasts else forcing
        return spread(own, stream.levels, n, stream.groups)

    return {name: of(name, stream) for name, stream in streams.items()}


def corners(tied: float = 0.7) -> Together:
    """Independent levels, and the corners of their cube, where samplers walk but few levels fall.

    Of the streams that can be drawn, one of each example, any, is drawn; each of the others is clean, drawn as well, or
    pure noise, with shares that are drawn for each example uniformly from all that add up to one: how many others are
    of which kind is then as likely as any other split, such as all absent. With probability `tied`, those that are
    drawn are at one level, as they are while being drawn: one that any of all streams might have alone.
    """

    def together(key: Array, streams: Streams, n: int) -> dict[str, Array]:
        able = [name for name, stream in streams.items() if stream.head is not None]
        t = independent(key, streams, n)
        level, whose, tie, one, shares, *parts = jax.random.split(jax.random.fold_in(key, 0), 5 + len(able))
        any_of, u = jax.random.randint(whose, (n,), 0, len(able)), stratified(level, n)
        shared = jnp.choose(any_of, [streams[name].levels(u) for name in able], mode="clip")
        tie, one = stratified(tie, n) < tied, jax.random.randint(one, (n,), 0, len(able))
        clean, there = jnp.sort(jax.random.uniform(shares, (2, n)), axis=0)
        for i, name in enumerate(able):
            part, other = stratified(parts[i], n), one != i
            here = jnp.where(align(tie, t[name]), align(shared, t[name]), t[name])
            here = jnp.where(align(other & (part > there), here), 1.0, here)
            t[name] = jnp.where(align(other & (part < clean), here), 0.0, here)
        return t

    return together


# How the levels of several streams go together: (key, streams, n) -> {name: [n] or [n, G]}.
TOGETHER: dict[str, Together] = {"independent": independent, "corners": corners()}
