"""Held-out loss: of the averaged parameters, on fixed examples that are not trained on, at fixed levels and noise."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from dit_jax.data import pipeline, sources
from dit_jax.diffusion.joint_levels import JOINT_LEVELS
from dit_jax.diffusion.keys import domain, example_keys
from dit_jax.diffusion.objective import losses_at
from dit_jax.diffusion.stream import in_data
from dit_jax.parallel.mesh import BATCH, batch_devices
from dit_jax.run import Run

MOST = 64  # examples

HeldOut = Callable[[Any], dict[str, float]]  # parameters -> {"held_out/STREAM": mean loss}


def held_out_loss(run: Run, mesh: Mesh) -> HeldOut | None:
    """The denoising loss of each stream on what is held out of the data, where something is. Examples, levels and noise
    are the same for every call, mesh and resume, so that only the parameters change it."""
    source = sources.held_out(run.data.name, run.data.dir, in_data(run.streams), run.data.holdout)
    if source is None:
        return None
    places = np.random.default_rng(0).permutation(len(source))[:MOST].tolist()
    found = pipeline.usable(source, places, run.streams, run.data.unreadable)
    count = len(found) // batch_devices(mesh) * batch_devices(mesh)
    if not count:
        return None
    batch = jax.device_put(pipeline.stacked(found[:count]), NamedSharding(mesh, BATCH))
    level_key, noise_key = jax.random.split(domain(jax.random.key(0), "held out"))
    levels = JOINT_LEVELS[run.train.levels](level_key, run.streams, count)

    @jax.jit
    def means(params: Any, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        predict: Any = functools.partial(run.model.apply, params)
        keys = example_keys(noise_key, jnp.arange(count))
        return jax.tree.map(jnp.mean, losses_at(predict, run.streams, keys, batch, levels))

    return lambda params: {f"held_out/{name}": float(loss) for name, loss in means(params, batch).items()}
