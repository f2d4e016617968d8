"""Classifier-free guidance, autoguidance and their variants: functions predict -> predict.

All lead away from a weak prediction: that of a worse network (`autoguidance`), or the unconditional one of the same
network (`classifier_free`). How strong and weak are combined in a Gaussian stream is a row of COMBINE:

    combine      guided                                                                of
    linear       strong + w (strong - weak)                                            any prediction alike
    rescaled     linear, then shrunk towards the standard deviation of strong          what the network predicts
    zero_star    linear, where the multiple of weak nearest to strong stands for weak  velocities
    projected    linear, but strong - weak is bounded and loses its part along strong  clean values

w is the scale less one; norms and deviations are an example's own. Each row is the identity at w = 0, and where weak =
strong, but that zero_star also holds the start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import cast

import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import gaussian
from dit_jax.diffusion.gaussian import Gaussian, Line
from dit_jax.diffusion.process import Process
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.stream import Arrays, Levels, Predict, Processes
from dit_jax.names import check_names

# (predict, {name of a given stream: its prior}, the process of every stream) -> predict
Guidance = Callable[[Predict, Arrays, Processes], Predict]

# How far guidance leads beyond strong: its scale less one (w of Ho & Salimans 2022). A number, or traced.
Weight = float | Array
Excess = Weight | Mapping[str, Weight]

# (process, w, z [B, ..., C], t [B] or [B, G], strong and weak predictions, shaped like z) -> guided, likewise
Combine = Callable[[Gaussian, Weight, Array, Array, Array, Array], Array]

TINY = 1e-12  # a network starts by saying zero, which has no direction


def linear(process: Process, w: Weight, z: Array, t: Array, strong: Array, weak: Array) -> Array:
    """The line from weak at w = -1 through strong at 0 (Ho & Salimans 2022).

    At a fixed z and t every prediction is affine in the others, so it does not matter which one the network makes.
    """
    return strong + w * (strong - weak)


def rescaled(phi: float = 0.7) -> Combine:
    """A fraction phi of the way to the standard deviation of strong (Lin et al. 2023, arXiv 2305.08891, sec. 3.4)."""

    def combine(process: Gaussian, w: Weight, z: Array, t: Array, strong: Array, weak: Array) -> Array:
        guided = linear(process, w, z, t, strong, weak)
        wanted, found = (jnp.std(array, axis=range(1, z.ndim), keepdims=True) for array in (strong, guided))
        return guided * (1 + phi * (wanted / jnp.maximum(found, TINY) - 1))

    return combine


def in_prediction_space(line: Line, combine: Combine) -> Combine:
    """The same rule on predictions of another kind, such as velocities, translated there and back. Not finite where
    either leaves (x, noise) open, as x does at t = 0."""

    def translated(process: Gaussian, w: Weight, z: Array, t: Array, strong: Array, weak: Array) -> Array:
        other = dataclasses.replace(process, prediction=line)
        strong, weak = (other.join(*process.split(z, prediction, t), t) for prediction in (strong, weak))
        return process.join(*other.split(z, combine(other, w, z, t, strong, weak), t), t)

    return translated


def zero_star(hold: float = 0.04) -> Combine:
    """CFG-Zero*: the multiple of weak nearest to strong stands for weak, and where t > 1 - hold nothing moves (Fan et
    al. 2025, arXiv 2503.18886). A solver with a memory would extrapolate from the pause: prefer one without."""

    def combine(process: Gaussian, w: Weight, z: Array, t: Array, strong: Array, weak: Array) -> Array:
        guided = linear(process, w, z, t, strong, _along(strong, weak))
        return jnp.where(align(t, z) > 1 - hold, 0.0, guided)

    return in_prediction_space(gaussian.velocity, combine)


def projected(parallel: float = 0.0, norm: float = 15.0) -> Combine:
    """APG: strong - weak is cut to a norm, and its part along strong, which saturates colours, weighs `parallel` (Sadat
    et al. 2024, arXiv 2410.02416). Without the paper's momentum, which would be a memory."""

    def combine(process: Gaussian, w: Weight, z: Array, t: Array, strong: Array, weak: Array) -> Array:
        gap = strong - weak
        gap *= jnp.minimum(1.0, norm / jnp.maximum(jnp.sqrt(_dot(gap, gap)), TINY))
        return strong + w * (gap + (parallel - 1) * _along(gap, strong))

    return in_prediction_space(gaussian.x, combine)


COMBINE: dict[str, Combine] = {
    "linear": linear,
    "rescaled": rescaled(),
    "zero_star": zero_star(),
    "projected": projected(),
}


def autoguidance(
    weak: Predict,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    combine: Combine = linear,
    channels: int = 0,
) -> Guidance:
    """Away from a worse network that sees the same: smaller, or trained for less long (Karras et al. 2024, arXiv
    2406.02507).

    Outside the interval of levels, ends included, a stream is left as it is (Kynkaanniemi et al. 2024). channels: how
    many of a Gaussian stream's are guided, 0 for all; the published DiT and SiT samplers guide 3 of 4. The others, and
    learned variances, are as strong says. The logits of a masked stream are always combined linearly.
    """
    return autoguided(weak, scale - 1, interval, combine, channels)


def classifier_free(
    scale: float | dict[str, float],
    interval: tuple[float, float] = (0.0, 1.0),
    combine: Combine = linear,
    channels: int = 0,
) -> Guidance:
    """Classifier-free guidance (Ho & Salimans 2022): away from the unconditional prediction; the identity if nothing is
    given.

    Unconditional is: given streams are replaced by a draw from their prior, at t = 1: a label's mask (DiT's null
    class), or noise. Of a stream that is given in part, that part is (history guidance, Song et al. 2025). scale: of
    all that is given, or {name of a given stream: its own}: then each leads away from the prediction without it alone,
    and the corrections are added up. Raises ValueError when it is asked about a stream that does not exist.
    """
    return classifier_freed(excess(scale), interval, combine, channels)


def excess(scale: float | dict[str, float]) -> Excess:
    """w of a guidance scale, or of each stream's."""
    return {name: own - 1 for name, own in scale.items()} if isinstance(scale, dict) else scale - 1


def autoguided(weak: Predict, w: Weight, interval: tuple[float, float], combine: Combine, channels: int) -> Guidance:
    """`autoguidance` by w, the scale less one, which may be traced: then one program serves all scales."""
    return lambda predict, prior, processes: _guide(predict, [(w, weak)], processes, interval, combine, channels)


def classifier_freed(w: Excess, interval: tuple[float, float], combine: Combine, channels: int) -> Guidance:
    """`classifier_free` by w, the scale less one, which may be traced: then one program serves all scales."""

    def guide(predict: Predict, prior: Arrays, processes: Processes) -> Predict:
        if isinstance(w, Mapping):
            check_names(w, processes, "guidance: the stream")
            weak = [(own, unconditional(predict, prior, [name])) for name, own in w.items() if name in prior]
        else:
            weak = [(w, unconditional(predict, prior, list(prior)))] if prior else []
        return _guide(predict, weak, processes, interval, combine, channels) if weak else predict

    return guide


def unconditional(predict: Predict, prior: Arrays, names: list[str]) -> Predict:
    """The unconditional prediction: what is given of the streams `names` is replaced by its prior, at t = 1."""
    predict = named_call(predict, f"without {', '.join(names)}")

    def without(x: Arrays, t: Levels) -> Arrays:
        hidden = {name: jnp.where(align(t[name] == 0, x[name]), prior[name], x[name]) for name in names}
        levels = {name: jnp.where(t[name] == 0, 1.0, t[name]) for name in names}
        return predict({**x, **hidden}, {**t, **levels})

    return without


def named_call(predict: Predict, name: str) -> Predict:
    """The same denoiser under a name, which tells the calls of guidance apart: a KV cache has a slot for each."""
    return getattr(predict, "named_call", lambda name: predict)(name)


def _guide(
    predict: Predict,
    weak: list[tuple[Weight, Predict]],
    processes: Processes,
    interval: tuple[float, float],
    combine: Combine,
    channels: int,
) -> Predict:
    """predict, led away from each of several weak ones by a w of its own, inside the interval of levels."""
    low, high = interval

    def correction(w: Weight, process: Process, z: Array, t: Array, strong: Array, weak: Array) -> Array:
        """What guidance adds to the strong prediction."""
        level = align(t, strong)
        if process.is_continuous:
            z = z[..., : channels or None]
            n = z.shape[-1]
            added = combine(cast(Gaussian, process), w, z, t, strong[..., :n], weak[..., :n]) - strong[..., :n]
            added = jnp.concatenate([added, jnp.zeros_like(strong[..., n:])], axis=-1)
        else:
            added = linear(process, w, z, t, strong, weak) - strong
        return jnp.where((low <= level) & (level <= high), added, 0.0)

    def guided(x: Arrays, t: Levels) -> Arrays:
        strong = predict(x, t)
        guided = dict(strong)
        for w, other in weak:
            for name, prediction in other(x, t).items():
                guided[name] += correction(w, processes[name], x[name], t[name], strong[name], prediction)
        return guided

    return guided


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=range(1, a.ndim), keepdims=True)


def _along(a: Array, b: Array) -> Array:
    """The part of a along b: the multiple of b that is nearest to it."""
    return _dot(a, b) / jnp.maximum(_dot(b, b), TINY) * b
