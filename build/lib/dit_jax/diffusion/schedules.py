"""Noise schedules: t -> (alpha, sigma) of z = alpha x + sigma noise, with t = 0 data and t = 1 noise.

A schedule is a function of t, of any shape; derivatives come from `jax.jvp`, so none is written down. sigma(0) = 0 and,
but for `linear` and `edm`, which end where their papers do, alpha(1) = 0, exactly in floating point: a stream at t = 1
holds no trace of its clean value, not even a rounding.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Schedule = Callable[[Array], tuple[Array, Array]]


def rectified(t: Array) -> tuple[Array, Array]:
    """Straight lines from data to noise (Liu et al. 2022; Lipman et al. 2022)."""
    return 1 - t, t


def gvp(t: Array) -> tuple[Array, Array]:
    """Variance preserving, alpha = cos(pi t / 2) (Albergo et al. 2023; GVP in SiT)."""
    quarter = jnp.pi / 2
    return jnp.sin(quarter * (1 - t)), jnp.sin(quarter * t)


def cosine(t: Array) -> tuple[Array, Array]:
    """Variance preserving, alpha^2 = f(t) / f(0) with f = cos^2(pi/2 (t + 0.008) / 1.008) (Nichol & Dhariwal 2021)."""
    reach = jnp.full_like(t, jnp.pi / 2 / 1.008)
    alpha = jnp.sin(reach * (1 - t)) / jnp.sin(reach)
    return alpha, jnp.sqrt(jnp.sin(reach * (2 - t)) * jnp.sin(reach * t)) / jnp.sin(reach)


# -log(alpha^2) / t after n = 1 ... 1000 of DDPM's steps; it is smooth in n, so a polynomial has it to 1e-12.
_STEPS = np.arange(1, 1001) / 1000
_LINEAR = np.polynomial.Polynomial.fit(
    _STEPS, -np.cumsum(np.log1p(-np.linspace(1e-4, 0.02, 1000))) / _STEPS, deg=9, domain=(0, 1), window=(0, 1)
).coef


def linear(t: Array) -> tuple[Array, Array]:
    """DDPM's 1,000 linear betas, 1e-4 ... 0.02 (Ho et al. 2020): t = n / 1000 is after n steps; alpha(1)^2 = 4e-5."""
    lost = t * jnp.polyval(jnp.asarray(_LINEAR[::-1], t.dtype), t)
    return jnp.exp(-lost / 2), jnp.sqrt(-jnp.expm1(-lost))


def edm(t: Array) -> tuple[Array, Array]:
    """EDM's noise sigma / alpha = 80 t^7 at unit variance: steps even in t are those of Karras et al. (2022, eq. 5)."""
    ratio = 80 * t**7
    alpha = jax.lax.rsqrt(1 + ratio**2)
    return alpha, ratio * alpha


SCHEDULES = {"rectified": rectified, "gvp": gvp, "cosine": cosine, "linear": linear, "edm": edm}


def derivative(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """(d alpha / dt, d sigma / dt)."""
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))[1]


def log_snr(schedule: Schedule, t: Array) -> Array:
    """lambda = log(alpha / sigma): +inf at t = 0, and -inf where alpha = 0."""
    alpha, sigma = schedule(t)
    return jnp.log(alpha) - jnp.log(sigma)


def level_at(schedule: Schedule, wanted: Array) -> Array:
    """The inverse of `log_snr`, by bisection: t of the same shape; 0 or 1 where the schedule does not reach so far."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        too_clean = log_snr(schedule, middle) > wanted
        return jnp.where(too_clean, middle, low), jnp.where(too_clean, high, middle)

    low, high = jax.lax.fori_loop(0, 64, halve, (jnp.zeros_like(wanted), jnp.ones_like(wanted)))
    return jnp.where(low > 0, high, low)


def align(t: Array, x: Array) -> Array:
    """Give levels the rank of the array they belong to: t [B] or [B, G] -> broadcastable against x [B, n, ...].

    G groups split the first axis of an example evenly: frames of a clip, blocks of a text.
    """
    if t.ndim == 2:
        t = jnp.repeat(t, x.shape[1] // t.shape[1], axis=1, total_repeat_length=x.shape[1])
    return t.reshape(t.shape + (1,) * (x.ndim - t.ndim))
