"""Between two noises."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.schedules import align


def slerp(a: Array, b: Array, weights: Array) -> Array:
    """Along the great circle from a [B, ...] at weight 0 to b [B, ...] at 1, weights [B] (Shoemake 1985).

    An example turns as one vector, all of its axes together, and its norm goes linearly from that of a to that of b; so
    independent standard normals stay so, where a straight line between them would lead through too little noise.
    Opposite vectors have no great circle, and are joined by the line.
    """
    w, axes = align(weights, a), tuple(range(1, a.ndim))
    norm = lambda x: jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=True))
    unit_a, unit_b = a / norm(a), b / norm(b)
    angle = 2 * jnp.arctan2(norm(unit_b - unit_a), norm(unit_b + unit_a))  # an arc cosine would be blind to small ones
    straight = jnp.sin(angle) < 1e-6
    part = lambda w: jnp.where(straight, w, jnp.sin(w * angle) / jnp.where(straight, 1.0, jnp.sin(angle)))
    return ((1 - w) * norm(a) + w * norm(b)) * (part(1 - w) * unit_a + part(w) * unit_b)
