"""Drawing any number of samples, in equal jitted batches spread over the mesh."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from dit_jax.diffusion import levels
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.sampler import walk
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.parallel.mesh import BATCH, batch_devices, shardings
from dit_jax.run import Run, Sample
from dit_jax.streams.given import read_given


def draw(run: Run, params: Any, mesh: Mesh, how: Sample) -> Iterator[dict[str, np.ndarray]]:
    """Yield samples 0 ... how.num - 1 of a seed, in order, in batches {name: [at most how.batch, *shape]}.

    Sample i depends on neither the number of samples, nor the batch, nor the mesh. The batch is rounded up to a
    multiple of the mesh, and the last one filled up, so that there is one program to compile.
    """
    parts = batch_devices(mesh)
    batch = -(-min(how.batch, how.num) // parts) * parts
    given = read_given(run.streams, how.given, how.num)
    schedule = levels.schedule(run.streams, given, how.steps, how.shift)
    params = jax.device_put(params, shardings(params, mesh))
    spread = NamedSharding(mesh, BATCH)

    @jax.jit
    def sampler(params, key, rows, given):
        predict = lambda x, t: run.model.apply(params, x, t)
        keys = example_keys(key, rows)
        return walk(predict, run.streams, keys, given, schedule, SOLVERS[how.solver], how.guide())

    for start in range(0, how.num, batch):
        rows = np.arange(start, start + batch)
        chosen = {name: values[np.minimum(rows, how.num - 1)] for name, values in given.items()}
        drawn = sampler(params, jax.random.key(how.seed), *jax.device_put((rows, chosen), spread))
        yield {name: np.asarray(array)[: how.num - start] for name, array in drawn.items()}


def gather(batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All batches as one."""
    every = list(batches)
    return {name: np.concatenate([batch[name] for batch in every]) for name in every[0]}
