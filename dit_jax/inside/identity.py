"""When it is decided what a sample shows: activation patching, probes, and a condition that changes on the way down."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.stream import Arrays, Levels, Predict, drawable
from dit_jax.inside.noised import Study, by_level, noised, values_by_level
from dit_jax.network.taps import Edit, tapped

Probe = Callable[[Any, Any, Any, Any], float]  # (features, labels, features of others, their labels) -> accuracy


def patched(study: Study, other: Arrays, name: str = "residual") -> Arrays:
    """How far one block's value, a row of taps.TAPS, taken from a run on the same noise with other conditions, moves
    predictions towards that run's, {stream: [depth, L]}: 0 not at all, 1 all the way.

    other: {name: [B, *shape]}, conditions instead of the batch's. By projection on the difference of the two runs.
    """
    model = study.model

    def at(params: Any, batch: Arrays, level: Array) -> Arrays:
        look = tapped(model, params)
        (x, t, _), (there, *_) = (noised(model.streams, {**batch, **more}, level) for more in ({}, other))
        (begin, _), (end, values) = look(x, t), look(there, t, taps=[name])

        def share(block: Array) -> Arrays:
            moved, _ = look(x, t, edits={name: Edit(0.0, values[name], block)})
            way = {stream: end[stream] - begin[stream] for stream in drawable(model.streams)}
            return {k: jnp.vdot(moved[k] - begin[k], v) / jnp.maximum(jnp.vdot(v, v), 1e-30) for k, v in way.items()}

        return jax.lax.map(share, jnp.arange(model.depth))

    return by_level(study, at, axis=1)


def switched(predict: Predict, name: str, level: float | Array, before: Array, after: Array) -> Predict:
    """A denoiser for which a condition is `before` [B, *shape] while any other stream is above a level, then `after`:
    which of the two samples show says at what level that is decided."""

    def switching(x: Arrays, t: Levels) -> Arrays:
        others = [jnp.max(of.reshape(len(of), -1), axis=1) for stream, of in t.items() if stream != name]
        is_before = jnp.max(jnp.stack(others), axis=0) > level
        return predict({**x, name: jnp.where(align(is_before, before), before, after)}, t)

    return switching


def probe_map(study: Study, train: Arrays, probe: Probe, hidden: Sequence[str] = ("label",)) -> np.ndarray:
    """How often a probe fitted on train {name: [n, *shape]} reads the label of the study's examples from the mean of
    the residual's tokens after each block, [depth, L]. hidden: conditions that the network goes without."""
    studies = study._replace(batch=train), study
    here = [np.mean(values_by_level(one, "residual", hidden), axis=-2).swapaxes(0, 1) for one in studies]
    fit = lambda a, b: probe(a, train["label"], b, study.batch["label"])
    return np.array([[fit(a, b) for a, b in zip(*of_block, strict=True)] for of_block in zip(*here, strict=True)])


def linear_probe(train: Array, labels: Array, test: Array, wanted: Array, ridge: float = 1e-2) -> float:
    """The accuracy on test [m, D] of ridge regression, on train [n, D], of labels, one of K each."""
    mean, std = jnp.mean(train, axis=0), jnp.std(train, axis=0) + 1e-6
    a, b, target = (train - mean) / std, (test - mean) / std, jax.nn.one_hot(labels, int(jnp.max(labels)) + 1)
    middle = jnp.mean(target, axis=0)
    weights = jnp.linalg.solve(a.T @ a + ridge * len(a) * jnp.eye(a.shape[1]), a.T @ (target - middle))
    return float(jnp.mean(jnp.argmax(b @ weights + middle, axis=1) == wanted))


def nearest_probe(train: Array, labels: Array, test: Array, wanted: Array, neighbours: int = 5) -> float:
    """The accuracy on test [m, D] of the vote of the nearest examples of train [n, D]."""
    nearest = jax.lax.map(lambda x: jnp.argsort(jnp.sum(jnp.square(train - x), axis=1))[:neighbours], test)
    votes = jnp.sum(jax.nn.one_hot(jnp.asarray(labels)[nearest], int(jnp.max(labels)) + 1), axis=1)
    return float(jnp.mean(jnp.argmax(votes, axis=1) == wanted))
