"""Encoding (DDIM inversion): the probability flow upwards, from data to the noise that a sampler would make them of.

It is the sampler's scan, along rows of levels that rise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.grids import SIGMA_MIN
from dit_jax.diffusion.guidance import Guidance
from dit_jax.diffusion.keys import check_key, domain, example_keys
from dit_jax.diffusion.sampler import as_guidance, check_whole, sample_rows
from dit_jax.diffusion.schedules import level_at
from dit_jax.diffusion.solver import Solver
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import (
    Arrays,
    Predict,
    Streams,
    check_arrays,
    check_values,
    drawable,
    generation_order,
)
from dit_jax.names import check_names, row

# The way up begins at alpha x, where sigma / alpha is this. What a network gets wrong there grows with sigma on the
# way.
FLOOR = SIGMA_MIN


def encode(
    predict: Predict,
    streams: Streams,
    key: Array,
    x: Arrays,
    given: Arrays | None = None,
    steps: int = 50,
    solver: Solver | str = "heun",
    guidance: Guidance | float | dict[str, float] | None = None,
    floor: float = FLOOR,
) -> Arrays:
    """The noise {name: [B, *shape]} that the probability flow makes into x {name: [B, *shape]}.

    `sample(start=encode(...))` gives x back, as nearly as the steps of both are small (Song, Meng & Ermon 2021). given:
    {name: [B, *shape]} clean values of other streams. Any stream in neither is marginalised out. solver: one that can
    climb to t = 1, as Heun's can. floor: sigma / alpha where it begins, small beside the finest structure of x, but no
    smaller than a network has learnt. Raises ValueError if a stream in x has no flow, and for what `sample` refuses.
    """
    n, given = check_clean(streams, key, x, given or {}), given or {}
    chosen, guide = row(SOLVERS, solver, "solver"), as_guidance(guidance, streams)
    keys = example_keys(domain(key, "encode"), jnp.arange(n))
    return encode_rows(predict, streams, keys, x, given, check_whole(steps, "steps"), chosen, guide, floor)


def check_clean(streams: Streams, key: Array, x: Arrays, given: Arrays) -> int:
    """How many examples are in x. Raises ValueError for what no flow moves, or no data can be: see `encode`."""
    check_key(key)
    flow_processes(streams, x)
    check_arrays(streams, x, "x")
    n = len(next(iter(x.values())))
    check_arrays(streams, given, "given", n)
    check_values(streams, x, "x")
    check_values(streams, given, "given")
    return n


def encode_rows(
    predict: Predict,
    streams: Streams,
    keys: Array,
    x: Arrays,
    given: Arrays,
    steps: int = 50,
    solver: Solver = SOLVERS["heun"],
    guidance: Guidance | None = None,
    floor: float = FLOOR,
) -> Arrays:
    """The encoder itself, with keys [B]."""
    rows = {name: np.full(steps + 1, 0.0 if name in given else 1.0) for name in streams}
    processes = flow_processes(streams, x)
    rows |= {name: encoding_levels(process, np.linspace(0, 1, steps + 1), floor) for name, process in processes.items()}
    start = {name: process.schedule(jnp.asarray(rows[name][0]))[0] * x[name] for name, process in processes.items()}
    end = sample_rows(predict, streams, keys, given, rows, solver, guidance, start)
    return {name: end[name] for name in x}


def encoding_levels(process: Gaussian, u: Any, floor: float = FLOOR) -> Any:
    """u in [0, 1] -> levels from where sigma / alpha is the floor up to the top.

    They are even in sqrt(t): finest at the data, and so that no schedule has the root of u for its sigma.
    """
    with jax.ensure_compile_time_eval():  # a number, also while a sampler is being traced
        low = float(level_at(process.schedule, jnp.asarray(-math.log(floor))))
    return (math.sqrt(low) * (1 - u) + math.sqrt(process.top) * u) ** 2


def flow_processes(streams: Streams, names: Iterable[str]) -> dict[str, Gaussian]:
    """The processes of streams that one probability flow moves together. Raises ValueError if there is none for a name:
    it is masked, only ever given, or drawn group after group."""
    names = list(names)
    check_names(names, streams, "x: the stream")
    if not names:
        raise ValueError(f"x is empty, and should have one or more of: {', '.join(streams)}")
    order, able = generation_order(streams), drawable(streams)
    without = [name for name in names if name not in able or not able[name].process.is_continuous or order[name].ndim]
    if without:
        raise ValueError(f"no probability flow moves {', '.join(without)}: it takes a Gaussian one drawn at once")
    return {name: cast(Gaussian, streams[name].process) for name in names}
