"""MeanFlow: one network for steps of any length, one step included (Geng et al. 2025, arXiv 2505.13447).

The network predicts the mean velocity u(z, r, t) = (z_t - z_r) / (t - r) along the flow. Differentiating
(t - r) u = int_r^t v by t gives (eq. 6)

    u + (t - r) du/dt = v,        du/dt the total derivative along dz/dt = v, with r fixed.

The span t - r is one more stream, a condition, which is 0 where it is absent. There u is the velocity: other solvers,
guidance, likelihood and encoding work on such a network as they do on any.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import gaussian
from dit_jax.diffusion.derivatives import jvp
from dit_jax.diffusion.process import Process
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.solver import Solver, continuous, stateless, step_discrete
from dit_jax.diffusion.stream import Arrays, Levels, Predict, Processes, Streams, corrupt, drawable

SPAN = "span"  # the name of its stream


@dataclasses.dataclass(frozen=True)
class Span(Process):
    """The condition t - r: a number in [0, 1] that is never noised, and 0 where it is absent."""

    in_data = False

    def prior(self, keys: Array, shape: tuple[int, ...]) -> Array:
        return jnp.zeros((keys.shape[0], *shape), self.dtype)

    def corrupt(self, keys: Array, x: Array, t: Array) -> tuple[Array, Array]:
        return x, x


def meanflow_losses(
    predict: Predict,
    streams: Streams,
    keys: Array,
    batch: Arrays,
    t: Levels,
    tangent: str = "own",
    power: float = 1.0,
) -> dict[str, Array]:
    """The MeanFlow loss of every example, {name: [B]}, of the one Gaussian stream that is drawn, its span being t[SPAN]
    of its level.

    tangent: dz/dt in the total derivative is that of the example ("given", MeanFlow) or the network's own velocity
    ("own", improved MeanFlow, arXiv 2512.02012). power: gradients are those of losses divided by this power of
    themselves, held fixed (eq. 22); their values are the errors as they are. Raises ValueError for a stream that does
    not predict the velocity: of another prediction, the mean velocity is infinite at one end.
    """
    [(name, process)] = continuous({name: stream.process for name, stream in drawable(streams).items()}).items()
    if not process.predicts(gaussian.velocity):
        raise ValueError(f"{name} should predict the velocity, of which a mean velocity is a mean")
    span = t[SPAN] * t[name]
    noised, targets = corrupt(streams, keys, {**batch, SPAN: span}, t)
    velocity = process.flow(noised[name], targets[name], t[name])

    def mean_velocity(z: Array, level: Array, span: Array) -> Array:
        prediction = predict({**noised, name: z, SPAN: span}, {**t, name: level})[name]
        return process.flow(z, prediction, level)

    own = tangent == "own"
    along = mean_velocity(noised[name], t[name], jnp.zeros_like(span)) if own else velocity
    implied = instantaneous(mean_velocity, noised[name], t[name], span, jax.lax.stop_gradient(along))
    error = jnp.square(implied - velocity)
    loss = jnp.mean(error, axis=range(1, error.ndim))
    divided = loss / jax.lax.stop_gradient(loss + 0.01) ** power
    return {name: divided + jax.lax.stop_gradient(loss - divided)}


def instantaneous(mean_velocity: Callable, z: Array, t: Array, span: Array, tangent: Array) -> Array:
    """u + (t - r) du/dt, the velocity that a mean velocity u(z, t, span) implies; du/dt is held fixed."""
    ones = jnp.ones_like(t)
    u, slope = jvp(mean_velocity, (z, t, span), (tangent, ones, ones))
    return u + align(span, z) * jax.lax.stop_gradient(slope)


def meanflow() -> Solver:
    """MeanFlow's step z_s = z_t - (t - s) u, for a network that predicts the mean velocity u from t to s: exact in one
    step."""

    def step(predict: Predict, processes: Processes, keys: Array, x: Arrays, t: Levels, s: Levels) -> Arrays:
        flows = continuous(processes)
        drops = [(t[name] - s[name]).reshape(keys.shape[0], -1) for name in flows]
        span = jnp.max(jnp.concatenate(drops, axis=1), axis=1)
        predictions = predict({**x, SPAN: span}, t)
        moved = step_discrete(processes, keys, x, predictions, t, s)
        for name, process in flows.items():
            z, drop = x[name], align(t[name] - s[name], x[name])
            moved[name] = z - jnp.where(drop > 0, drop * process.flow(z, predictions[name], t[name]), 0.0)
        return moved

    return stateless(step)
