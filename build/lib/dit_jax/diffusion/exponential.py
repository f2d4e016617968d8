"""Exponential multistep solvers: DDIM, ancestral DDPM, DPM-Solver++ 2M and 3M with their SDE forms, and UniPC.

All are one family, exact in the linear part, in lambda = log(alpha / sigma). From t to s, with h = lambda_s - lambda_t,

    z_s = (sigma_s / sigma_t) e^{-eta^2 h} z_t + alpha_s int_0^h a e^{-a (h - u)} x(u) du
          + sigma_s sqrt(1 - e^{-2 eta^2 h}) noise,      a = 1 + eta^2,

where x(u) is the polynomial through the last `order` predictions of x0 (Lu et al. 2022). Nothing here forms lambda,
which is infinite at both ends, but only differences of it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.keys import stream_id
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.solver import Solver, continuous, step_discrete
from dit_jax.diffusion.stream import Arrays, Levels, Predict, Processes


class History(NamedTuple):
    """What is kept of a stream's former steps."""

    base: Array  # the last step's result without its integral
    x0s: tuple[Array, ...]  # predictions of the clean value, newest first
    lags: tuple[Array, ...]  # how much lower in lambda each was made; infinite where there is none


def exponential(order: int = 1, eta: float = 0.0, corrector: int = 0) -> Solver:
    """Multistep steps through the last `order` predictions, 1 to 3, with eta^2 of the noise of an ancestral step.

    With a `corrector` of 2 or 3, the next evaluation, which is due anyway, first corrects the step before: the
    polynomial now goes through the new prediction as well, `corrector` points in all. Rows of this family: DDIM (1, 0),
    which is Euler for rectified flow; ancestral DDPM (1, 1); DPM-Solver++ 2M and 3M (2 or 3, 0) and SDE-2M (2, 1) (Lu
    et al. 2022); UniPC (2, 0, 3) (Zhao et al. 2023). The first steps and the step to sigma = 0 are of lower order: a
    polynomial needs its points, and cannot be followed to lambda = infinity. 3M is of third order because its first
    step is corrected, corrector or none.
    """
    a = 1 + eta**2
    points = corrector or (3 if order == 3 else 0)
    kept = 2 if points else 1

    def init(x: Arrays, t: Levels) -> dict[str, History]:
        def empty(z: Array, t: Array) -> History:
            none = jnp.full(align(t, z).shape, jnp.inf)
            return History(jnp.zeros(z.shape), (jnp.zeros(z.shape),) * kept, (none,) * kept)

        return {name: empty(z, t[name]) for name, z in x.items()}

    def move(
        process: Gaussian, keys: Array, z: Array, prediction: Array, t: Array, s: Array, history: History
    ) -> tuple[Array, History]:
        x0, _ = process.split(z, prediction, t)
        t, s = align(t, z), align(s, z)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = process.schedule(t), process.schedule(s)
        start = _corrected(alpha_t, z, x0, history, points, corrector > 0, a) if points else z

        decay = alpha_t * sigma_s / (sigma_t * alpha_s)  # e^{-h}, finite at both ends
        h = -jnp.log(decay)
        base = sigma_s / sigma_t * decay ** (eta**2) * start
        if eta > 0:
            std = sigma_s * jnp.sqrt(1 - decay ** (2 * eta**2)) * process.spread(prediction, sigma_t / sigma_s)
            base += jnp.where(sigma_s > 0, std, 0.0) * rng.normal(keys, z.shape[1:])
        nodes = tuple(-lag for lag in history.lags[: order - 1])
        moved = base + alpha_s * _integral((x0, *history.x0s)[:order], nodes, h, a)

        lags = (h, *(lag + h for lag in history.lags[:-1]))
        longer = History(base, (x0, *history.x0s[:-1]), lags)
        is_waiting = t == s
        stay = lambda old, new: jnp.where(is_waiting, old, new)
        return stay(z, moved), jax.tree.map(stay, history, longer)

    def step(
        predict: Predict, processes: Processes, keys: Array, x: Arrays, t: Levels, s: Levels, state: dict[str, History]
    ) -> tuple[Arrays, dict[str, History]]:
        predictions = predict(x, t)
        moved, state = step_discrete(processes, keys, x, predictions, t, s), dict(state)
        for name, process in continuous(processes).items():
            own = rng.fold(keys, stream_id(name)), x[name], predictions[name], t[name], s[name]
            moved[name], state[name] = move(process, *own, state[name])
        return moved, state

    return Solver(init, step, is_stochastic=eta > 0)


def _corrected(alpha_t: Array, z: Array, x0: Array, history: History, points: int, always: bool, a: float) -> Array:
    """z_t, the result of the last step, as it would have been with the new prediction x0 known: after every step, or
    only after the first."""
    lag, second_lag = history.lags[:2]
    nodes, values = (lag, lag - second_lag), (history.x0s[0], x0, history.x0s[1])
    again = history.base + alpha_t * _integral(values[:points], nodes[: points - 1], lag, a)
    return jnp.where(jnp.isfinite(lag) & (jnp.isinf(second_lag) | always), again, z)


def _integral(values: tuple[Array, ...], nodes: tuple[Array, ...], h: Array, a: float) -> Array:
    """int_0^h a e^{-a (h - u)} x(u) du, where x is the polynomial with values[0] at u = 0 and the others at `nodes`.

    It is in Newton's form, whose terms are zero where a node, or h, is infinite.
    """
    flat = 1 - jnp.exp(-a * h)
    linear = h - flat / a
    total = flat * values[0]
    if len(values) > 1:
        slope = _ratio(values[1] - values[0], nodes[0])
        total += jnp.where(jnp.isfinite(h), linear, 0.0) * slope
    if len(values) > 2:
        bend = _ratio(_ratio(values[2] - values[1], nodes[1] - nodes[0]) - slope, nodes[1])
        square = h**2 - 2 / a * linear - nodes[0] * linear
        total += jnp.where(jnp.isfinite(square), square, 0.0) * bend
    return total


def _ratio(change: Array, distance: Array) -> Array:
    finite = jnp.isfinite(distance)
    return jnp.where(finite, change / jnp.where(finite, distance, 1.0), 0.0)
