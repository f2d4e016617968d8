"""What panels look at: a network, examples, and noise levels that all streams to be drawn are at together.

Axes: L levels, E edits; the others as in docs/design.md.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.keys import domain, example_keys
from dit_jax.diffusion.stream import Arrays, Levels, Stream, Streams, corrupt, drawable, with_pasts
from dit_jax.network.dit import DiT
from dit_jax.network.taps import Edit, Edits, tapped


class Study(NamedTuple):
    """A network and its parameters, a batch {name: [B, *shape]} of clean examples, and the levels to look at."""

    model: DiT
    params: Any
    batch: Arrays
    levels: Sequence[float]


class Noised(NamedTuple):
    """Examples at a level: the noised values, the level of each stream, and what the network should predict."""

    x: Arrays
    t: Levels
    targets: Arrays


def noised(streams: Streams, batch: Arrays, level: float | Array, hidden: Iterable[str] = ()) -> Noised:
    """A batch of which all that can be drawn is at one level, and all else is given. The noise of an example is the
    same at every level. hidden: what is absent, at t = 1."""
    count = len(next(iter(batch.values())))
    absent = {*hidden} | (streams.keys() - with_pasts(streams, batch).keys())
    levels = {name: level if name in drawable(streams) else float(name in absent) for name in streams}
    t = {name: jnp.full(count, value, jnp.float32) for name, value in levels.items()}
    keys = example_keys(domain(jax.random.key(0), "inspect"), jnp.arange(count))
    x, targets = corrupt(streams, keys, batch, t)
    return Noised(x, t, targets)


def estimate(stream: Stream, x: Array, prediction: Array, t: Array) -> Array:
    """The clean value that a prediction comes to, [B, *shape]; of tokens, the likeliest in the place of each mask."""
    process: Any = stream.process
    if process.is_continuous:
        return process.split(x, prediction, t)[0]
    return jnp.where(process.is_mask(x), jnp.argmax(prediction, axis=-1), x)


def mean_losses(streams: Streams, predictions: Arrays, targets: Arrays, t: Levels) -> Arrays:
    """The mean loss of each stream that can be drawn, {stream: []}."""
    losses = {k: s.process.loss(predictions[k], targets[k], t[k]) for k, s in drawable(streams).items()}
    return jax.tree.map(jnp.mean, losses)


def losses_under(study: Study, edits: Sequence[Edits]) -> Arrays:
    """The mean losses under each of several edits of the same values, {stream: [E, L]}."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(jnp.broadcast_arrays(*map(jnp.asarray, leaves))), *edits)
    streams = study.model.streams

    def at(params: Any, batch: Arrays, level: Array) -> Arrays:
        x, t, targets = noised(streams, batch, level)
        predict = lambda edits: tapped(study.model, params)(x, t, edits=edits)[0]
        return jax.lax.map(lambda edits: mean_losses(streams, predict(edits), targets, t), stacked)

    return by_level(study, at, axis=1)


def rises_under(study: Study, edits: Sequence[Edits]) -> Arrays:
    """By how much each edit raises the mean losses, {stream: [E, L]}."""
    none = {name: Edit(block=edit.block) for name, edit in edits[0].items()}
    return jax.tree.map(lambda losses: losses[1:] - losses[0], losses_under(study, [none, *edits]))


def values_by_level(study: Study, name: str, hidden: Iterable[str] = ()) -> Array:
    """A value of every block, a row of taps.TAPS, at every level: [L, depth, B, ...]."""

    def at(params: Any, batch: Arrays, level: Array) -> Array:
        x, t, _ = noised(study.model.streams, batch, level, hidden)
        return tapped(study.model, params)(x, t, taps=[name])[1][name]

    return by_level(study, at)


def by_level(study: Study, at: Callable[[Any, Arrays, Array], Any], axis: int = 0) -> Any:
    """at(parameters, batch, level) of each level, stacked along an axis; it is compiled once."""
    compiled = jax.jit(at)
    found = [compiled(study.params, study.batch, jnp.float32(level)) for level in study.levels]
    return jax.tree.map(lambda *arrays: jnp.stack(arrays, axis), *found)
