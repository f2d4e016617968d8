"""Guidance: functions predict -> predict.

An absent stream is that stream at t = 1, holding a draw from its prior: a label's mask (DiT's null class), pure noise.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.objective import Predict, Sample
from dit_jax.diffusion.schedules import align

Guidance = Callable[[Predict, Sample], Predict]


def classifier_free(scale: float, interval: tuple[float, float] = (0.0, 1.0)) -> Guidance:
    """strong + (scale - 1) (strong - weak), where weak does not see the given streams (Ho & Salimans 2022).

    Outside the interval of levels, ends included, a stream is left as it is (Kynkaanniemi et al. 2024). Every
    prediction is affine in the others at a fixed z and t, so it does not matter which one the network makes.

    -> (predict, {name of a given stream: what it holds when absent}) -> predict.
    """
    low, high = interval

    def guide(predict: Predict, absent: Sample) -> Predict:
        def guided(x: Sample, t: Sample) -> Sample:
            strong = predict(x, t)
            weak = predict({**x, **absent}, {**t, **{name: jnp.ones_like(t[name]) for name in absent}})

            def mix(name: str) -> Array:
                level = align(t[name], strong[name])
                inside = (low <= level) & (level <= high)
                return strong[name] + jnp.where(inside, scale - 1, 0.0) * (strong[name] - weak[name])

            return {name: mix(name) for name in strong}

        return guided

    return guide
