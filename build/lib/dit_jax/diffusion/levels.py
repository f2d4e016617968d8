"""Distributions of noise levels in training, such as the logit-normal.

A distribution of levels is its quantile function, u in [0, 1) -> t in [0, 1]. Evenly spread u then give every batch
nearly the same mix of levels, whatever the distribution, and a shift is one more function on top.
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.schedules import SCHEDULES, Schedule, edm, level_at
from dit_jax.schema import Range, checks

Quantile = Callable[[Array], Array]
Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(above=0)]
Share = Annotated[float, Range(at_least=0, at_most=1)]


def shifted(t: Any, shift: float) -> Any:
    """t -> s t / (1 + (s - 1) t), which adds log s to logit t: more noise for s > 1 (SD3, arXiv 2403.03206, eq. 23)."""
    return t / (t + (1 - t) / shift)  # the same, and exact at both ends


@checks
def uniform(*, shift: Positive = 1.0) -> Quantile:
    """t ~ U(0, 1), shifted."""
    return lambda u: shifted(u, shift)


@checks
def logit_normal(*, mean: Finite = 0.0, std: Positive = 1.0, shift: Positive = 1.0) -> Quantile:
    """logit t ~ N(mean, std^2), shifted (SD3). JiT's default is (0.8, 0.8)."""
    return lambda u: shifted(jax.nn.sigmoid(mean + std * jax.scipy.special.ndtri(u)), shift)


@checks
def dropout(*, rate: Share = 0.1) -> Quantile:
    """Label dropout: absent (t = 1) with probability `rate`, else given (t = 0); the levels of a pure condition."""
    return lambda u: (u >= 1 - rate).astype(jnp.float32)


@checks
def log_normal(*, mean: Finite = -1.2, std: Positive = 1.2, schedule: Annotated[Schedule, SCHEDULES] = edm) -> Quantile:
    """log(sigma / alpha) ~ N(mean, std^2) (EDM); EDM2's is (-0.4, 1)."""
    return lambda u: level_at(schedule, -(mean + std * jax.scipy.special.ndtri(u)))


@checks
def steps(*, count: Annotated[int, Range(at_least=1)] = 1000) -> Quantile:
    """t = n / count, n = 1 ... count alike: DDPM's."""
    return lambda u: jnp.minimum(jnp.floor(u * count) + 1, count) / count


@checks
def spans(*, rate: Share = 0.25) -> Quantile:
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
