"""What has changed in a config since a checkpoint: key by key, and by what values mean, however they are written."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from dit_jax.diffusion.ddpm import PROCESSES
from dit_jax.diffusion.joint_levels import JOINT_LEVELS
from dit_jax.diffusion.levels import LEVELS
from dit_jax.network.layers import BLOCKS
from dit_jax.run import Run
from dit_jax.schema import meaning

# Where configs write calls of rows, or their names: the tables, by the last word of a key.
CALLS: dict[str, Mapping[str, Callable]] = {
    "process": PROCESSES,
    "levels": {**LEVELS, **JOINT_LEVELS},
    "block": BLOCKS,
}
FREE = ("model.dtype", "model.remat", "model.unroll")  # of what decides parameters otherwise
ABSENT = object()

Changes = dict[str, tuple[Any, Any]]  # key -> (what it was, what it is)


def changes(was: Any, now: Any, key: str = "") -> Changes:
    """{key: (old value, new value)} of a config. Options that are newer than the old one are not among them: what they
    change shows in the parameters."""
    if isinstance(was, dict) and isinstance(now, dict):
        keys = {**was, **now} if key == "streams" else was
        pairs = {f"{key}.{name}".strip("."): (was.get(name, ABSENT), now.get(name, ABSENT)) for name in keys}
        return {name: pair for inner, both in pairs.items() for name, pair in changes(*both, inner).items()}
    return {} if _same(was, now, CALLS.get(key.rpartition(".")[2])) else {key: (was, now)}


def as_begun(run: Run, was: dict[str, Any] | None) -> Run:
    """A run as it goes on from the config of its newest checkpoint: nothing is held out of a folder, for good, by one
    that was begun before anything could be."""
    if was is None or "holdout" in was.get("data", {}):
        return run
    entries = {name: value for name, value in run.config.get("data", {}).items() if name != "holdout"}
    data = dataclasses.replace(run.data, holdout=0.0)
    return dataclasses.replace(run, data=data, config={**run.config, "data": entries})


def fixed(changed: Changes) -> Changes:
    """Those of them that a run cannot go on with: they decide what its arrays are, or what they mean."""
    return {
        key: pair
        for key, pair in changed.items()
        if key == "optimizer.name" or (key.startswith(("streams.", "model.")) and key not in FREE)
    }


def written(value: Any) -> str:
    """A value of a config in a sentence; a stream by its kind."""
    if value is ABSENT:
        return "absent"
    return f"a stream of kind {value.get('kind')!r}" if isinstance(value, dict) else repr(value)


def _same(was: Any, now: Any, table: Mapping[str, Callable] | None) -> bool:
    if was == now or table is None or not (isinstance(was, str) and isinstance(now, str)):
        return bool(was == now)
    return meaning(was, table) == meaning(now, table)
