"""Interpolation between two samples: the noise on the great circle between theirs."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dit_jax.diffusion.encode import encode_rows
from dit_jax.diffusion.interpolate import slerp
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.sampler import priors
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Arrays, Streams, drawable
from dit_jax.media.paths import split_paths
from dit_jax.run import Run, SampleOptions, Seed
from dit_jax.sampling.draw import Network, bound, networks
from dit_jax.sampling.given import read_given
from dit_jax.schema import checked


def interpolation_noise(
    run: Run, params: Any, mesh: Mesh, options: SampleOptions, ends: str, weak: Network | None = None
) -> dict[str, np.ndarray]:
    """What options.num samples `start` from on the way from one end to the other: {name: [num, *shape]}.

    ends: 'A,B', two seeds, which stand for their sample 0, or two files of the stream that is drawn and can read them,
    which are cropped as in training and encoded. Raises ValueError if it is neither, what `check_interpolation` raises,
    and what the stream raises for a file that it cannot read.
    """
    given = {name: values[:1] for name, values in read_given(run.streams, options.given).given.items()}
    moving, words = check_interpolation(run.streams, options, ends, given), split_paths(ends)
    if all(word.isdigit() for word in words):
        keys = jnp.stack([jax.random.key(checked(int(word), Seed, "--interpolate")) for word in words])
        noise = priors(moving, jax.vmap(lambda key: example_keys(key, jnp.zeros(1, int))[0])(keys))
    else:
        views = {name: stream.view for name, stream in moving.items()}
        readers = {name: view.crop or view.read for name, view in views.items() if view.read is not None}
        if len(readers) != 1:
            hint = "" if readers else "; one of latents does with --vae"
            raise ValueError(f"--interpolate={ends}: one drawn stream should read files, not {len(readers)}{hint}")
        examples = {name: read(ends) for name, read in readers.items()}
        noise = _encoded(run, params, mesh, options, examples, given, weak)
    weights = jnp.linspace(0.0, 1.0, options.num)
    a, b = ({name: jnp.repeat(z[i : i + 1], options.num, 0) for name, z in noise.items()} for i in (0, 1))
    return {name: np.asarray(slerp(a[name], b[name], weights)) for name in noise}


def check_interpolation(streams: Streams, options: SampleOptions, ends: str, given: Iterable[str]) -> Streams:
    """The streams whose noise is interpolated: those that are drawn, and follow a flow.

    Raises ValueError if there is none, for a solver whose steps add noise, under which the ends would not be the
    samples that they stand for (from pure noise, ancestral steps even forget where they began, and all samples would be
    one), and for ends that are not two.
    """
    if len(split_paths(ends)) != 2:
        raise ValueError(f"--interpolate={ends} should be two seeds or two files, such as 3,7")
    if SOLVERS[options.solver].is_stochastic:
        able = ", ".join(name for name, solver in SOLVERS.items() if not solver.is_stochastic)
        raise ValueError(f"--interpolate={ends} takes a solver without noise: {able}; not {options.solver}")
    wanted = options.drawn or drawable(streams).keys()
    moving = {name: stream for name, stream in drawable(streams).items() if name in wanted and name not in given}
    moving = {name: stream for name, stream in moving.items() if stream.process.is_continuous}
    if not moving:
        flowing = [name for name, stream in drawable(streams).items() if stream.process.is_continuous]
        hint = f"draw {' or '.join(flowing)}, given no part of it" if flowing else "no stream of this run has any"
        raise ValueError(f"--interpolate={ends}: nothing that is drawn has noise to go from and to; {hint}")
    return moving


def _encoded(
    run: Run, params: Any, mesh: Mesh, options: SampleOptions, x: dict, given: dict, weak: Network | None
) -> dict:
    """The noise that sample 0 of options.seed, were it x {name: [k, *shape]}, would have come from."""
    models, params = networks(run, params, mesh, weak)
    rows = np.zeros(len(next(iter(x.values()))), int)

    @jax.jit
    def encoder(params: Any, key: Array, rows: Array, x: Arrays, given: Arrays) -> Arrays:
        predict, *others = bound(models, params)
        return encode_rows(predict, run.streams, example_keys(key, rows), x, given, guidance=options.guide(*others))

    inputs = rows, x, {name: values[rows] for name, values in given.items()}
    return encoder(params, jax.random.key(options.seed), *jax.device_put(inputs, NamedSharding(mesh, P())))
