"""Sampling: one scan over the steps of a solver, in which every stream follows its own row of noise levels."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion import grids
from dit_jax.diffusion.guidance import Guidance, classifier_free
from dit_jax.diffusion.keys import check_key, example_keys, fold, stream_id
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.solver import Solver
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import (
    Arrays,
    Levels,
    Predict,
    Streams,
    check_arrays,
    check_values,
    drawable,
    with_pasts,
)
from dit_jax.names import check_names, row

PRIOR, STEPS = 0, 1  # an example's randomness: one key for where it starts, one for each step from there

Rows = dict[str, Any]  # of each stream, its levels before and after every step: [steps + 1] or [steps + 1, G]


def sample(
    predict: Predict,
    streams: Streams,
    key: Array,
    num: int | None = None,
    given: Arrays | None = None,
    steps: int = 25,
    solver: Solver | str = "2m",
    guidance: Guidance | float | dict[str, float] | None = None,
    shift: float = 1.0,
    grid: grids.Grid | str = "uniform",
    start: Arrays | None = None,
    prefix: dict[str, int] | None = None,
    first: Iterable[str] = (),
    drawn: Iterable[str] | None = None,
    rows: Array | None = None,
) -> Arrays:
    """Draw samples 0 ... num - 1 of a key, or those in rows [num]: {name: [num, *shape]}. To be called in jax.jit.

    given: {name: [num, *shape]} clean values of some streams; of those in prefix {name: number of groups}, only the
    first groups are. solver, grid: rows of SOLVERS and GRIDS, or their names. guidance: a number, or one for each given
    stream, is the scale of `classifier_free`. drawn: the streams that are drawn, together, or None for all that can be;
    any other is marginalised out. start: {name: [num, *shape]} what drawn streams are at t = 1, instead of their prior:
    text of which some is known, say. first: streams that are drawn before the others (see `in_sequence`).

    Raises ValueError for names that do not exist, for arrays of another shape or type than their stream's, for numbers
    out of range and, where they are known while tracing, for values that no data can have, such as labels out of range.
    """
    if (rows is None) == (num is None):
        raise ValueError("say either num, how many samples to draw, or rows, which ones")
    chosen, spacing = row(SOLVERS, solver, "solver"), row(grids.GRIDS, grid, "grid")
    check_key(key)
    first, drawn = check_several(first, "first"), None if drawn is None else check_several(drawn, "drawn")
    given, start, prefix = given or {}, start or {}, prefix or {}
    check_numbers(steps, shift)
    check_sample(streams, given, prefix, start, [*first, *(drawn or ())], check_count(num, rows))
    guide = as_guidance(guidance, streams)
    given, start = ({name: jnp.asarray(value) for name, value in x.items()} for x in (given, start))
    keys = example_keys(key, jnp.arange(num) if rows is None else jnp.asarray(rows))

    def draw(given: Arrays, names: Iterable[str] | None) -> Arrays:
        levels = grids.level_rows(streams, given, steps, shift, spacing, prefix, names or drawn)
        return sample_rows(predict, streams, keys, given, levels, chosen, guide, start)

    samples = in_sequence(draw, given, first)
    if not any(isinstance(x, jax.core.Tracer) for x in samples.values()) and next(_CALLS) == 2:
        warnings.warn("outside jax.jit every call of sample compiles anew: wrap it in a jitted function", stacklevel=2)
    return samples


_CALLS = itertools.count(1)  # of `sample`, outside jit


def check_sample(
    streams: Streams, given: Arrays, prefix: dict[str, int], start: Arrays, drawn: Iterable[str], count: int
) -> None:
    """Raises ValueError for what `sample` cannot draw: see there. count: of samples."""
    check_arrays(streams, given, "given", count)
    check_names(prefix, given, "prefix: the given stream")
    for name, groups in prefix.items():
        if groups not in range(1, most := streams[name].groups):
            wanted = f"1 ... {most - 1} of its {most} groups" if most > 1 else "left out: it is given whole"
            raise ValueError(f"prefix: {name} = {groups!r} should be {wanted}")
    check_names(start, drawable(streams), "start: the stream")
    check_arrays(streams, start, "start", count)
    check_names(drawn, drawable(streams), "drawn: the stream")
    whole = {name: value for name, value in given.items() if name not in prefix}
    check_values(streams, whole, "given")
    check_values(streams, {**given, **start}, "start", masks=True)


def as_guidance(guidance: Guidance | float | dict[str, float] | None, streams: Streams) -> Guidance | None:
    """Guidance, which scales are of `classifier_free`. Raises ValueError for what is neither."""
    if guidance is None or callable(guidance):
        return guidance
    if isinstance(guidance, str | tuple | list):
        raise ValueError(f"guidance = {guidance!r} should be a number, {{stream: number}}, or as dj.classifier_free is")
    if isinstance(guidance, dict):
        check_names(guidance, streams, "guidance: the stream")
    return classifier_free(guidance)


def check_count(num: int | None, rows: Any) -> int:
    """How many samples are drawn. Raises ValueError for what is no number of them, and for rows that are none."""
    if rows is None:
        return check_whole(num, "num")
    indices = rows if hasattr(rows, "dtype") else np.asarray(rows)
    if indices.ndim != 1 or indices.shape[0] == 0 or not jnp.issubdtype(indices.dtype, jnp.integer):
        raise ValueError(f"rows should be whole numbers, [num], and are {indices.dtype} of shape {indices.shape}")
    return indices.shape[0]


def check_numbers(steps: Any, shift: Any) -> None:
    """Raises ValueError for less than one step, and for a shift that is none."""
    check_whole(steps, "steps")
    if not 0 < shift < math.inf:
        raise ValueError(f"shift = {shift} should be above 0")


def check_whole(number: Any, name: str) -> int:
    """The number. Raises ValueError unless it is whole, and at least 1."""
    if not isinstance(number, int | np.integer) or isinstance(number, bool):
        raise ValueError(f"{name} = {number!r} should be a whole number")
    if number < 1:
        raise ValueError(f"{name} = {number} should be at least 1")
    return int(number)


def check_several(names: Iterable[str], what: str) -> tuple[str, ...]:
    """The names. Raises ValueError for a single one that is not in brackets, whose letters would be names."""
    if isinstance(names, str):
        raise ValueError(f"{what} = {names!r} should be several names, such as [{names!r}]")
    return tuple(names)


def in_sequence(draw: Callable[[Arrays, Iterable[str] | None], Arrays], given: Arrays, first: Iterable[str]) -> Arrays:
    """Ancestral sampling over streams, p(a, b) = p(a) p(b | a): those in `first` are drawn one by one, each given what
    there is by then, and at last all others given these.

    Guidance leads b towards the a that was drawn, as if it had been given. draw: (what is given, the names of those to
    draw or None for all that are left) -> sample.
    """
    for name in first:
        if name not in given:
            given = {**given, name: draw(given, [name])[name]}
    return draw(given, None)


def sample_rows(
    predict: Predict,
    streams: Streams,
    keys: Array,
    given: Arrays,
    rows: Rows,
    solver: Solver = SOLVERS["2m"],
    guidance: Guidance | None = None,
    start: Arrays | None = None,
) -> Arrays:
    """The sampler itself: keys [B], given {name: [B, *shape]}, rows of levels -> {name: [B, *shape]}.

    Rows are static, and a stream whose row is constant does not move: conditional, joint and marginal sampling differ
    in their rows only. Of a given stream, the groups that start at 0 are used. Each example depends on its own key
    alone.
    """
    prior = priors(streams, keys)
    guided = with_guidance(predict, streams, prior, given, guidance)
    return scan_steps(lambda x, t, _: guided(x, t), streams, keys, prior, given, rows, solver, start)


class Cache(NamedTuple):
    """What a sampler carries from step to step beside the sample, such as a KV cache."""

    init: Callable[[Arrays, Levels], Any]  # of a sample and its levels, before the first step
    update: Callable[[Arrays, Levels, Any], Any]  # after each step


NO_CACHE = Cache(lambda x, t: (), lambda x, t, cache: cache)


def scan_steps(
    predict: Callable[[Arrays, Levels, Any], Arrays],
    streams: Streams,
    keys: Array,
    prior: Arrays,
    given: Arrays,
    rows: Rows,
    solver: Solver,
    start: Arrays | None = None,
    cache: Cache = NO_CACHE,
) -> Arrays:
    """The scan over all steps: from the prior, or what is given and starts, at the first levels to a sample at the
    last.

    predict: (x, t, what the cache carries) -> predictions, with guidance in them.
    """
    start, processes = start or {}, {name: streams[name].process for name in grids.moving(rows)}
    levels = {name: jnp.asarray(row) for name, row in rows.items()}
    # What a masked stream starts with is given: a rule that hides tokens again does not hide these.
    discrete = {name: process for name, process in processes.items() if not process.is_continuous}
    visible = {name: ~process.is_mask(start[name]) for name, process in discrete.items() if name in start}

    def at(levels: dict[str, Array]) -> Levels:
        return {name: jnp.broadcast_to(level, (keys.shape[0], *level.shape)) for name, level in levels.items()}

    def step(carry: tuple, scanned: tuple) -> tuple[tuple, None]:
        (x, state, carried), (i, t, s) = carry, scanned
        denoise = lambda x, t: predict(x, t, carried)
        moved, state = solver.step(denoise, processes, fold(keys, STEPS + i), x, at(t), at(s), state)
        moved |= {name: jnp.where(is_visible, start[name], moved[name]) for name, is_visible in visible.items()}
        x = with_pasts(streams, {**x, **moved})
        return (x, state, cache.update(x, at(s), carried)), None

    x, top = {**prior, **start}, at({name: level[0] for name, level in levels.items()})
    x |= {name: jnp.where(align(top[name] == 0, x[name]), value, x[name]) for name, value in given.items()}
    x = with_pasts(streams, x)
    state = solver.init({name: x[name] for name in processes}, top)
    before, after = ({name: level[cut] for name, level in levels.items()} for cut in (slice(-1), slice(1, None)))
    indices = jnp.arange(len(next(iter(levels.values()))) - 1)
    carry: Any = x, state, cache.init(x, top)
    (x, *_), _ = jax.lax.scan(step, carry, (indices, before, after))
    return x


def with_guidance(
    predict: Predict, streams: Streams, prior: Arrays, given: Iterable[str], guidance: Guidance | None
) -> Predict:
    """predict, led by guidance away from the prediction without what is given. Durations are never dropped, so both
    predictions attend to the same tokens. prior: what streams hold when absent."""
    if guidance is None:
        return predict
    processes = {name: stream.process for name, stream in streams.items()}
    return guidance(predict, {name: prior[name] for name in given if not streams[name].duration_of}, processes)


def priors(streams: Streams, keys: Array) -> Arrays:
    """All streams at t = 1: keys [B] -> {name: [B, *shape]}."""
    return {
        name: stream.process.prior(fold(fold(keys, PRIOR), stream_id(name)), stream.shape)
        for name, stream in streams.items()
    }
