"""Training objectives: noise every stream at its own level, predict, and add up the processes' losses."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.joint_levels import JOINT_LEVELS, JointLevels
from dit_jax.diffusion.keys import check_key, domain, example_keys
from dit_jax.diffusion.meanflow import meanflow_losses
from dit_jax.diffusion.stream import (
    Arrays,
    Levels,
    Predict,
    Streams,
    check_arrays,
    check_values,
    corrupt,
    drawable,
    in_data,
)
from dit_jax.names import row

# (predict, streams, keys [B], batch, levels) -> the loss of every example in each stream, {name: [B]}.
Objective = Callable[[Predict, Streams, Array, Arrays, Levels], dict[str, Array]]


def loss(
    predict: Predict,
    streams: Streams,
    key: Array,
    batch: Arrays,
    objective: Objective | str = "denoise",
    joint_levels: JointLevels | str = "independent",
) -> Array:
    """Mean loss of a batch {name: [B, *shape]}, at levels and with noise drawn from the key.

    objective: a row of OBJECTIVES. joint_levels: how the levels of several streams go together, a row of
    joint_levels.JOINT_LEVELS. Rows, or their names. Raises ValueError for streams that the batch lacks or that do not
    exist, for another shape or type than theirs and, where they are known while tracing, for values that no data can
    have, such as labels out of range and pixels in 0 ... 255.
    """
    losses, levels = row(OBJECTIVES, objective, "objective"), row(JOINT_LEVELS, joint_levels, "joint_levels")
    check_key(key)
    check_arrays(streams, batch, "the batch", needed=in_data(streams))
    check_values(streams, batch, "the batch")
    batch = {name: jnp.asarray(value) for name, value in batch.items()}
    n = len(next(iter(batch.values())))
    level_key, noise_key = jax.random.split(domain(key, "train"))
    t = levels(level_key, streams, n)
    return jnp.mean(total(losses(predict, streams, example_keys(noise_key, jnp.arange(n)), batch, t)))


def losses_at(predict: Predict, streams: Streams, keys: Array, batch: Arrays, t: Levels) -> dict[str, Array]:
    """The denoising loss (flow matching, DDPM, or the masked ELBO, by process) of every example, {name: [B]}, at given
    levels {name: [B] or [B, G]} and with one key an example.

    Streams without a head are conditions: they are noised, never scored.
    """
    noised, targets = corrupt(streams, keys, batch, t)
    predictions = predict(noised, t)
    return {
        name: stream.process.loss(predictions[name], targets[name], t[name])
        for name, stream in drawable(streams).items()
    }


OBJECTIVES: dict[str, Objective] = {
    "denoise": losses_at,
    "meanflow": functools.partial(meanflow_losses, tangent="given"),
    "improved_meanflow": meanflow_losses,
}


def total(losses: dict[str, Array], uncertainty: dict[str, Array] | None = None) -> Array:
    """The loss of every example, [B]: its streams' losses added up, each as e^{-u} loss + u where it has an uncertainty
    u, which is best at the logarithm of the loss to be expected (Karras et al. 2024, arXiv 2312.02696, eq. 16)."""
    u = uncertainty or {}
    return sum((jnp.exp(-u[k]) * loss + u[k] if k in u else loss for k, loss in losses.items()), jnp.zeros(()))
