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

import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.keys import stream_id
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.objective import Predict, Sample
from dit_jax.diffusion.schedules import align, derivative

Processes = dict[str, Gaussian | Masked]


class Solver(NamedTuple):
    init: Callable[[Sample, Sample], Any]
    step: Callable[[Predict, Processes, Array, Sample, Sample, Sample, Any], tuple[Sample, Any]]


def exponential(order: int = 1, eta: float = 0.0) -> Solver:
    """Multistep steps that are exact in the linear part, in lambda = log(alpha / sigma), with h = lambda_s - lambda_t:

        z_s = (sigma_s / sigma_t) e^{-eta^2 h} z_t + alpha_s int_0^h a e^{-a (h - u)} x(u) du
              + sigma_s sqrt(1 - e^{-2 eta^2 h}) noise,      a = 1 + eta^2,

    where x(u) is the clean prediction now (order 1), or the line through it and the last one (order 2). Rows of this
    family: DDIM (1, 0), which is Euler for rectified flow; ancestral DDPM (1, 1); DPM-Solver++ 2M (2, 0) and its SDE
    form (2, 1) (Lu et al. 2022). The first step and the step to sigma = 0 are of order 1: a line needs two points, and
    cannot be followed to lambda = infinity.
    """
    a = 1 + eta**2

    def init(x: Sample, t: Sample):
        """No past yet: a clean value infinitely far away, so that no line leans on it."""
        return {name: (jnp.zeros(z.shape), jnp.full(align(t[name], z).shape, jnp.inf)) for name, z in x.items()}

    def move(process: Gaussian, keys: Array, z: Array, prediction: Array, t: Array, s: Array, past):
        last_clean, last_h = past
        clean, _ = process.split(z, prediction, t)
        t, s = align(t, z), align(s, z)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)
        decay = alpha_t * sigma_s / (sigma_t * alpha_s)  # e^{-h}, finite at both ends
        h = -jnp.log(decay)
        moved = sigma_s / sigma_t * decay ** (eta**2) * z + alpha_s * (1 - decay**a) * clean
        if order == 2:
            lean = jnp.where(jnp.isfinite(h) & jnp.isfinite(last_h), (h - (1 - decay**a) / a) / last_h, 0.0)
            moved += alpha_s * lean * (clean - last_clean)
        if eta > 0:
            moved += sigma_s * jnp.sqrt(1 - decay ** (2 * eta**2)) * rng.normal(keys, z.shape[1:])
        waits = t == s
        return jnp.where(waits, z, moved), (jnp.where(waits, last_clean, clean), jnp.where(waits, last_h, h))

    def step(predict: Predict, processes: Processes, keys: Array, x: Sample, t: Sample, s: Sample, memory):
        prediction = predict(x, t)
        moved, memory = _reveal(processes, keys, x, prediction, t, s), dict(memory)
        for name, process in _gaussians(processes):
            here = rng.fold(keys, stream_id(name)), x[name], prediction[name], t[name], s[name]
            moved[name], memory[name] = move(process, *here, memory[name])
        return moved, memory

    return Solver(init, step)


def heun() -> Solver:
    """The trapezoidal rule on dz/dt, two evaluations a step; the last one is Euler's (Karras et al. 2022, alg. 1)."""

    def init(x: Sample, t: Sample):
        return {}

    def slope(process: Gaussian, z: Array, prediction: Array, t: Array) -> Array:
        clean, noise = process.split(z, prediction, t)
        d_alpha, d_sigma = derivative(process.schedule, align(t, z))
        return d_alpha * clean + d_sigma * noise

    def walk(z: Array, slope: Array, t: Array, s: Array) -> Array:
        t, s = align(t, z), align(s, z)
        return jnp.where(t == s, z, z + (s - t) * slope)

    def step(predict: Predict, processes: Processes, keys: Array, x: Sample, t: Sample, s: Sample, memory):
        first = predict(x, t)
        moved = _reveal(processes, keys, x, first, t, s)
        starts = {name: slope(process, x[name], first[name], t[name]) for name, process in _gaussians(processes)}
        euler = {name: walk(x[name], start, t[name], s[name]) for name, start in starts.items()}
        second = predict({**x, **moved, **euler}, {**t, **s})
        for name, process in _gaussians(processes):
            end = slope(process, euler[name], second[name], s[name])
            trapezoid = walk(x[name], (starts[name] + end) / 2, t[name], s[name])
            moved[name] = jnp.where(align(s[name], x[name]) > 0, trapezoid, euler[name])
        return moved, memory

    return Solver(init, step)


SOLVERS = {
    "ddim": exponential(order=1),
    "ancestral": exponential(order=1, eta=1.0),
    "2m": exponential(order=2),
    "sde_2m": exponential(order=2, eta=1.0),
    "heun": heun(),
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
