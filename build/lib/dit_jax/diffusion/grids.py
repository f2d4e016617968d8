"""Timestep spacing: the noise levels of a sampler's steps, one row of them for each stream.

A grid is a function (schedule, steps) -> the steps + 1 levels of a Gaussian stream, from 1 down to 0. `level_rows`
makes of it the rows of a whole sample: what is given stays at 0, what is marginalised out at 1, and the rest goes down.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from dit_jax.diffusion.levels import shifted
from dit_jax.diffusion.schedules import Schedule, level_at
from dit_jax.diffusion.stream import Stream, Streams, drawable, generation_order

Grid = Callable[[Schedule, int], np.ndarray]

SIGMA_MAX, SIGMA_MIN = 80.0, 0.002  # EDM's range of sigma / alpha


def uniform(schedule: Schedule, steps: int) -> np.ndarray:
    """Even in t."""
    return np.linspace(1, 0, steps + 1)


def even_log_snr(schedule: Schedule, steps: int) -> np.ndarray:
    """Even in log(sigma / alpha), over EDM's range (Lu et al. 2022)."""
    return _at_ratios(schedule, np.exp(np.linspace(np.log(SIGMA_MAX), np.log(SIGMA_MIN), steps)))


def karras(schedule: Schedule, steps: int) -> np.ndarray:
    """Even in (sigma / alpha)^(1/7), over EDM's range (Karras et al. 2022, eq. 5)."""
    return _at_ratios(schedule, np.linspace(SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7), steps) ** 7)


def timesteps(schedule: Schedule, steps: int) -> np.ndarray:
    """DDPM's timesteps 999 ... 0 respaced evenly and rounded, and the clean end (Nichol & Dhariwal 2021)."""
    return np.append((np.round(np.linspace(999, 0, steps)) + 1) / 1000, 0.0)


def long_last(schedule: Schedule, steps: int) -> np.ndarray:
    """Even in t down to 0.04, and from there in one step: SiT's for stochastic sampling."""
    return np.append(np.linspace(1, 0.04, steps), 0.0)


GRIDS: dict[str, Grid] = {
    "uniform": uniform,
    "even_log_snr": even_log_snr,
    "karras": karras,
    "timesteps": timesteps,
    "long_last": long_last,
}


def level_rows(
    streams: Streams,
    given: Iterable[str],
    steps: int,
    shift: float = 1.0,
    grid: Grid = uniform,
    prefix: dict[str, int] | None = None,
    drawn: Iterable[str] | None = None,
) -> dict[str, np.ndarray]:
    """The levels of each stream before and after each of a sampler's steps: {name: [steps + 1] or [steps + 1, G]}.

    A given stream stays at 0, one that is drawn goes from 1 to 0, any other stays at 1: it is marginalised out. drawn:
    which are drawn, or None for all that can be. prefix: how many groups of a given stream are given, the first ones;
    the others are drawn. Where a stream has a past, these are the steps of each of its groups, one group after another:
    a staircase, as long as it takes to draw them all.
    """
    prefix, order = prefix or {}, generation_order(streams)
    given_groups = {name: prefix.get(name, s.groups if name in given else 0) for name, s in streams.items()}
    wanted = {name for name in drawable(streams) if drawn is None or name in drawn}
    # What is drawn at the same time goes down together, for `steps` steps.
    times = {name: np.broadcast_to(order[name], streams[name].groups)[given_groups[name] :] for name in wanted}
    stages = np.unique(np.concatenate([[], *times.values()]))
    length = steps * max(len(stages), 1) + 1

    def row(name: str, stream: Stream) -> np.ndarray:
        if stream.past_of or given_groups[name] == stream.groups:
            return np.zeros(length)
        levels = np.ones(length)
        if name in wanted:
            down = np.minimum(shifted(stream.process.level_row(grid, steps), shift), stream.process.top)
            levels = _staircase(down, steps * np.searchsorted(stages, order[name]), length)
        if name not in prefix:
            return levels
        return np.where(np.arange(stream.groups) < prefix[name], 0.0, levels.reshape(length, -1))

    return {name: row(name, stream) for name, stream in streams.items()}


def _staircase(down: np.ndarray, begin: np.ndarray, length: int) -> np.ndarray:
    """[length, *begin.shape]: at the top until the step `begin` of each group, down in the steps after it, then
    clean."""
    return down[np.clip(np.subtract.outer(np.arange(length), begin), 0, len(down) - 1)]


def moving(rows: dict[str, np.ndarray]) -> list[str]:
    """The streams whose levels change along their rows."""
    return [name for name, row in rows.items() if np.any(row[0] != row[-1])]


def _at_ratios(schedule: Schedule, ratios: np.ndarray) -> np.ndarray:
    """Levels with these falling sigma / alpha, the first moved up to t = 1, where samples start, and t = 0 after."""
    with jax.ensure_compile_time_eval():  # numbers, also while a sampler is being traced
        levels = np.array(level_at(schedule, -jnp.log(jnp.asarray(ratios))))
    levels[0] = 1.0
    return np.append(levels, 0.0)
