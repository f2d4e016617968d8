"""The training objective: corrupt every stream at its own level, predict, and add up the processes' losses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import levels as noise_levels
from dit_jax.diffusion.keys import example_keys, fold, stream_id
from dit_jax.diffusion.stream import Streams

Sample = dict[str, Array]
Predict = Callable[[Sample, Sample], Sample]


def loss(predict: Predict, streams: Streams, key: Array, batch: Sample) -> Array:
    """Mean loss of a batch {name: [B, *shape]}, at levels and with noise drawn from the key."""
    n = len(next(iter(batch.values())))
    level_key, noise_key = jax.random.split(key)
    t = noise_levels.draw(level_key, streams, n)
    losses = losses_at(predict, streams, example_keys(noise_key, jnp.arange(n)), batch, t)
    return jnp.mean(total(losses))


def losses_at(predict: Predict, streams: Streams, keys: Array, batch: Sample, t: Sample) -> dict[str, Array]:
    """Loss of every example, {name: [B]}, at given levels {name: [B] or [B, G]} and with one key an example.

    Streams without a head are conditions: they are corrupted, never scored.
    """
    noised, targets = {}, {}
    for name, stream in streams.items():
        stream_keys = fold(keys, stream_id(name))
        noised[name], targets[name] = stream.process.corrupt(stream_keys, batch[name], t[name])
    predictions = predict(noised, t)
    return {
        name: stream.process.loss(predictions[name], targets[name], t[name])
        for name, stream in streams.items()
        if stream.head is not None
    }


def total(losses: dict[str, Array]) -> Array:
    """The loss of every example, [B]: its streams' losses added up."""
    return sum(losses.values(), jnp.zeros(()))
