"""Guidance: functions predict -> predict that lead away from what a weak network says.

Who is weak: a worse network (`autoguidance`), or the same one without what is given (`classifier_free`). How strong and
weak are combined in a Gaussian stream is a row of COMBINE:

    combine      guided                                                                of
    linear       strong + w (strong - weak)                                            any prediction alike
    rescaled     linear, then shrunk towards the standard deviation of strong          what the network predicts
    zero_star    linear, where the multiple of weak nearest to strong stands for weak  velocities
    projected    linear, but strong - weak is bounded and loses its part along strong  clean values

w is the scale less one; norms and deviations are an example's own. Each row is the identity at w = 0, and where weak =
strong, but that zero_star also holds the start.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import gaussian
from dit_jax.diffusion.gaussian import Gaussian, Line
from dit_jax.diffusion.objective import Predict, Sample
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.stream import Process, Processes
from dit_jax.names import check_names

# (predict, {name of a given stream: what it holds when absent}, the process of every stream) -> predict
Guidance = Callable[[Predict, Sample, Processes], Predict]

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


def spoken_in(line: Line, combine: Combine) -> Combine:
    """The same on predictions of another kind. Not finite where either leaves (x, noise) open, as x does at t = 0."""

    def translated(process: Gaussian, w: Weight, z: Array, t: Array, strong: Array, weak: Array) -> Array:
        other = dataclasses.replace(process, prediction=line)
        strong, weak = (other.join(*process.split(z, said, t), t) for said in (strong, weak))
        return process.join(*other.split(z, combine(other, w, z, t, strong, weak), t), t)

    return translated


def zero_star(hold: float = 0.04) -> Combine:
    """CFG-Zero*: the multiple of weak nearest to strong stands for weak, and where t > 1 - hold nothing moves (Fan et
    al. 2025, arXiv 2503.18886). A solver with a memory would extrapolate from the pause: prefer one without."""

    def combine(process: Gaussian, w: Weight, z: Array, t: Array, strong: Array, weak: Array) -> Array:
        guided = linear(process, w, z, t, strong, _along(strong, weak))
        return jnp.where(align(t, z) > 1 - hold, 0.0, guided)

    return spoken_in(gaussian.velocity, combine)


def projected(parallel: float = 0.0, norm: float = 15.0) -> Combine:
    """APG: strong - weak is cut to a norm, and its part along strong, which saturates colours, weighs `parallel` (Sadat
    et al. 2024, arXiv 2410.02416). Without the paper's momentum, which would be a memory."""

    def combine(process: Gaussian, w: Weight, z: Array, t: Array, strong: Array, weak: Array) -> Array:
        gap = strong - weak
        gap *= jnp.minimum(1.0, norm / jnp.maximum(jnp.sqrt(_dot(gap, gap)), TINY))
        return strong + w * (gap + (parallel - 1) * _along(gap, strong))

    return spoken_in(gaussian.x, combine)


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
    """Autoguidance by the network itself, blind to what is given (Ho & Salimans 2022); the identity if nothing is.

    Blind is: with those streams at t = 1, holding a draw from their prior; a label's mask (DiT's null class), noise. Of
    a stream that is given in part, that part is (history guidance, Song et al. 2025). scale: of all that is given, or
    {name of a given stream: its own}: then each leads away from a network that is blind to it alone, and what they add
    is added up. Raises ValueError when it is asked about a stream that does not exist.
    """
    return classifier_freed(excess(scale), interval, combine, channels)


def excess(scale: float | dict[str, float]) -> Excess:
    """w of a guidance scale, or of each stream's."""
    return {name: own - 1 for name, own in scale.items()} if isinstance(scale, dict) else scale - 1


def autoguided(weak: Predict, w: Weight, interval: tuple[float, float], combine: Combine, channels: int) -> Guidance:
    """`autoguidance` by w, the scale less one, which may be traced: then one program serves all scales."""
    return lambda predict, absent, processes: _away(predict, [(w, weak)], processes, interval, combine, channels)


def classifier_freed(w: Excess, interval: tuple[float, float], combine: Combine, channels: int) -> Guidance:
    """`classifier_free` by w, the scale less one, which may be traced: then one program serves all scales."""

    def guide(predict: Predict, absent: Sample, processes: Processes) -> Predict:
        def blind(names: Iterable[str]) -> Predict:
            def without(x: Sample, t: Sample) -> Sample:
                hidden = {name: jnp.where(align(t[name] == 0, x[name]), absent[name], x[name]) for name in names}
                gone = {name: jnp.where(t[name] == 0, 1.0, t[name]) for name in names}
                return predict({**x, **hidden}, {**t, **gone})

            return without

        if isinstance(w, Mapping):
            check_names(w, processes, "guidance: the stream")
            weak = [(own, blind([name])) for name, own in w.items() if name in absent]
        else:
            weak = [(w, blind(absent))] if absent else []
        return _away(predict, weak, processes, interval, combine, channels) if weak else predict

    return guide


def _away(
    predict: Predict,
    weak: list[tuple[Weight, Predict]],
    processes: Processes,
    interval: tuple[float, float],
    combine: Combine,
    channels: int,
) -> Predict:
    """predict, led away from each of several weak networks by a w of its own."""
    low, high = interval

    def lead(w: Weight, process: Process, z: Array, t: Array, strong: Array, weak: Array) -> Array:
        """What is to be added to strong."""
        level = align(t, strong)
        if isinstance(process, Gaussian):
            z = z[..., : channels or None]
            n = z.shape[-1]
            push = combine(process, w, z, t, strong[..., :n], weak[..., :n]) - strong[..., :n]
            push = jnp.concatenate([push, jnp.zeros_like(strong[..., n:])], axis=-1)
        else:
            push = linear(process, w, z, t, strong, weak) - strong
        return jnp.where((low <= level) & (level <= high), push, 0.0)

    def guided(x: Sample, t: Sample) -> Sample:
        strong = predict(x, t)
        led = dict(strong)
        for w, other in weak:
            for name, said in other(x, t).items():
                led[name] += lead(w, processes[name], x[name], t[name], strong[name], said)
        return led

    return guided


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b, axis=range(1, a.ndim), keepdims=True)


def _along(a: Array, b: Array) -> Array:
    """The part of a along b: the multiple of b that is nearest to it."""
    return _dot(a, b) / jnp.maximum(_dot(b, b), TINY) * b
