"""Drawing any number of samples, in equal jitted batches spread over the mesh."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dit_jax.diffusion import grids
from dit_jax.diffusion.blockwise import is_blockwise, sample_with_cache
from dit_jax.diffusion.encode import encode_rows
from dit_jax.diffusion.interpolate import slerp
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.masked import REVEALS
from dit_jax.diffusion.rollout import rollout
from dit_jax.diffusion.sampler import in_sequence, priors, sample_rows
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Streams, revealing
from dit_jax.network.dit import DiT
from dit_jax.parallel.mesh import BATCH, batch_devices, shardings
from dit_jax.run import Run, Sample
from dit_jax.streams.given import read_given

Network = tuple[DiT, Any]  # and its parameters


def draw(
    run: Run,
    params: Any,
    mesh: Mesh,
    how: Sample,
    weak: Network | None = None,
    start: dict[str, np.ndarray] | None = None,
    examples: dict[str, np.ndarray] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield samples 0 ... how.num - 1 of a seed, in order, in batches {name: [at most how.batch, *shape]}.

    Sample i depends on neither the number of samples, nor the batch, nor the mesh. The batch is rounded up to a
    multiple of the mesh, and the last one filled up, so that there is one program to compile. A stream that could be
    drawn and is not is left out. weak: the network that how.weak names. start: {name: [num, *shape]}, what streams are
    at t = 1; such samples share all else, which is sample 0's: what it is given, and the noise of its steps. examples:
    {name: [num, *shape]}, given beside how.given.

    Raises ValueError if what is given cannot be read, or if the weak network is missing or has other streams.
    """
    rows = np.arange(how.num) if start is None else np.zeros(how.num, int)
    said = read_given(run.streams, how.given, how.num)
    given, known = ({name: value[rows] for name, value in part.items()} for part in (said.given, said.start))
    given |= examples or {}
    able = [name for name, stream in run.streams.items() if stream.head is not None]
    left = [name for name in able if name not in given or name in said.prefix]
    if not {*how.drawn} <= {*left}:
        raise ValueError(f"drawn = {','.join(how.drawn)} should be some of: {', '.join(left)}")
    drawn = how.drawn or able
    if not {*how.first} <= {*able}:
        raise ValueError(f"first = {','.join(how.first)} should be some of what is drawn: {', '.join(able)}")
    first = [name for name in how.first if name in drawn]
    leading = {name for name in (*given, *first) if not run.streams[name].duration_of}
    if isinstance(scale := how.scale(), dict) and not scale.keys() <= leading:
        raise ValueError(f"guidance = {how.guidance!r} is for streams that are given: {', '.join(leading) or 'none'}")
    if begun := [name for name in first if name in said.prefix]:
        raise ValueError(f"first = {','.join(how.first)}: {begun[0]} goes on from a given part, with all others")
    longer = how.longer()
    if longer is not None and (longer[0] not in run.streams or known or start):
        raise ValueError(f"rollout = {how.rollout!r} is for one of {', '.join(run.streams)}, from noise or a prefix")
    if how.weak and weak is None:
        raise ValueError(f"sample.weak = {how.weak!r} is not loaded: only sample.py does, with --weak")
    networks, params = _networks(run, params, mesh, weak)
    plan = Plan(frozenset(said.prefix.items()), tuple(drawn), tuple(first), tuple(left))
    sampler = _sampler(run, networks, mesh, _static(how), plan)
    w = jax.tree.map(np.float32, how.excess())
    spread = NamedSharding(mesh, BATCH)
    for these in equal_batches(how.num, how.batch, mesh):
        inputs = jax.tree.map(lambda values, these=these: values[these], (rows, given, known | (start or {})))
        sample = sampler(params, jax.random.key(how.seed), w, *jax.device_put(inputs, spread))
        yield {name: np.asarray(array)[: how.num - these[0]] for name, array in sample.items()}


class Plan(NamedTuple):
    """What is drawn, and in which order, as `grids.rows` and `sampler.in_turn` take it."""

    prefix: frozenset[tuple[str, int]]
    drawn: tuple[str, ...]
    first: tuple[str, ...]
    left: tuple[str, ...]  # what could be drawn


def _static(how: Sample) -> Sample:
    """What of it a program is compiled for: all but what is in a plan, or an argument of the program."""
    default = Sample()
    return dataclasses.replace(
        how,
        every=default.every,
        num=default.num,
        seed=default.seed,
        batch=default.batch,
        given=default.given,
        first=default.first,
        drawn=default.drawn,
        guidance=default.guidance,
    )


@functools.lru_cache(maxsize=64)
def _sampler(run: Run, models: tuple[DiT, ...], mesh: Mesh, how: Sample, plan: Plan) -> Callable[..., dict[str, Array]]:
    """(parameters, key, w, rows, given, start) -> samples, compiled once for all that ask for the same.

    w: the guidance scale less one, or one for each stream, or None for no guidance.
    """
    streams = revealing(run.streams, REVEALS[how.reveal])
    longer, prefix = how.longer(), dict(plan.prefix)

    @jax.jit
    def sampler(params, key, w, rows, given, start):
        predict, *others = _bound(models, params)
        keys, guidance = example_keys(key, rows), how.guide(*others, w=w)

        def window(keys, given, prefix, drawn=plan.drawn):
            levels = grids.level_rows(streams, given, how.steps, how.shift, grids.GRIDS[how.grid], prefix, drawn)
            rest = keys, given, levels, SOLVERS[how.solver], guidance, start
            if not others and is_blockwise(streams, levels):
                sample = sample_with_cache(functools.partial(run.model.apply_with_cache, params[0]), streams, *rest)
            else:
                sample = sample_rows(predict, streams, *rest)
            return {name: x for name, x in sample.items() if name in drawn or name not in plan.left}

        def stage(given, now):
            if longer is None or now is not None:
                return window(keys, given, prefix, now or plan.drawn)
            return rollout(window, streams, keys, *longer, given, prefix)

        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return in_sequence(stage, given, plan.first)

    return sampler


def equal_batches(num: int, batch: int, mesh: Mesh) -> Iterator[np.ndarray]:
    """Rows 0 ... num - 1 in batches of one size, a multiple of the mesh; the last is filled up with the last row."""
    parts = batch_devices(mesh)
    size = -(-min(batch, num) // parts) * parts
    for first in range(0, num, size):
        yield np.minimum(np.arange(first, first + size), num - 1)


def gather(batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All batches as one."""
    every = list(batches)
    return {name: np.concatenate([batch[name] for batch in every]) for name in every[0]}


def between(
    run: Run, params: Any, mesh: Mesh, how: Sample, ends: str, weak: Network | None = None
) -> dict[str, np.ndarray]:
    """What how.num samples `start` from on the way from one end to the other: {name: [num, *shape]}.

    ends: 'A,B', two seeds, which stand for their sample 0, or two files of the stream that is drawn and can read them,
    which are encoded. Raises ValueError if it is neither, and what the stream raises for a file that it cannot read.
    """
    given = read_given(run.streams, how.given, 1).given
    drawn = {
        name: stream
        for name, stream in run.streams.items()
        if name not in given and stream.head is not None and stream.process.is_continuous
    }
    words = ends.split(",")
    if len(words) != 2:
        raise ValueError(f"--interpolate={ends} should be two seeds or two files, such as 3,7")
    if all(word.isdigit() for word in words):
        keys = jnp.stack([jax.random.key(int(word)) for word in words])
        noise = priors(drawn, jax.vmap(lambda key: example_keys(key, jnp.zeros(1, int))[0])(keys))
    else:
        readers = {name: stream.view.read for name, stream in drawn.items() if stream.view.read is not None}
        if len(readers) != 1:
            hint = "" if readers else "; one of latents does with --vae"
            raise ValueError(f"--interpolate={ends}: one drawn stream should read files, not {len(readers)}{hint}")
        noise = _encoded(run, params, mesh, how, {name: read(ends) for name, read in readers.items()}, given, weak)
    weights = jnp.linspace(0.0, 1.0, how.num)
    a, b = ({name: jnp.repeat(z[i : i + 1], how.num, 0) for name, z in noise.items()} for i in (0, 1))
    return {name: np.asarray(slerp(a[name], b[name], weights)) for name in noise}


def _encoded(run: Run, params: Any, mesh: Mesh, how: Sample, x: dict, given: dict, weak: Network | None) -> dict:
    """The noise that sample 0 of how.seed, were it x {name: [k, *shape]}, would have come from."""
    models, params = _networks(run, params, mesh, weak)
    rows = np.zeros(len(next(iter(x.values()))), int)

    @jax.jit
    def encoder(params, key, rows, x, given):
        predict, *others = _bound(models, params)
        return encode_rows(predict, run.streams, example_keys(key, rows), x, given, guidance=how.guide(*others))

    inputs = rows, x, {name: values[rows] for name, values in given.items()}
    return encoder(params, jax.random.key(how.seed), *jax.device_put(inputs, NamedSharding(mesh, P())))


def _networks(run: Run, params: Any, mesh: Mesh, weak: Network | None) -> tuple[tuple[DiT, ...], tuple[Any, ...]]:
    """(models, their parameters on the mesh): the run's and, if there is one, the weak one's."""
    networks = [(run.model, params)]
    if weak is not None:
        _check_streams(run.streams, weak[0].streams)
        networks.append(weak)
    models, every = zip(*networks, strict=True)
    return models, jax.device_put(every, shardings(every, mesh))


def _bound(models: Sequence[DiT], params: Sequence[Any]) -> list[Any]:
    return [functools.partial(model.apply, own) for model, own in zip(models, params, strict=True)]


def _check_streams(ours: Streams, theirs: Streams):
    """Guidance subtracts one prediction from another, so both have to be about the same."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"the weak run has the streams {', '.join(theirs)}, and this run has {', '.join(ours)}")
    for name, stream in ours.items():
        here, there = _described(stream), _described(theirs[name])
        for what in here | there:
            if here.get(what) != there.get(what):
                pair = (getattr(side.get(what), "__name__", side.get(what)) for side in (there, here))
                raise ValueError("streams.{}: {} is {} in the weak run, and {} in this run".format(name, what, *pair))


def _described(stream) -> dict[str, Any]:
    process = stream.process
    values = {field.name: getattr(process, field.name) for field in dataclasses.fields(process)}
    return {"shape": stream.shape, "process": type(process), **values}
