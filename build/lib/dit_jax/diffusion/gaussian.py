"""The Gaussian process: z = alpha x + sigma noise.

Whatever a network predicts for it is a line p x + q noise through the clean value and the noise:

    prediction    p              q
    x             1              0
    noise         0              1
    v             -sigma         alpha           (Salimans & Ho 2022)
    velocity      d alpha/dt     d sigma/dt      (dz/dt along the path; noise - x for rectified flow)
    edm           sigma / (d s)  -alpha d / s    (Karras et al. 2022, table 1; s^2 = sigma^2 + alpha^2 d^2)

z is a line too, so (z, prediction) determine (x, noise) by one 2 x 2 solve, whose determinant is

    det = alpha q - sigma p.

A prediction error e moves the solution along (sigma, -alpha) only, since z is known. Hence the same error, seen in
another prediction, is e' = e det' / det: every loss of one prediction in the space of another is a weight, not a
conversion.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.process import Process
from dit_jax.diffusion.schedules import SCHEDULES, Schedule, align, derivative, log_snr, rectified
from dit_jax.schema import Range, check_fields

Line = Callable[[Schedule, Array], tuple[Array, Array]]
TimeInput = Callable[[Schedule, Array], Array]


def x(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """The clean value."""
    return jnp.ones_like(t), jnp.zeros_like(t)


def noise(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """The noise, epsilon of DDPM."""
    return jnp.zeros_like(t), jnp.ones_like(t)


def v(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """alpha noise - sigma x."""
    alpha, sigma = schedule(t)
    return -sigma, alpha


def velocity(schedule: Schedule, t: Array) -> tuple[Array, Array]:
    """dz/dt."""
    return derivative(schedule, t)


def edm(data_std: float = 0.5) -> Line:
    """EDM's preconditioned network: (D - c_skip z') / c_out, with z' = z / alpha at EDM's sigma = sigma / alpha.

    Its loss, in its own space, weighs every level alike; at data_std = 1 and unit variance it is -v.
    """

    def line(schedule: Schedule, t: Array) -> tuple[Array, Array]:
        alpha, sigma = schedule(t)
        total = jnp.sqrt(sigma**2 + alpha**2 * data_std**2)
        return sigma / (data_std * total), -alpha * data_std / total

    return line


PREDICTIONS: dict[str, Line] = {"x": x, "noise": noise, "v": v, "velocity": velocity, "edm": edm()}


def t_1000(schedule: Schedule, t: Array) -> Array:
    """1000 t."""
    return 1000.0 * t


def timestep(schedule: Schedule, t: Array) -> Array:
    """DDPM's and DiT's timestep, which is 0 after one step of noise and 999 after a thousand."""
    return 1000.0 * t - 1


def one_minus_t(schedule: Schedule, t: Array) -> Array:
    """SiT's time, which runs from noise at 0 to data at 1."""
    return 1 - t


def c_noise(schedule: Schedule, t: Array) -> Array:
    """EDM's c_noise = log(sigma / alpha) / 4, within bounds."""
    return jnp.clip(-log_snr(schedule, t) / 4, -5.0, 5.0)


# What the timestep embedding is fed. The last three are the former names, which configs may have.
TIME_INPUTS: dict[str, TimeInput] = {
    "t_1000": t_1000,
    "timestep": timestep,
    "one_minus_t": one_minus_t,
    "c_noise": c_noise,
    "thousandth": t_1000,
    "reversed_unit": one_minus_t,
    "quarter_log": c_noise,
}


@dataclasses.dataclass(frozen=True)
class Gaussian(Process):
    """Gaussian diffusion or flow matching, z = alpha x + sigma noise: the process of a real-valued stream.

    schedule: t -> (alpha, sigma). prediction: what the network returns. loss_in: the prediction in whose space the
    squared error is taken. clamp: that error counts at most 1/clamp times the network's own (x-prediction with
    velocity loss divides by max(t, 0.05), as in JiT, arXiv 2511.13720). clock: what the timestep embedding is fed.
    outputs: values that the network returns for each channel, one after the other; the prediction is the first of them,
    and a plain Gaussian has no use for more, which published SiT weights have.

    Rows of SCHEDULES, PREDICTIONS and TIME_INPUTS may be given by their names. Raises ConfigError for a name that does
    not exist, and for a number out of range.
    """

    schedule: Annotated[Schedule, SCHEDULES] = rectified
    prediction: Annotated[Line, PREDICTIONS] = x
    loss_in: Annotated[Line, PREDICTIONS] = velocity
    clamp: Annotated[float, Range(above=0)] = 0.05
    clock: Annotated[TimeInput, TIME_INPUTS] = t_1000
    outputs: Annotated[int, Range(at_least=1)] = 1

    is_continuous = True

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def top(self) -> float:  # type: ignore[override]
        """The highest level a sampler may start from: 1, or just below where the prediction says nothing about x."""
        with jax.ensure_compile_time_eval():  # a number, also while a sampler is being traced
            det = float(self._determinant(self.prediction, jnp.ones(())))
        return 1.0 if abs(det) > 1e-6 else 0.999

    def time_input(self, t: Array) -> Array:
        """What the timestep embedding is fed for the levels t, of the same shape."""
        return self.clock(self.schedule, t)

    def prior(self, keys: Array, shape: tuple[int, ...]) -> Array:
        """The stream at t = 1: keys [B] -> [B, *shape]."""
        return rng.normal(keys, shape)

    def corrupt(self, keys: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """x [B, ...] at levels t -> (z, target): the noised value, and what the network should say about it.

        Nothing is asked at t = 0, where some schedules leave the data infinitely fast: the target is 0.
        """
        noise = rng.normal(keys, x.shape[1:])
        alpha, sigma = self.schedule(align(t, x))
        return alpha * x + sigma * noise, jnp.where(align(t, x) > 0, self.join(x, noise, t), 0.0)

    def join(self, x: Array, noise: Array, t: Array) -> Array:
        """The prediction that says so."""
        p, q = self.prediction(self.schedule, align(t, x))
        return p * x + q * noise

    def split(self, z: Array, prediction: Array, t: Array) -> tuple[Array, Array]:
        """(x, noise) that z and the prediction determine together. Not finite where det = 0."""
        t, prediction = align(t, z), prediction[..., : z.shape[-1]]
        alpha, sigma = self.schedule(t)
        p, q = self.prediction(self.schedule, t)
        det = alpha * q - sigma * p
        return (q * z - sigma * prediction) / det, (alpha * prediction - p * z) / det

    def flow(self, z: Array, prediction: Array, t: Array) -> Array:
        """dz/dt of the probability flow (Song et al. 2021): the velocity of what z and the prediction determine."""
        return dataclasses.replace(self, prediction=velocity).join(*self.split(z, prediction, t), t)

    def level_row(self, grid: Callable, steps: int) -> np.ndarray:
        return grid(self.schedule, steps)

    def check(self, x: Any, masks: bool = False) -> None:
        if not np.all(np.isfinite(x)):
            raise ValueError("holds a value that is not finite")

    def predicts(self, line: Line) -> bool:
        return self.prediction is line

    def spread(self, prediction: Array, ratio: Array) -> Array:
        """Factor on the standard deviation of an ancestral step that takes sigma down by `ratio`: 1, unless learned."""
        return jnp.ones_like(ratio)

    def loss(self, prediction: Array, target: Array, t: Array) -> Array:
        """Mean squared error of each example in the space of `loss_in`, [B]. A value given at t = 0 costs nothing."""
        t, prediction = align(t, target), prediction[..., : target.shape[-1]]
        own = jnp.abs(self._determinant(self.prediction, t))
        wanted = jnp.abs(self._determinant(self.loss_in, t))
        gain = jnp.minimum(wanted / jnp.maximum(own, 1e-12), 1 / self.clamp)
        error = jnp.where(t > 0, gain, 0.0) * (prediction.astype(target.dtype) - target)
        return jnp.mean(jnp.square(error), axis=range(1, error.ndim))

    def _determinant(self, line: Line, t: Array) -> Array:
        alpha, sigma = self.schedule(t)
        p, q = line(self.schedule, t)
        return alpha * q - sigma * p
