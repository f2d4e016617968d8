"""Drawing any number of samples, in equal jitted batches spread over the mesh."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding

from dit_jax.diffusion import grids
from dit_jax.diffusion.blockwise import is_blockwise, sample_with_cache
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.masked import REVEALS
from dit_jax.diffusion.rollout import rollout
from dit_jax.diffusion.sampler import in_sequence, sample_rows
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Arrays, Stream, Streams, revealing
from dit_jax.network.dit import DiT
from dit_jax.parallel.hosts import on_host
from dit_jax.parallel.mesh import BATCH, batch_devices, shardings
from dit_jax.run import Run, SampleOptions
from dit_jax.sampling.plan import Order, make_plan

Network = tuple[DiT, Any]  # and its parameters


def draw(
    run: Run,
    params: Any,
    mesh: Mesh,
    options: SampleOptions,
    weak: Network | None = None,
    start: dict[str, np.ndarray] | None = None,
    examples: dict[str, np.ndarray] | None = None,
    rows: range | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield samples 0 ... options.num - 1 of a seed, in order, in batches {name: [at most options.batch, *shape]}.

    Sample i depends on neither the number of samples, nor the batch, nor the mesh, but for rounding. The batch is
    rounded up to a multiple of the mesh, and the last one filled up, so that there is one program to compile. A stream
    that could be drawn and is not is left out. weak: the network that options.weak names. start, examples: see
    `make_plan`. rows: those to draw, if not all.

    Raises what `make_plan` raises, and ValueError if the weak network is missing or has other streams.
    """
    if options.weak and weak is None:
        raise ValueError(f"sample.weak = {options.weak!r} is not loaded: only sample.py does, with --weak")
    plan = make_plan(run.streams, options, examples, start)
    models, params = networks(run, params, mesh, weak)
    sampler = compiled_sampler(run, models, mesh, options, plan.order)
    w = jax.tree.map(np.float32, options.excess())
    spread = NamedSharding(mesh, BATCH)
    rows = range(options.num) if rows is None else rows
    for these in equal_batches(options.num, options.batch, mesh, rows):
        sample = sampler(params, jax.random.key(options.seed), w, *jax.device_put(plan.take(these), spread))
        yield {name: array[: rows.stop - these[0]] for name, array in on_host(sample).items()}


def compiled_sampler(
    run: Run, models: tuple[DiT, ...], mesh: Mesh, options: SampleOptions, order: Order
) -> Callable[..., dict[str, Array]]:
    """(parameters, key, w, rows, given, start) -> samples, jitted, and the same one for all that ask for the same.

    w: the guidance scale less one, or one for each stream, or None for no guidance.
    """
    return _sampler(run, models, mesh, _compiled_for(options), order)


def _compiled_for(options: SampleOptions) -> SampleOptions:
    """Those options that a program is compiled for: the others are in the plan's order, or arguments of the program."""
    others = "every", "num", "seed", "batch", "given", "first", "drawn", "guidance"
    default = SampleOptions()
    return dataclasses.replace(options, **{name: getattr(default, name) for name in others})


@functools.lru_cache(maxsize=64)
def _sampler(
    run: Run, models: tuple[DiT, ...], mesh: Mesh, options: SampleOptions, order: Order
) -> Callable[..., dict[str, Array]]:
    streams = revealing(run.streams, REVEALS[options.reveal])
    longer, grid, solver = options.longer(), grids.GRIDS[options.grid], SOLVERS[options.solver]

    @jax.jit
    def sampler(params: Any, key: Array, w: Any, rows: Array, given: Arrays, start: Arrays) -> Arrays:
        predict, *weak = bound(models, params)
        keys, guidance = example_keys(key, rows), options.guide(next(iter(weak), None), w)

        def window(keys: Array, given: Arrays, prefix: dict[str, int], drawn: Iterable[str] = order.drawn) -> Arrays:
            levels = grids.level_rows(streams, given, options.steps, options.shift, grid, prefix, drawn)
            rest = keys, given, levels, solver, guidance, start
            if not weak and is_blockwise(streams, levels):
                sample = sample_with_cache(functools.partial(run.model.apply_with_cache, params[0]), streams, *rest)
            else:
                sample = sample_rows(predict, streams, *rest)
            return {name: x for name, x in sample.items() if name in drawn or name not in order.could_be_drawn}

        def stage(given: Arrays, names: Iterable[str] | None) -> Arrays:
            if longer is None or names is not None:
                return window(keys, given, dict(order.prefix), names or order.drawn)
            return rollout(window, streams, keys, *longer, given, dict(order.prefix))

        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return in_sequence(stage, given, order.first)

    return sampler


def equal_batches(num: int, batch: int, mesh: Mesh, rows: range | None = None) -> Iterator[np.ndarray]:
    """Rows 0 ... num - 1, or some of them, in batches of one size, a multiple of the mesh; the last is filled up with
    the last row."""
    parts, rows = batch_devices(mesh), range(num) if rows is None else rows
    size = -(-min(batch, num) // parts) * parts
    for first in range(rows.start, rows.stop, size):
        yield np.minimum(np.arange(first, first + size), rows.stop - 1)


def check_drawn(streams: Streams, sample: dict[str, np.ndarray], names: Iterable[str], first: int = 0) -> None:
    """Raises ValueError if values that were drawn are not finite, or tokens do not exist. names: of what was drawn.
    first: the row of the first sample."""
    for name in names:
        values, vocabulary = sample[name], streams[name].process.vocabulary
        good = np.isfinite(values) if vocabulary is None else (values >= 0) & (values < vocabulary)
        wrong = np.flatnonzero(~good.reshape(len(values), -1).all(1)) + first
        if len(wrong):
            which = ", ".join(map(str, wrong[:3])) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
            what = "not finite" if vocabulary is None else f"not of tokens 0 ... {vocabulary - 1}"
            raise ValueError(
                f"sample {which}: {name} is {what}; draw with less guidance, more steps or another solver, and if that "
                "is no help, the checkpoint is broken: look at the loss in its metrics.jsonl, and train on from before"
            )


def gather(batches: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All batches as one."""
    every = list(batches)
    return {name: np.concatenate([batch[name] for batch in every]) for name in every[0]}


def networks(run: Run, params: Any, mesh: Mesh, weak: Network | None) -> tuple[tuple[DiT, ...], tuple[Any, ...]]:
    """(models, their parameters on the mesh): the run's and, if there is one, the weak one's.

    Raises ValueError for a weak network of other streams.
    """
    every = [(run.model, params)]
    if weak is not None:
        _check_streams(run.streams, weak[0].streams)
        every.append(weak)
    models, parameters = zip(*every, strict=True)
    return models, jax.device_put(parameters, shardings(parameters, mesh))


def bound(models: Sequence[DiT], params: Sequence[Any]) -> list[Any]:
    """The denoisers of networks and their parameters: (x, t) -> predictions."""
    return [functools.partial(model.apply, own) for model, own in zip(models, params, strict=True)]


def _check_streams(ours: Streams, theirs: Streams) -> None:
    """Guidance subtracts one prediction from another, so both have to be about the same."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"the weak run has the streams {', '.join(theirs)}, and this run has {', '.join(ours)}")
    for name, stream in ours.items():
        here, there = _described(stream), _described(theirs[name])
        for what in here | there:
            if here.get(what) != there.get(what):
                pair = (getattr(side.get(what), "__name__", side.get(what)) for side in (there, here))
                raise ValueError("streams.{}: {} is {} in the weak run, and {} in this run".format(name, what, *pair))


def _described(stream: Stream) -> dict[str, Any]:
    process: Any = stream.process
    values = {field.name: getattr(process, field.name) for field in dataclasses.fields(process)}
    return {"shape": stream.shape, "process": type(process), **values}
