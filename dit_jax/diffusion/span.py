"""The span of levels that a network's prediction is the mean over: a condition of MeanFlow (see meanflow.py)."""

import dataclasses

import jax.numpy as jnp
from jax import Array

SPAN = "span"  # the name of its stream


@dataclasses.dataclass(frozen=True)
class Span:
    """A number in [0, 1] that is never noised, and 0 where it is absent: there a mean velocity is the velocity."""

    dtype = jnp.float32
    top = 1.0

    def prior(self, keys: Array, shape: tuple[int, ...]) -> Array:
        """The stream at t = 1: keys [B] -> [B, *shape]."""
        return jnp.zeros((len(keys), *shape), self.dtype)

    def corrupt(self, keys: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """(x, x): there is nothing to hide, and nothing to say."""
        return x, x
