"""Sampling is one scan that walks the levels of all streams, each along its own row of a schedule."""

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import levels
from dit_jax.diffusion.guidance import Guidance
from dit_jax.diffusion.keys import example_keys, fold, stream_id
from dit_jax.diffusion.objective import Predict, Sample
from dit_jax.diffusion.solvers import SOLVERS, Solver
from dit_jax.diffusion.stream import Streams

PRIOR, STEPS = 0, 1  # an example's randomness: one key for where it starts, one for each step from there


def sample(
    predict: Predict,
    streams: Streams,
    key: Array,
    num: int,
    given: Sample | None = None,
    steps: int = 25,
    solver: Solver = SOLVERS["2m"],
    guidance: Guidance | None = None,
    shift: float = 1.0,
) -> Sample:
    """Draw samples 0 ... num - 1 of a key: {name: [num, *shape]}.

    given: {name: [num, *shape]} clean values of some streams. Streams that can be drawn are drawn together, and any
    other is marginalised out.
    """
    schedule = levels.schedule(streams, given or {}, steps, shift)
    return walk(predict, streams, example_keys(key, jnp.arange(num)), given or {}, schedule, solver, guidance)


def walk(
    predict: Predict,
    streams: Streams,
    keys: Array,
    given: Sample,
    schedule: dict,
    solver: Solver = SOLVERS["2m"],
    guidance: Guidance | None = None,
) -> Sample:
    """The sampler itself: keys [B], given {name: [B, *shape]}, schedule {name: [steps + 1]} -> {name: [B, *shape]}.

    The schedule is static, and a stream whose row is constant does not move: conditional, joint and marginal sampling
    differ in their schedules only. Each example depends on its own key alone.
    """
    prior = {
        name: stream.process.prior(fold(fold(keys, PRIOR), stream_id(name)), stream.shape)
        for name, stream in streams.items()
    }
    if guidance is not None and given:
        predict = guidance(predict, {name: prior[name] for name in given})
    moving = {name: stream.process for name, stream in streams.items() if schedule[name][0] != schedule[name][-1]}
    rows = {name: jnp.asarray(row) for name, row in schedule.items()}

    def at(levels: dict[str, Array]) -> dict[str, Array]:
        return {name: jnp.broadcast_to(level, len(keys)) for name, level in levels.items()}

    def step(carry, scanned):
        (x, memory), (i, t, s) = carry, scanned
        moved, memory = solver.step(predict, moving, fold(keys, STEPS + i), x, at(t), at(s), memory)
        return ({**x, **moved}, memory), None

    x = {**prior, **given}
    start = at({name: row[0] for name, row in rows.items()})
    memory = solver.init({name: x[name] for name in moving}, start)
    froms, tos = ({name: row[cut] for name, row in rows.items()} for cut in (slice(-1), slice(1, None)))
    indices = jnp.arange(len(next(iter(rows.values()))) - 1)
    (x, _), _ = jax.lax.scan(step, (x, memory), (indices, froms, tos))
    return x
