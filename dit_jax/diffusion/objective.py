"""Training objectives: corrupt every stream at its own level, predict, and add up the processes' losses.

MeanFlow (Geng et al. 2025, arXiv 2505.13447) trains one network for steps of any length. It predicts the mean velocity
u(z, r, t) = (z_t - z_r) / (t - r) along the flow; differentiating (t - r) u = int_r^t v by t gives (eq. 6)

    u + (t - r) du/dt = v,        du/dt the total derivative along dz/dt = v, with r fixed.

The span t - r is one more stream, a condition. Where it is 0, u is the velocity: other solvers work on such a network
as they do on any.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import gaussian
from dit_jax.diffusion.derivatives import jvp
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.keys import domain, example_keys, fold, stream_id
from dit_jax.diffusion.levels import Together, independent
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.span import SPAN
from dit_jax.diffusion.stream import Streams, check_tokens, with_copies

Sample = dict[str, Array]
Predict = Callable[[Sample, Sample], Sample]
Objective = Callable[[Predict, Streams, Array, Sample, Sample], dict[str, Array]]


def loss(
    predict: Predict,
    streams: Streams,
    key: Array,
    batch: Sample,
    objective: Objective | None = None,
    together: Together = independent,
) -> Array:
    """Mean loss of a batch {name: [B, *shape]}, at levels and with noise drawn from the key.

    Raises ValueError for a stream that the batch lacks and, where they are known while tracing, tokens out of range.
    """
    check_tokens(streams, batch, "the batch")
    n = len(next(iter(batch.values())))
    level_key, noise_key = jax.random.split(domain(key, "train"))
    t = together(level_key, streams, n)
    losses = (objective or losses_at)(predict, streams, example_keys(noise_key, jnp.arange(n)), batch, t)
    return jnp.mean(total(losses))


def losses_at(predict: Predict, streams: Streams, keys: Array, batch: Sample, t: Sample) -> dict[str, Array]:
    """Loss of every example, {name: [B]}, at given levels {name: [B] or [B, G]} and with one key an example.

    Streams without a head are conditions: they are corrupted, never scored.
    """
    noised, targets = corrupted(streams, keys, batch, t)
    predictions = predict(noised, t)
    return {
        name: streams[name].process.loss(predictions[name], target, t[name])  # type: ignore[union-attr]
        for name, target in targets.items()
        if streams[name].head is not None
    }


def corrupted(streams: Streams, keys: Array, batch: Sample, t: Sample) -> tuple[Sample, Sample]:
    """({name: noised}, {name: target}) at levels t. The span, which no data have, is absent unless the batch has it."""
    noised, targets, batch = {}, {}, with_copies(streams, batch)
    for name, stream in streams.items():
        stream_keys = fold(keys, stream_id(name))
        if name in batch:
            noised[name], targets[name] = stream.process.corrupt(stream_keys, batch[name], t[name])
        elif name == SPAN:
            noised[name] = stream.process.prior(stream_keys, stream.shape)
        else:
            raise ValueError(f"the batch has no {name!r}; it has {', '.join(batch)}")
    return noised, targets


def meanflow_losses(
    predict: Predict,
    streams: Streams,
    keys: Array,
    batch: Sample,
    t: Sample,
    tangent: str = "own",
    power: float = 1.0,
) -> dict[str, Array]:
    """Loss of every example, {name: [B]}, of the one Gaussian stream with a head, its span being t[SPAN] of its level.

    tangent: dz/dt in the total derivative is that of the example ("given", MeanFlow) or the network's own velocity
    ("own", improved MeanFlow, arXiv 2512.02012). power: gradients are those of losses divided by this power of
    themselves, held fixed (eq. 22); their values are the errors as they are. Raises ValueError for a stream that does
    not predict the velocity: of another prediction, the mean velocity is infinite at one end.
    """
    ((name, process),) = ((k, s.process) for k, s in streams.items() if s.head and isinstance(s.process, Gaussian))
    if process.prediction is not gaussian.velocity:
        raise ValueError(f"{name} should predict the velocity, of which a mean velocity is a mean")
    span = t[SPAN] * t[name]
    noised, targets = corrupted(streams, keys, {**batch, SPAN: span}, t)
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


OBJECTIVES: dict[str, Objective] = {
    "denoise": losses_at,
    "meanflow": functools.partial(meanflow_losses, tangent="given"),
    "improved_meanflow": meanflow_losses,
}


def total(losses: dict[str, Array], uncertainty: dict[str, Array] | None = None) -> Array:
    """The loss of every example, [B]: its streams' losses added up, each as e^{-u} loss + u where it has an uncertainty
    u, which is best at the logarithm of the loss to be expected (Karras et al. 2024, arXiv 2312.02696, eq. 16)."""
    u = uncertainty or {}
    return sum((jnp.exp(-u[k]) * loss + u[k] if k in u else loss for k, loss in losses.items()), jnp.zeros(()))
