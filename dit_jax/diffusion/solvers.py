"""Solvers: how a sample moves from levels t to lower levels s.

A solver is a pair of functions over the whole dict of streams, so that several evaluations or a memory of past ones are
nothing special:

    init(x, t)                                         -> memory
    step(predict, processes, keys, x, t, s, memory)    -> (x, memory)

x is the full sample; `processes` names the streams that move, and only their entries are returned. A stream whose level
stays where it is keeps its value and its memory: it waits for the others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.keys import stream_id
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.objective import Predict, Sample
from dit_jax.diffusion.schedules import align, level_at
from dit_jax.diffusion.span import SPAN
from dit_jax.diffusion.stream import Processes


class Solver(NamedTuple):
    init: Callable[[Sample, Sample], Any]
    step: Callable[[Predict, Processes, Array, Sample, Sample, Sample, Any], tuple[Sample, Any]]


class Past(NamedTuple):
    """What `exponential` remembers of a stream: where the last step began, and the clean predictions so far."""

    base: Array  # the last step's result without its integral
    cleans: tuple[Array, ...]  # newest first
    ages: tuple[Array, ...]  # how much lower in lambda each was made; infinite where there is none


def exponential(order: int = 1, eta: float = 0.0, corrector: int = 0) -> Solver:
    """Multistep steps that are exact in the linear part, in lambda = log(alpha / sigma), with h = lambda_s - lambda_t:

        z_s = (sigma_s / sigma_t) e^{-eta^2 h} z_t + alpha_s int_0^h a e^{-a (h - u)} x(u) du
              + sigma_s sqrt(1 - e^{-2 eta^2 h}) noise,      a = 1 + eta^2,

    where x(u) is the polynomial through the last `order` clean predictions, 1 to 3. With a `corrector` of 2 or 3, the
    next evaluation, which is due anyway, first amends the step: the polynomial now goes through the new prediction as
    well, `corrector` points in all. Rows of this family: DDIM (1, 0), which is Euler for rectified flow; ancestral
    DDPM (1, 1); DPM-Solver++ 2M and 3M (2 or 3, 0) and SDE-2M (2, 1) (Lu et al. 2022); UniPC (2, 0, 3) (Zhao et al.
    2023). The first steps and the step to sigma = 0 are of lower order: a polynomial needs its points, and cannot be
    followed to lambda = infinity. 3M is of third order because its first step is amended, corrector or none.
    """
    a = 1 + eta**2
    points = corrector or (3 if order == 3 else 0)
    kept = 2 if points else 1

    def init(x: Sample, t: Sample):
        def past(z: Array, t: Array) -> Past:
            none = jnp.full(align(t, z).shape, jnp.inf)
            return Past(jnp.zeros(z.shape), (jnp.zeros(z.shape),) * kept, (none,) * kept)

        return {name: past(z, t[name]) for name, z in x.items()}

    def move(process: Gaussian, keys: Array, z: Array, prediction: Array, t: Array, s: Array, past: Past):
        clean, _ = process.split(z, prediction, t)
        t, s = align(t, z), align(s, z)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)
        start = z
        if points:
            last, before = past.ages[:2]
            places, values = (last, last - before), (past.cleans[0], clean, past.cleans[1])
            amended = past.base + alpha_t * _integral(values[:points], places[: points - 1], last, a)
            start = jnp.where(jnp.isfinite(last) & (jnp.isinf(before) | (corrector > 0)), amended, z)
        decay = alpha_t * sigma_s / (sigma_t * alpha_s)  # e^{-h}, finite at both ends
        h = -jnp.log(decay)
        base = sigma_s / sigma_t * decay ** (eta**2) * start
        if eta > 0:
            std = sigma_s * jnp.sqrt(1 - decay ** (2 * eta**2)) * process.spread(prediction, sigma_t / sigma_s)
            base += jnp.where(sigma_s > 0, std, 0.0) * rng.normal(keys, z.shape[1:])
        behind = tuple(-age for age in past.ages[: order - 1])
        moved = base + alpha_s * _integral((clean, *past.cleans)[:order], behind, h, a)
        ages = (h, *(age + h for age in past.ages[:-1]))
        now = Past(base, (clean, *past.cleans[:-1]), ages)
        waits = t == s
        stay = lambda old, new: jnp.where(waits, old, new)
        return stay(z, moved), jax.tree.map(stay, past, now)

    def step(predict: Predict, processes: Processes, keys: Array, x: Sample, t: Sample, s: Sample, memory):
        prediction = predict(x, t)
        moved, memory = _reveal(processes, keys, x, prediction, t, s), dict(memory)
        for name, process in _gaussians(processes):
            here = rng.fold(keys, stream_id(name)), x[name], prediction[name], t[name], s[name]
            moved[name], memory[name] = move(process, *here, memory[name])
        return moved, memory

    return Solver(init, step)


def _integral(values: tuple[Array, ...], places: tuple[Array, ...], h: Array, a: float) -> Array:
    """int_0^h a e^{-a (h - u)} x(u) du, where x is the polynomial with values[0] at u = 0 and the others at `places`.

    It is in Newton's form, whose terms are zero where a place, or h, is infinite.
    """
    flat = 1 - jnp.exp(-a * h)
    linear = h - flat / a
    total = flat * values[0]
    if len(values) > 1:
        slope = _ratio(values[1] - values[0], places[0])
        total += jnp.where(jnp.isfinite(h), linear, 0.0) * slope
    if len(values) > 2:
        bend = _ratio(_ratio(values[2] - values[1], places[1] - places[0]) - slope, places[1])
        square = h**2 - 2 / a * linear - places[0] * linear
        total += jnp.where(jnp.isfinite(square), square, 0.0) * bend
    return total


def _ratio(change: Array, distance: Array) -> Array:
    finite = jnp.isfinite(distance)
    return jnp.where(finite, change / jnp.where(finite, distance, 1.0), 0.0)


def heun(churn: float = 0.0, band: tuple[float, float] = (0.05, 50.0), inflate: float = 1.003) -> Solver:
    """The trapezoidal rule on dz/dt, two evaluations a step, and the clean value in the last step (Karras et al. 2022).

    Where sigma / alpha lies in the band, `churn` first raises it by that fraction with new noise: EDM's algorithm 2,
    churn = min(S_churn / steps, sqrt 2 - 1), band = (S_min, S_max), inflate = S_noise.
    """
    low, high = band

    def init(x: Sample, t: Sample):
        return {}

    def raised(process: Gaussian, t: Array, s: Array) -> Array:
        alpha, sigma = process.schedule(t)
        inside = (low * alpha <= sigma) & (sigma <= high * alpha) & (t != s)
        return jnp.where(inside, level_at(process.schedule, jnp.log(alpha / sigma) - jnp.log(1 + churn)), t)

    def noised(process: Gaussian, keys: Array, z: Array, t: Array, up: Array) -> Array:
        (alpha, sigma), (alpha_up, sigma_up) = process.schedule(align(t, z)), process.schedule(align(up, z))
        kept = alpha_up / alpha
        added = jnp.sqrt(jnp.maximum(sigma_up**2 - (kept * sigma) ** 2, 0.0)) * inflate
        return jnp.where(align(t == up, z), z, kept * z + added * rng.normal(keys, z.shape[1:]))

    def walk(z: Array, slope: Array, t: Array, s: Array) -> Array:
        length = align(s - t, z)
        return jnp.where(length == 0, z, z + length * slope)

    def step(predict: Predict, processes: Processes, keys: Array, x: Sample, t: Sample, s: Sample, memory):
        gaussians = _gaussians(processes)
        if churn:
            up = {name: raised(process, t[name], s[name]) for name, process in gaussians}
            stirred = {
                name: noised(process, rng.fold(keys, stream_id(name)), x[name], t[name], up[name])
                for name, process in gaussians
            }
            x, t = {**x, **stirred}, {**t, **up}
        first = predict(x, t)
        moved = _reveal(processes, keys, x, first, t, s)
        starts = {name: process.flow(x[name], first[name], t[name]) for name, process in gaussians}
        euler = {name: walk(x[name], start, t[name], s[name]) for name, start in starts.items()}
        second = predict({**x, **moved, **euler}, {**t, **s})
        for name, process in gaussians:
            z, here, below = x[name], t[name], s[name]
            slope = (starts[name] + process.flow(euler[name], second[name], below)) / 2
            last = align((below == 0) & (here > 0), z)
            clean, _ = process.split(z, first[name], here)
            moved[name] = jnp.where(last, clean, walk(z, slope, here, below))
        return moved, memory

    return Solver(init, step)


def euler_maruyama() -> Solver:
    """Euler's steps on dz = (velocity + noise) dt + sqrt(2 sigma) dW, and the mean of the last one.

    It is SiT's sampler (Ma et al. 2024), with the diffusion coefficient sigma, which no end of the path makes infinite.
    """

    def init(x: Sample, t: Sample):
        return {}

    def move(process: Gaussian, keys: Array, z: Array, prediction: Array, t: Array, s: Array) -> Array:
        drift = process.flow(z, prediction, t) + process.split(z, prediction, t)[1]
        t, s = align(t, z), align(s, z)
        scale = jnp.where(s > 0, jnp.sqrt(2 * process.schedule(t)[1] * (t - s)), 0.0)
        return jnp.where(t == s, z, z + (s - t) * drift + scale * rng.normal(keys, z.shape[1:]))

    def step(predict: Predict, processes: Processes, keys: Array, x: Sample, t: Sample, s: Sample, memory):
        prediction = predict(x, t)
        moved = _reveal(processes, keys, x, prediction, t, s)
        for name, process in _gaussians(processes):
            here = rng.fold(keys, stream_id(name)), x[name], prediction[name], t[name], s[name]
            moved[name] = move(process, *here)
        return moved, memory

    return Solver(init, step)


def meanflow() -> Solver:
    """z_s = z_t - (t - s) u, for a network that predicts the mean velocity u from t to s: exact in one step (see
    meanflow.py)."""

    def init(x: Sample, t: Sample):
        return {}

    def step(predict: Predict, processes: Processes, keys: Array, x: Sample, t: Sample, s: Sample, memory):
        gaussians = _gaussians(processes)
        drops = [(t[name] - s[name]).reshape(len(keys), -1) for name, _ in gaussians]
        span = jnp.max(jnp.concatenate(drops, axis=1), axis=1)
        prediction = predict({**x, SPAN: span}, t)
        moved = _reveal(processes, keys, x, prediction, t, s)
        for name, process in gaussians:
            z, drop = x[name], align(t[name] - s[name], x[name])
            moved[name] = z - jnp.where(drop > 0, drop * process.flow(z, prediction[name], t[name]), 0.0)
        return moved, memory

    return Solver(init, step)


SOLVERS = {
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


def _gaussians(processes: Processes) -> list[tuple[str, Gaussian]]:
    return [(name, process) for name, process in processes.items() if isinstance(process, Gaussian)]


def _reveal(processes: Processes, keys: Array, x: Sample, prediction: Sample, t: Sample, s: Sample) -> Sample:
    """Masked streams move the same way under every solver."""
    return {
        name: process.move(rng.fold(keys, stream_id(name)), x[name], prediction[name], t[name], s[name])
        for name, process in processes.items()
        if isinstance(process, Masked)
    }
