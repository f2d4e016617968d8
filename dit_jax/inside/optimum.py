"""The loss by level beside the least that is possible on a finite training set (arXiv 2506.13763).

Of N examples x_i, equally likely, the best estimate is their mean, weighed by how likely each is to have become z:

    x*(z, t) = sum_i softmax_i(log q(z | x_i)) x_i.

A network's loss above that of x* on the training set is what it has not learnt, and the distance of its predictions to
those of x* is small where it has learnt them by heart.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.stream import Arrays, Levels, Predict, Streams, drawable
from dit_jax.inside.noised import Study, by_level, mean_losses, noised

TINY = 1e-6  # a sigma to divide by at t = 0


def posterior(streams: Streams, data: Arrays, x: Arrays, t: Levels) -> Array:
    """How probable it is that each of N examples became x: data {name: [N, *shape]} -> [B, N]."""
    processes: dict[str, Any] = {name: streams[name].process for name in data}
    flows = [name for name, process in processes.items() if process.is_continuous]
    lines = {name: processes[name].schedule(align(t[name], x[name])) for name in flows}

    def of_one(example: tuple[Arrays, dict[str, tuple[Array, Array]]]) -> Array:
        z, line = example
        log_q = jnp.zeros(())
        for name, values in data.items():
            axes = range(1, values.ndim)
            if name in line:
                alpha, sigma = line[name]
                far = jnp.square((z[name] - alpha * values) / jnp.maximum(sigma, TINY))
                log_q -= jnp.sum(far, axis=axes) / 2
            else:
                fits = (z[name] == values) | processes[name].is_mask(z[name])
                log_q += jnp.where(jnp.all(fits, axis=axes), 0.0, -jnp.inf)
        return jax.nn.softmax(log_q)

    return jax.lax.map(of_one, ({name: x[name] for name in data}, lines))


def optimal_denoiser(streams: Streams, data: Arrays) -> Predict:
    """The denoiser of the least loss on data {name: [N, *shape]}, whose streams to be drawn have a flow."""

    def predict(x: Arrays, t: Levels) -> Arrays:
        weights, predictions = posterior(streams, data, x, t), {}
        for name, stream in drawable(streams).items():
            process: Any = stream.process
            alpha, sigma = process.schedule(align(t[name], x[name]))
            clean = jnp.tensordot(weights, data[name], 1)
            noise = (x[name] - alpha * clean) / jnp.maximum(sigma, TINY)
            predictions[name] = process.join(clean, noise, t[name])
        return predictions

    return predict


def losses_and_optimum(study: Study, data: Arrays) -> dict[str, Arrays]:
    """Mean losses beside those of the data's optimum, {"network", "optimum" or "distance": {stream: [L]}}; distance:
    what the network's predictions would cost if the optimum's were the targets."""
    streams, best = study.model.streams, optimal_denoiser(study.model.streams, data)

    def at(params: Any, batch: Arrays, level: Array) -> dict[str, Arrays]:
        x, t, targets = noised(streams, batch, level)
        found: Any = study.model.apply(params, x, t)
        optimum = best(x, t)
        pairs = {"network": (found, targets), "optimum": (optimum, targets), "distance": (found, optimum)}
        return {what: mean_losses(streams, *pair, t) for what, pair in pairs.items()}

    return by_level(study, at)
