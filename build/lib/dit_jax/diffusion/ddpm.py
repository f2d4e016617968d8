"""The process of DDPM and of the original DiT: a thousand steps, the noise and the variance of each step learned.

For each channel the network returns the noise and, in a second value v in [-1, 1], how far the variance of the step
down is from its lower bound to its upper one (Nichol & Dhariwal 2021, eq. 15), with f = (v + 1) / 2:

    log variance = f log beta + (1 - f) log beta~,       beta~ = beta sigma_s^2 / sigma_t^2.

So a step's standard deviation is that of the posterior times (sigma_t / sigma_s)^f, for steps of any length, and the
`ancestral` solver is DDPM's sampler, respaced or not. Training wants levels on the steps: `levels.steps`.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.gaussian import Gaussian, Line, TimeInput, noise, timestep
from dit_jax.diffusion.schedules import Schedule, align, linear


@dataclasses.dataclass(frozen=True)
class DDPM(Gaussian):
    """Noise prediction with a learned variance, and the hybrid loss of mean squared error and evidence bound."""

    schedule: Schedule = linear
    prediction: Line = noise
    loss_in: Line = noise
    clock: TimeInput = timestep
    outputs: int = 2
    steps: int = 1000

    def corrupt(self, keys: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """x [B, ..., C] at levels t -> (z, target [B, ..., 2 C]): the target is the noise, and x itself."""
        z, noise = super().corrupt(keys, x, t)
        return z, jnp.concatenate([noise, x], -1)

    def spread(self, prediction: Array, ratio: Array) -> Array:
        return ratio ** _fraction(prediction)

    def loss(self, prediction: Array, target: Array, t: Array) -> Array:
        """Mean squared error of the noise plus the term of the evidence bound in bits a value, [B].

        The bound teaches the variance only: its mean is held fixed (Nichol & Dhariwal 2021, section 3.1).
        """
        noise, _ = jnp.split(target, 2, -1)
        bound = jnp.where(align(t, noise) > 0, self.bound(prediction, target, t), 0.0)
        return super().loss(prediction, noise, t) + jnp.mean(bound, axis=range(1, bound.ndim))

    def bound(self, prediction: Array, target: Array, t: Array) -> Array:
        """Bits of the step down from t: KL(posterior || model), or at the first step -log2 p(x) in bins of 2 / 255."""
        noise, x = jnp.split(target, 2, -1)
        t = jnp.maximum(align(t, noise), 1 / self.steps)
        predicted = jax.lax.stop_gradient(prediction[..., : noise.shape[-1]])
        beta, lowest = self._variances(t)
        error = beta / jnp.sqrt((1 - beta) * self.schedule(t)[1] ** 2) * (noise - predicted)  # of the mean
        f = _fraction(prediction)
        log_variance = f * jnp.log(beta) + (1 - f) * jnp.log(lowest)
        gap = log_variance - jnp.log(lowest)
        kl = (gap - 1 + jnp.exp(-gap) + jnp.square(error) * jnp.exp(-log_variance)) / 2
        first = t < 1.5 / self.steps
        return jnp.where(first, -_log_bin(x, x + error, jnp.exp(log_variance / 2)), kl) / jnp.log(2.0)

    def _variances(self, t: Array) -> tuple[Array, Array]:
        """(beta, posterior variance) of the step down from t; the first step borrows the posterior of the second."""

        def step(t: Array) -> tuple[Array, Array]:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = self.schedule(t), self.schedule(t - 1 / self.steps)
            beta = 1 - (alpha_t / alpha_s) ** 2
            return beta, beta * (sigma_s / sigma_t) ** 2

        return step(t)[0], step(jnp.maximum(t, 2 / self.steps))[1]


def ddpm() -> DDPM:
    """DDPM's process, as a config names it: the paper leaves nothing open."""
    return DDPM()


PROCESSES: dict[str, Callable[..., Gaussian]] = {"gaussian": Gaussian, "ddpm": ddpm}


def _fraction(prediction: Array) -> Array:
    """f of the learned variance, from the second half of the channels."""
    return (jnp.split(prediction, 2, -1)[1] + 1) / 2


def _log_bin(x: Array, mean: Array, std: Array) -> Array:
    """Log probability of the bin of width 2 / 255 around x, the outermost bins reaching to infinity (Ho et al. 2020,
    eq. 13)."""
    upper = jax.scipy.stats.norm.cdf((x + 1 / 255 - mean) / std)
    lower = jax.scipy.stats.norm.cdf((x - 1 / 255 - mean) / std)
    inside = jnp.where(x > 0.999, 1.0, upper) - jnp.where(x < -0.999, 0.0, lower)
    return jnp.log(jnp.maximum(inside, 1e-12))
