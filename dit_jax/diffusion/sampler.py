"""Sampling is one scan that walks the levels of all streams, each along its own row of a schedule.

Encoding is the same walk upwards, from data to the noise that a sampler would make them of.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion import grids
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.guidance import Guidance
from dit_jax.diffusion.keys import domain, example_keys, fold, stream_id
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.objective import Predict, Sample
from dit_jax.diffusion.schedules import align, level_at
from dit_jax.diffusion.solvers import SOLVERS, Solver
from dit_jax.diffusion.stream import Streams, check_tokens, generation_order, with_copies
from dit_jax.names import check_names

PRIOR, STEPS = 0, 1  # an example's randomness: one key for where it starts, one for each step from there
# Walks up begin at alpha x, where sigma / alpha is this. What a network gets wrong there grows with sigma on the way.
FLOOR = grids.QUIETEST


def sample(
    predict: Predict,
    streams: Streams,
    key: Array,
    num: int | None = None,
    given: Sample | None = None,
    steps: int = 25,
    solver: Solver = SOLVERS["2m"],
    guidance: Guidance | None = None,
    shift: float = 1.0,
    grid: grids.Grid = grids.uniform,
    start: Sample | None = None,
    prefix: dict[str, int] | None = None,
    first: Iterable[str] = (),
    drawn: Iterable[str] | None = None,
    rows: Array | None = None,
) -> Sample:
    """Draw samples 0 ... num - 1 of a key, or those in rows [num]: {name: [num, *shape]}. To be called in jax.jit.

    given: {name: [num, *shape]} clean values of some streams; of those in prefix {name: number of groups}, only the
    first groups are. drawn: the streams that are drawn, together, or None for all that can be; any other is
    marginalised out. start: {name: [num, *shape]} what drawn streams are at t = 1, instead of their prior: text of
    which some is known, say. first: streams that are drawn before the others (see `in_turn`).

    Raises ValueError for names of streams that do not exist, for tokens out of range, and for less than one step.
    """
    given = given or {}
    if (rows is None) == (num is None):
        raise ValueError("say either num, how many samples to draw, or rows, which ones")
    check_sample(streams, given, prefix, start, [*first, *(drawn or ())], steps)
    keys = example_keys(key, jnp.arange(num) if rows is None else jnp.asarray(rows))

    def draw(given, now):
        schedule = grids.rows(streams, given, steps, shift, grid, prefix, now or drawn)
        return walk(predict, streams, keys, given, schedule, solver, guidance, start)

    samples = in_turn(draw, given, first)
    if not any(isinstance(x, jax.core.Tracer) for x in samples.values()) and next(_CALLS) == 2:
        warnings.warn("outside jax.jit every call of sample compiles anew: wrap it in a jitted function", stacklevel=2)
    return samples


_CALLS = itertools.count(1)  # of `sample`, outside jit


def check_sample(
    streams: Streams,
    given: Sample,
    prefix: dict[str, int] | None,
    start: Sample | None,
    drawn: Iterable[str],
    steps: int,
) -> None:
    """Raises ValueError for what `sample` cannot draw: see there."""
    able = [name for name, stream in streams.items() if stream.head is not None]
    check_names(given, streams, "given: the stream")
    check_names(prefix or {}, given, "prefix: the given stream")
    check_names(start or {}, able, "start: the stream")
    check_names(drawn, able, "drawn: the stream")
    whole = {name: value for name, value in given.items() if name not in (prefix or {})}
    check_tokens(streams, whole, "given")
    check_tokens(streams, {**given, **(start or {})}, "start", hidden=True)
    if steps < 1:
        raise ValueError(f"steps = {steps} should be at least 1")


def in_turn(draw: Callable[[Sample, Iterable[str] | None], Sample], given: Sample, first: Iterable[str]) -> Sample:
    """Draw the streams in `first` one by one, each given what there is by then, and at last all others given these.

    p(a, b) = p(a) p(b | a), where guidance leads b towards the a that was drawn, as if it had been given. draw: (what
    is given, the names of those to draw or None for all that are left) -> sample.
    """
    for name in first:
        if name not in given:
            given = {**given, name: draw(given, [name])[name]}
    return draw(given, None)


def walk(
    predict: Predict,
    streams: Streams,
    keys: Array,
    given: Sample,
    schedule: dict,
    solver: Solver = SOLVERS["2m"],
    guidance: Guidance | None = None,
    start: Sample | None = None,
    follow: Callable[[Sample, Sample], Sample] | None = None,
) -> Sample:
    """The sampler itself: keys [B], given {name: [B, *shape]}, schedule {name: [steps + 1] or [steps + 1, G]} -> {name:
    [B, *shape]}.

    The schedule is static, and a stream whose row is constant does not move: conditional, joint and marginal sampling
    differ in their schedules only. Of a given stream, the groups that start at 0 are used. Each example depends on its
    own key alone. follow: (x, t) -> x, what a sample is made before and after each step: copies become what they copy,
    unless something else stands for them (see blockwise.py).
    """
    follow = follow or (lambda x, t: with_copies(streams, x))
    prior = priors(streams, keys)
    predict = guided(predict, streams, prior, given, guidance)
    moving = {name: streams[name].process for name in grids.moving(schedule)}
    rows = {name: jnp.asarray(row) for name, row in schedule.items()}

    def at(levels: dict[str, Array]) -> dict[str, Array]:
        return {name: jnp.broadcast_to(level, (len(keys), *level.shape)) for name, level in levels.items()}

    def step(carry, scanned):
        (x, memory), (i, t, s) = carry, scanned
        moved, memory = solver.step(predict, moving, fold(keys, STEPS + i), x, at(t), at(s), memory)
        moved |= {name: jnp.where(here, start[name], moved[name]) for name, here in known.items()}
        return (follow({**x, **moved}, at(s)), memory), None

    # What a masked stream starts with is given: a rule that hides tokens again does not hide these.
    start = start or {}
    masks = {name: process.vocabulary for name, process in moving.items() if isinstance(process, Masked)}
    known = {name: start[name] != mask for name, mask in masks.items() if name in start}
    x, top = {**prior, **start}, at({name: row[0] for name, row in rows.items()})
    x |= {name: jnp.where(align(top[name] == 0, x[name]), value, x[name]) for name, value in given.items()}
    memory = solver.init({name: x[name] for name in moving}, top)
    froms, tos = ({name: row[cut] for name, row in rows.items()} for cut in (slice(-1), slice(1, None)))
    indices = jnp.arange(len(next(iter(rows.values()))) - 1)
    (x, _), _ = jax.lax.scan(step, (follow(x, top), memory), (indices, froms, tos))
    return x


def guided(
    predict: Predict, streams: Streams, prior: Sample, given: Iterable[str], guidance: Guidance | None
) -> Predict:
    """predict, led by guidance away from one blind to what is given, but for durations: both hear as much of a clip.
    prior: what streams hold when absent."""
    if guidance is None:
        return predict
    processes = {name: stream.process for name, stream in streams.items()}
    return guidance(predict, {name: prior[name] for name in given if not streams[name].ends}, processes)


def encode(
    predict: Predict,
    streams: Streams,
    key: Array,
    x: Sample,
    given: Sample | None = None,
    steps: int = 50,
    solver: Solver = SOLVERS["heun"],
    guidance: Guidance | None = None,
    floor: float = FLOOR,
) -> Sample:
    """The noise {name: [B, *shape]} that the probability flow makes into x {name: [B, *shape]}.

    `sample(start=encode(...))` gives x back, as nearly as the steps of both are small (DDIM inversion; Song, Meng &
    Ermon 2021). given: {name: [B, *shape]} clean values of other streams. Any stream in neither is marginalised out.
    solver: one that can climb to t = 1, as Heun's can. floor: sigma / alpha where it begins, small beside the finest
    structure of x, but no smaller than a network has learnt. Raises ValueError if a stream in x has no flow, or if
    one that is named does not exist.
    """
    check_names(given or {}, streams, "given: the stream")
    keys = example_keys(domain(key, "encode"), jnp.arange(len(next(iter(x.values())))))
    return climb(predict, streams, keys, x, given or {}, steps, solver, guidance, floor)


def climb(
    predict: Predict,
    streams: Streams,
    keys: Array,
    x: Sample,
    given: Sample,
    steps: int = 50,
    solver: Solver = SOLVERS["heun"],
    guidance: Guidance | None = None,
    floor: float = FLOOR,
) -> Sample:
    """The encoder itself, with keys [B]."""
    rows = {name: np.full(steps + 1, 0.0 if name in given else 1.0) for name in streams}
    processes = flowing(streams, x)
    rows |= {name: rising(process, np.linspace(0, 1, steps + 1), floor) for name, process in processes.items()}
    start = {name: process.schedule(jnp.asarray(rows[name][0]))[0] * x[name] for name, process in processes.items()}
    end = walk(predict, streams, keys, given, rows, solver, guidance, start)
    return {name: end[name] for name in x}


def rising(process: Gaussian, u, floor: float = FLOOR):
    """u in [0, 1] -> levels from where sigma / alpha is the floor up to the top.

    They are even in sqrt(t): finest at the data, and so that no schedule has the root of u for its sigma.
    """
    with jax.ensure_compile_time_eval():  # a number, also while a walk is being traced
        low = float(level_at(process.schedule, jnp.asarray(-math.log(floor))))
    return (math.sqrt(low) * (1 - u) + math.sqrt(process.top) * u) ** 2


def flowing(streams: Streams, names: Iterable[str]) -> dict[str, Gaussian]:
    """The processes of these streams. Raises ValueError if one has no flow: it is masked, given, or drawn in turns."""
    names = list(names)
    check_names(names, streams, "x: the stream")
    turns = generation_order(streams)
    found = {name: process for name in names if isinstance(process := streams[name].process, Gaussian)}
    without = [name for name in names if name not in found or streams[name].head is None or turns[name].ndim]
    if without:
        raise ValueError(f"no probability flow moves {', '.join(without)}: it takes a Gaussian one drawn at once")
    return found


def priors(streams: Streams, keys: Array) -> Sample:
    """All streams at t = 1: keys [B] -> {name: [B, *shape]}."""
    return {
        name: stream.process.prior(fold(fold(keys, PRIOR), stream_id(name)), stream.shape)
        for name, stream in streams.items()
    }
