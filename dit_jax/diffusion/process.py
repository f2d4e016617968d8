"""The forward process of a stream: how it is noised, what the network learns of it, and how a sampler undoes it.

`Gaussian` diffuses real values, `Masked` hides tokens, `Span` is a condition that is never noised. All else in the
package asks a process by the names below, so another one is a subclass and nothing more (CONTRIBUTING, "Add a
process").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array


class Process:
    """What every process answers. z is the noised value, t its noise level, [B] or [B, G]: 0 is data, 1 is noise.

    dtype: of the values. top: the highest level that a sampler may start from. is_continuous: whether z is real and
    follows a probability flow, which solvers integrate, and its loss is a squared error; if not, it moves by its own
    `step`, and its loss is a negative log-likelihood. vocabulary: of tokens, how many there are, without the mask.
    in_data: whether data sets hold it.
    """

    dtype: Any = jnp.float32
    top: Any = 1.0
    is_continuous: bool = False
    vocabulary: Any = None
    in_data: bool = True

    def time_input(self, t: Array) -> Array:
        """What the timestep embedding is fed for the levels t, [B] or [B, G]: zeros, unless a process says
        otherwise."""
        return jnp.zeros_like(t)

    def prior(self, keys: Array, shape: tuple[int, ...]) -> Array:
        """p(z at t = 1), where a sampler starts, and what an absent condition holds: keys [B] -> [B, *shape]."""
        raise NotImplementedError

    def corrupt(self, keys: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """q(z | x): x [B, ...] at levels t -> (z, target), the noised value, and what the network should predict."""
        raise NotImplementedError

    def loss(self, prediction: Array, target: Array, t: Array) -> Array:
        """The loss of each example, [B]. Nothing is asked of what is given at t = 0."""
        raise NotImplementedError

    def step(self, keys: Array, z: Array, prediction: Array, t: Array, s: Array) -> Array:
        """A sampler's step from levels t down to s, where there is no flow that a solver could follow."""
        raise NotImplementedError

    def level_row(self, grid: Callable, steps: int) -> np.ndarray:
        """The levels [steps + 1] of a sampler's steps, from 1 down to 0: evenly, where nothing is a signal-to-noise
        ratio that a grid could space. grid: a row of grids.GRIDS."""
        return np.linspace(1, 0, steps + 1)

    def is_mask(self, z: Any) -> Any:
        """Which values are the mask, and known of nobody: bool, of the shape of z."""
        return np.zeros(z.shape, bool)

    def predicts(self, line: Callable) -> bool:
        """Whether the network's prediction is this row of gaussian.PREDICTIONS."""
        return False

    def with_reveal(self, reveal: Callable) -> Process:
        """The same process, whose sampler shows hidden tokens by this rule, such as a row of masked.REVEALS."""
        return self

    def check(self, x: Any, masks: bool = False) -> None:
        """Raises ValueError for values that no data can have. masks: whether the mask is allowed, as it is of what
        sampling starts from."""
