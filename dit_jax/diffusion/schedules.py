"""Noise schedules: t -> (alpha, sigma) of z = alpha x + sigma noise, with t = 0 data and t = 1 pure noise.

A schedule is a function of t, of any shape; derivatives come from `jax.jvp`, so none is written down. Both ends are
exact in floating point, alpha(1) = 0 and sigma(0) = 0: a stream at t = 1 holds no trace of its clean value, not even
a rounding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

Schedule = Callable[[Array], tuple[Array, Array]]


def rectified(t: Array) -> tuple[Array, Array]:
    """Straight lines from data to noise (Liu et al. 2022; Lipman et al. 2022)."""
    return 1 - t, t


def cosine(t: Array) -> tuple[Array, Array]:
    """Variance preserving, alpha = cos(pi t / 2) (Nichol & Dhariwal 2021, without the offset; GVP in SiT)."""
    quarter = jnp.pi / 2
    return jnp.sin(quarter * (1 - t)), jnp.sin(quarter * t)


SCHEDULES = {"rectified": rectified, "cosine": cosine}


def derivative(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """(d alpha / dt, d sigma / dt)."""
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))[1]


def log_snr(schedule: Schedule, t: Array) -> Array:
    """lambda = log(alpha / sigma): +inf at t = 0, -inf at t = 1."""
    alpha, sigma = schedule(t)
    return jnp.log(alpha) - jnp.log(sigma)


def align(t: Array, x: Array) -> Array:
    """Give levels the rank of the array they belong to: t [B] or [B, G] -> broadcastable against x [B, n, ...].

    G groups split the first axis of an example evenly: frames of a clip, blocks of a text.
    """
    if t.ndim == 2:
        t = jnp.repeat(t, x.shape[1] // t.shape[1], axis=1, total_repeat_length=x.shape[1])
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
