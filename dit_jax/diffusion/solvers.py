"""The solvers that a sampler can take: Heun's, Euler-Maruyama's, and the table of all."""

import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.exponential import exponential
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.keys import stream_id
from dit_jax.diffusion.meanflow import meanflow
from dit_jax.diffusion.schedules import align, level_at
from dit_jax.diffusion.solver import Solver, continuous, stateless, step_discrete
from dit_jax.diffusion.stream import Arrays, Levels, Predict, Processes


def euler(z: Array, slope: Array, t: Array, s: Array) -> Array:
    """Euler's step on dz/dt = slope, from levels t to s [B] or [B, G]. What does not move may have no finite slope."""
    length = align(s - t, z)
    return jnp.where(length == 0, z, z + length * slope)


def heun(churn: float = 0.0, band: tuple[float, float] = (0.05, 50.0), inflate: float = 1.003) -> Solver:
    """Heun's method, the trapezoidal rule on dz/dt: two evaluations a step, and the predicted x0 in the last step
    (Karras et al. 2022).

    Where sigma / alpha lies in the band, `churn` first raises it by that fraction with new noise: EDM's algorithm 2,
    churn = min(S_churn / steps, sqrt 2 - 1), band = (S_min, S_max), inflate = S_noise.
    """
    low, high = band

    def raised(process: Gaussian, t: Array, s: Array) -> Array:
        alpha, sigma = process.schedule(t)
        inside = (low * alpha <= sigma) & (sigma <= high * alpha) & (t != s)
        return jnp.where(inside, level_at(process.schedule, jnp.log(alpha / sigma) - jnp.log(1 + churn)), t)

    def noised(process: Gaussian, keys: Array, z: Array, t: Array, up: Array) -> Array:
        (alpha, sigma), (alpha_up, sigma_up) = process.schedule(align(t, z)), process.schedule(align(up, z))
        kept = alpha_up / alpha
        added = jnp.sqrt(jnp.maximum(sigma_up**2 - (kept * sigma) ** 2, 0.0)) * inflate
        return jnp.where(align(t == up, z), z, kept * z + added * rng.normal(keys, z.shape[1:]))

    def step(predict: Predict, processes: Processes, keys: Array, x: Arrays, t: Levels, s: Levels) -> Arrays:
        flows = continuous(processes)
        if churn:
            up = {name: raised(process, t[name], s[name]) for name, process in flows.items()}
            churned = {
                name: noised(process, rng.fold(keys, stream_id(name)), x[name], t[name], up[name])
                for name, process in flows.items()
            }
            x, t = {**x, **churned}, {**t, **up}

        first = predict(x, t)
        moved = step_discrete(processes, keys, x, first, t, s)
        slopes = {name: process.flow(x[name], first[name], t[name]) for name, process in flows.items()}
        ends = {name: euler(x[name], slope, t[name], s[name]) for name, slope in slopes.items()}

        second = predict({**x, **moved, **ends}, {**t, **s})
        for name, process in flows.items():
            z, level, lower = x[name], t[name], s[name]
            slope = (slopes[name] + process.flow(ends[name], second[name], lower)) / 2
            is_last = align((lower == 0) & (level > 0), z)
            x0, _ = process.split(z, first[name], level)
            moved[name] = jnp.where(is_last, x0, euler(z, slope, level, lower))
        return moved

    return stateless(step, is_stochastic=churn > 0)


def euler_maruyama() -> Solver:
    """Euler-Maruyama steps on dz = (velocity + noise) dt + sqrt(2 sigma) dW, and the mean of the last one.

    It is SiT's sampler (Ma et al. 2024), with the diffusion coefficient sigma, which no end of the path makes infinite.
    """

    def move(process: Gaussian, keys: Array, z: Array, prediction: Array, t: Array, s: Array) -> Array:
        drift = process.flow(z, prediction, t) + process.split(z, prediction, t)[1]
        t, s = align(t, z), align(s, z)
        scale = jnp.where(s > 0, jnp.sqrt(2 * process.schedule(t)[1] * (t - s)), 0.0)
        return jnp.where(t == s, z, z + (s - t) * drift + scale * rng.normal(keys, z.shape[1:]))

    def step(predict: Predict, processes: Processes, keys: Array, x: Arrays, t: Levels, s: Levels) -> Arrays:
        predictions = predict(x, t)
        moved = step_discrete(processes, keys, x, predictions, t, s)
        for name, process in continuous(processes).items():
            own = rng.fold(keys, stream_id(name)), x[name], predictions[name], t[name], s[name]
            moved[name] = move(process, *own)
        return moved

    return stateless(step, is_stochastic=True)


SOLVERS: dict[str, Solver] = {
    "ddim": exponential(order=1),
    "ancestral": exponential(order=1, eta=1.0),
    "2m": exponential(order=2),
    "3m": exponential(order=3),
    "unipc": exponential(order=2, corrector=3),
    "sde_2m": exponential(order=2, eta=1.0),
    "heun": heun(),
    "heun_churn": heun(churn=40 / 256),  # EDM's for ImageNet-64
    "euler_maruyama": euler_maruyama(),
    "meanflow": meanflow(),
}
