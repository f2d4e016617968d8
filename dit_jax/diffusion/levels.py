"""Noise levels: which ones training visits, and which ones a sampler walks through.

A distribution of levels is its quantile function, u in [0, 1) -> t in [0, 1]. Evenly spread u then give every batch
nearly the same mix of levels, whatever the distribution, and a shift is one more function on top.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion.keys import stream_id

if TYPE_CHECKING:
    from dit_jax.diffusion.stream import Streams

Quantile = Callable[[Array], Array]


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


LEVELS: dict[str, Callable[..., Quantile]] = {"uniform": uniform, "logit_normal": logit_normal, "dropout": dropout}


def stratified(key: Array, n: int) -> Array:
    """n numbers, each uniform in (0, 1), one in each of n equal cells, in random order."""
    order, within = jax.random.split(key)
    u = jax.random.uniform(within, (n,), minval=1e-6, maxval=1 - 1e-6)
    return (jax.random.permutation(order, n) + u) / n


def draw(key: Array, streams: Streams, n: int) -> dict[str, Array]:
    """Training levels of n examples, independent between streams: {name: [n]}."""
    return {
        name: stream.levels(stratified(jax.random.fold_in(key, stream_id(name)), n)) for name, stream in streams.items()
    }


def schedule(streams: Streams, given, steps: int, shift: float = 1.0) -> dict[str, np.ndarray]:
    """The levels of each stream before and after each of a sampler's steps: {name: [steps + 1]}.

    A given stream stays at 0, one that can be drawn goes from 1 to 0, any other stays at 1: it is marginalised out.
    """

    def row(name, stream):
        if name in given:
            return np.zeros(steps + 1)
        if stream.head is None:
            return np.ones(steps + 1)
        t = shifted(np.linspace(1, 0, steps + 1), shift)
        return np.minimum(t, stream.process.top)

    return {name: row(name, stream) for name, stream in streams.items()}
