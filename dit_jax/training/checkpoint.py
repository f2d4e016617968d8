"""Checkpoints by Orbax: written in the background, moved into place in one rename, restored onto any mesh.

WORKDIR/checkpoints/STEP holds `params`, `ema` and `opt` as arrays, and `meta`: the step, the position in the data, the
config, the versions that wrote it, and what its arrays mean. Sampling needs `ema` and `meta` alone.
"""

import contextlib
import importlib.metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from dit_jax.training.step import State

ITEMS = ("params", "ema", "opt", "meta")
PACKAGES = ("dit_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


# What the arrays of a checkpoint mean. In layout 1, which names none, rows of `level_offset` are in the order of the
# config's streams that have tokens; since layout 2 in the order of their names.
LAYOUT = 2
WITHOUT_TOKENS = ("label", "span", "duration")


class CheckpointError(OSError):
    """A checkpoint that is missing or cannot be read."""


def open_manager(workdir: str | Path, keep: int) -> ocp.CheckpointManager:
    """The checkpoints of a run that trains, the newest `keep` of them; one half written by a killed process is removed.

    To be used in a `with`, which waits for what is being written.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
    )
    return ocp.CheckpointManager(Path(workdir).resolve() / "checkpoints", item_names=ITEMS, options=options)


def open_reader(workdir: str | Path) -> ocp.CheckpointManager:
    """The checkpoints of a run, which may be training meanwhile: nothing is written or removed."""
    directory = Path(workdir).resolve() / "checkpoints"
    if not directory.is_dir():
        raise CheckpointError(f"there is no checkpoint in {directory}; train with this --workdir first")
    options = ocp.CheckpointManagerOptions(create=False, cleanup_tmp_directories=False)
    return ocp.CheckpointManager(directory, item_names=ITEMS, options=options)


def save(
    manager: ocp.CheckpointManager,
    step: int,
    state: State,
    config: dict,
    keys_apart: bool = True,
    position: int | None = None,
):
    """Write `state` after `step` updates; returns once the arrays are copied, and writes while training goes on.

    keys_apart: see `keys_apart`, which a run keeps for as long as it goes on. position: of the next batch in the data,
    if it is not `step`.
    """
    meta = _meta(step, config) | {"keys_apart": keys_apart}
    meta["data_position"] = step if position is None else position
    manager.save(
        step,
        args=ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            ema=ocp.args.StandardSave(state.ema),
            opt=ocp.args.StandardSave(state.opt),
            meta=ocp.args.JsonSave(meta),
        ),
    )


def save_weights(workdir: str | Path, params: Any, config: dict, source: str):
    """Write parameters that come from elsewhere, which `source` names, as a run's only checkpoint: to sample from.

    Raises CheckpointError if there is one already.
    """
    meta = _meta(0, config) | {"source": source}
    with open_manager(workdir, keep=1) as manager:
        if manager.latest_step() is not None:
            raise CheckpointError(f"there is a checkpoint in {manager.directory} already; choose another --workdir")
        manager.save(0, args=ocp.args.Composite(ema=ocp.args.StandardSave(params), meta=ocp.args.JsonSave(meta)))


def restore(manager: ocp.CheckpointManager, abstract: State, config: dict) -> tuple[int, State]:
    """(position in the data, state) of the newest checkpoint, laid out as `abstract` says.

    Raises CheckpointError if the config asks for another network than the checkpoint holds, or if it holds weights
    from elsewhere.
    """
    meta = read_meta(manager)
    if "source" in meta:
        raise CheckpointError(
            f"{manager.directory} holds the weights of {meta['source']}, which can be sampled from; to train "
            f"them further, choose another --workdir and give --config.train.init={manager.directory.parent}"
        )
    for section in ("streams", "model"):
        if not _agree(meta["config"][section], config[section]):
            raise CheckpointError(
                f"{manager.directory} holds another network: {section} was {meta['config'][section]} and is now "
                f"{config[section]}; choose another --workdir, or go back to the old config"
            )
    step, meta, arrays = _read(manager, {name: getattr(abstract, name) for name in ("params", "ema", "opt")})
    place = lambda x: jax.device_put(x, abstract.step.sharding)
    return meta["data_position"], State(place(jnp.asarray(step, jnp.int32)), **arrays)


def restore_ema(manager: ocp.CheckpointManager, abstract: Any) -> Any:
    """The averaged parameters of the newest checkpoint, laid out as `abstract` says: what samples are drawn with."""
    return _read(manager, {"ema": abstract})[2]["ema"]


def read_meta(manager: ocp.CheckpointManager) -> dict:
    """What the newest checkpoint says of itself: step, data_position, config, versions."""
    if manager.latest_step() is None:
        raise CheckpointError(f"there is no checkpoint in {manager.directory}; train with this --workdir first")
    return _read(manager, {})[1]


def keys_apart(manager: ocp.CheckpointManager) -> bool:
    """Whether a run's training keys are apart from those that samples of the same seed take: all but old ones are."""
    return manager.latest_step() is None or read_meta(manager).get("keys_apart", False)


def _meta(step: int, config: dict) -> dict[str, Any]:
    return {"step": step, "data_position": step, "config": config, "versions": versions(), "layout": LAYOUT}


def versions() -> dict[str, str]:
    """What is installed, of the packages that decide what a run computes; a checkout need not be."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _agree(was: Any, now: Any) -> bool:
    """Whether a part of a config is what it was, but for options that are newer than the checkpoint: what they change
    shows in the parameters."""
    if isinstance(was, dict) and isinstance(now, dict):
        return was.keys() <= now.keys() and all(_agree(value, now[key]) for key, value in was.items())
    return was == now


def _by_name(tree: Any, meta: dict) -> Any:
    """Arrays of any layout in the newest one."""
    names = [name for name, entries in meta["config"]["streams"].items() if entries["kind"] not in WITHOUT_TOKENS]
    if meta.get("layout", 1) == LAYOUT or names == sorted(names):
        return tree
    rows = np.array([names.index(name) for name in sorted(names)])

    def moved(path, x):
        offset = jax.tree_util.keystr(path[-1:], simple=True) == "level_offset"
        return jax.device_put(x[rows], x.sharding) if offset else x

    return jax.tree_util.tree_map_with_path(moved, tree)


def _read(manager: ocp.CheckpointManager, wanted: dict[str, Any]) -> tuple[int, dict, dict[str, Any]]:
    step = manager.latest_step()
    try:
        arguments = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        read = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **arguments))
        return step, read["meta"], {name: _by_name(read[name], read["meta"]) for name in wanted}
    except Exception as error:
        earlier = [other for other in manager.all_steps() if other != step]
        advice = f"move it away to go on from step {max(earlier)}" if earlier else "there is no earlier one"
        raise CheckpointError(
            f"{manager.directory / str(step)} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]}); "
            f"nothing was changed; {advice}"
        ) from error
