"""What each part of a network is worth: the denoise lens, ablation of blocks and heads, massive activations."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion.stream import Arrays, drawable
from dit_jax.inside.noised import Study, by_level, estimate, losses_under, noised, rises_under, values_by_level
from dit_jax.network.dit import DiT
from dit_jax.network.taps import Edit, Edits, tapped

GATES = {"attention": "attention_gate", "MLP": "mlp_gate"}


def until(model: DiT, block: int | Array) -> Edits:
    """An edit by which blocks from this one on do nothing: their gates are 0, and the residual passes them."""
    gates = Edit((jnp.arange(model.depth) < block).astype(jnp.float32).reshape(-1, 1, 1, 1))
    return dict.fromkeys(GATES.values(), gates)


def lens(study: Study) -> Arrays:
    """The denoise lens: the clean values that the final layer makes of the residual before the first block and after
    each, {stream: [L, depth + 1, B, *shape]}."""
    model = study.model

    def at(params: Any, batch: Arrays, level: Array) -> Arrays:
        x, t, _ = noised(model.streams, batch, level)

        def after(block: Array) -> Arrays:
            predictions, _ = tapped(model, params)(x, t, edits=until(model, block))
            return {k: estimate(s, x[k], predictions[k], t[k]) for k, s in drawable(model.streams).items()}

        return jax.lax.map(after, jnp.arange(model.depth + 1))

    return by_level(study, at)


def lens_losses(study: Study) -> Arrays:
    """The mean losses of the lens before the first block and after each, {stream: [depth + 1, L]}."""
    return losses_under(study, [until(study.model, block) for block in range(study.model.depth + 1)])


def block_ablation(study: Study, part: str) -> Arrays:
    """By how much the losses rise where the gate of a part of a block, a row of GATES, is 0: {stream: [depth, L]}."""
    return rises_under(study, [{GATES[part]: Edit(0.0, block=block)} for block in range(study.model.depth)])


def head_ablation(study: Study, block: int) -> Arrays:
    """By how much the losses rise without one head of a block, {stream: [h, L]}."""
    others = 1.0 - np.eye(study.model.heads)[:, :, None]  # each with the axes [h, d]
    return rises_under(study, [{"heads": Edit(scale, block=block)} for scale in others])


def channel_ablation(study: Study, choices: Sequence[Sequence[int]]) -> Arrays:
    """By how much the losses rise where some channels of the residual are 0 after every block, for each of several
    choices of channels: {stream: [choices, L]}."""
    kept = [1.0 * np.isin(np.arange(study.model.width), channels, invert=True) for channels in choices]
    return rises_under(study, [{"residual": Edit(scale)} for scale in kept])


def over_median(residual: Array) -> Array:
    """Massive activations (Sun et al. 2024; of DiTs, arXiv 2510.11538): the largest magnitude in each channel over the
    median magnitude of all, [..., B, n, D] -> [..., D]."""
    size = jnp.abs(residual)
    return jnp.max(size, axis=(-3, -2)) / jnp.median(size, axis=(-3, -2, -1))[..., None]


def activation_map(study: Study) -> Array:
    """`over_median` of the residual after each block, [L, depth, D]."""
    return over_median(values_by_level(study, "residual"))
