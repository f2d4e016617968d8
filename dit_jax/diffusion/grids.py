"""Noise levels that a sampler walks through: one row of them a stream.

A grid is a function (schedule, steps) -> the steps + 1 levels of a Gaussian stream, from 1 down to 0.
"""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.levels import shifted
from dit_jax.diffusion.schedules import Schedule, level_at
from dit_jax.diffusion.stream import Streams, generation_order

Grid = Callable[[Schedule, int], np.ndarray]

LOUDEST, QUIETEST = 80.0, 0.002  # EDM's range of sigma / alpha


def uniform(schedule: Schedule, steps: int) -> np.ndarray:
    """Even in t."""
    return np.linspace(1, 0, steps + 1)


def even_log_snr(schedule: Schedule, steps: int) -> np.ndarray:
    """Even in log(sigma / alpha), over EDM's range (Lu et al. 2022)."""
    return _through(schedule, np.exp(np.linspace(np.log(LOUDEST), np.log(QUIETEST), steps)))


def karras(schedule: Schedule, steps: int) -> np.ndarray:
    """Even in (sigma / alpha)^(1/7), over EDM's range (Karras et al. 2022, eq. 5)."""
    return _through(schedule, np.linspace(LOUDEST ** (1 / 7), QUIETEST ** (1 / 7), steps) ** 7)


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


def rows(
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
    which are drawn, or None for all that can be.
    prefix: how many groups of a given stream are given, the first ones; the others are drawn. Masked streams have no
    sigma: they go evenly in t. Where a stream has a past, these are the steps of each of its groups, which take turns:
    a staircase, as long as it takes to draw them all.
    """
    first, turns = prefix or {}, generation_order(streams)
    known = {name: first.get(name, s.groups if name in given else 0) for name, s in streams.items()}
    wanted = {name for name, s in streams.items() if s.head is not None and (drawn is None or name in drawn)}
    # What is drawn in the same turn goes down together, for `steps` steps.
    begins = {name: np.broadcast_to(turns[name], streams[name].groups)[known[name] :] for name in wanted}
    stages = np.unique(np.concatenate([[], *begins.values()]))
    places = np.arange(steps * max(len(stages), 1) + 1)

    def row(name, stream):
        if stream.copies or known[name] == stream.groups:
            return np.zeros(len(places))
        levels = np.ones(len(places))
        if name in wanted:
            process = stream.process
            levels = grid(process.schedule, steps) if isinstance(process, Gaussian) else np.linspace(1, 0, steps + 1)
            levels = np.minimum(shifted(levels, shift), process.top)
            begin = steps * np.searchsorted(stages, turns[name])
            levels = levels[np.clip(np.subtract.outer(places, begin), 0, steps)]
        if name not in first:
            return levels
        return np.where(np.arange(stream.groups) < first[name], 0.0, levels.reshape(len(places), -1))

    return {name: row(name, stream) for name, stream in streams.items()}


def moving(schedule: dict[str, np.ndarray]) -> list[str]:
    """The streams whose levels change along their rows."""
    return [name for name, row in schedule.items() if np.any(row[0] != row[-1])]


def _through(schedule: Schedule, ratios: np.ndarray) -> np.ndarray:
    """Levels with these falling sigma / alpha, the first moved up to t = 1, where samples start, and t = 0 after."""
    with jax.ensure_compile_time_eval():  # numbers, also while a sampler is being traced
        levels = np.array(level_at(schedule, -jnp.log(jnp.asarray(ratios))))
    levels[0] = 1.0
    return np.append(levels, 0.0)
