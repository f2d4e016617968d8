"""Checkpoints: what is in one, and how the newest good one is found and read, onto any mesh.

WORKDIR/checkpoints/STEP holds `params`, `ema` and `opt` as arrays, and `meta`: the step, the position in the data, what
the data are, the config, the versions that wrote it, what its arrays mean, and a checksum of each array and of meta
itself. Sampling needs `ema` and `meta` alone. saving.py writes them.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from dit_jax.data import identity
from dit_jax.parallel import hosts
from dit_jax.training import fingerprint
from dit_jax.training.changes import changes, fixed, written
from dit_jax.training.orbax_noise import hush
from dit_jax.training.step import State

ARRAYS = ("params", "ema", "opt")
ITEMS = (*ARRAYS, "meta")
PACKAGES = ("dit_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
ALL_PROCESSES = ocp.options.MultiprocessingOptions()  # of a job, together
Read = TypeVar("Read")


# What the arrays of a checkpoint mean. In layout 1, which names none, rows of `level_offset` are in the order of the
# config's streams that have tokens; since layout 2 in the order of their names.
LAYOUT = 2
WITHOUT_TOKENS = ("label", "span", "duration")


class CheckpointError(OSError):
    """A checkpoint that is missing, cannot be read, or is not of this run."""


class DamagedError(CheckpointError):
    """A checkpoint that is not as it was written."""

    def __init__(self, path: Path, why: str):
        super().__init__(f"{path} is damaged: {why}")
        self.path, self.why = path, why


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One that is whole as far as its meta goes: step, data_position, config, versions."""

    path: Path
    meta: dict[str, Any]


# What is there ------------------------------------------------------------------------------------------------------


def directory_of(workdir: str | Path) -> Path:
    return Path(workdir).resolve() / "checkpoints"


def steps(workdir: str | Path) -> list[int]:
    """The steps of which there are checkpoints, in order; anything else that is beside them is none."""
    directory = directory_of(workdir)
    entries = directory.iterdir() if directory.is_dir() else []
    return sorted(int(path.name) for path in entries if re.fullmatch(r"0|[1-9][0-9]*", path.name) and path.is_dir())


def newest_config(workdir: str | Path) -> dict[str, Any] | None:
    """The config in the newest checkpoint whose meta can be read, None where there is none. Nothing is said."""
    for step in reversed(steps(workdir)):
        with contextlib.suppress(DamagedError):
            return load(directory_of(workdir) / str(step)).meta["config"]
    return None


def newest_good(
    workdir: str | Path, read: Callable[[Checkpoint], Read], step: int | None = None, set_aside: bool = False
) -> Read:
    """read(checkpoint) of the newest one that is as it was written, or of that of a step.

    read may raise DamagedError: then the one before is tried, and what is damaged is named. set_aside: it is renamed as
    well, which only the process that trains may do, and nothing is where no other can be read. Raises CheckpointError
    if there is none, or none that is good.
    """
    directory = directory_of(workdir)
    there = steps(workdir)
    if not there:
        raise CheckpointError(f"there is no checkpoint in {directory}; train with this --workdir first")
    if step is not None:
        if step not in there:
            raise CheckpointError(f"{directory} has no checkpoint {step}; it has {', '.join(map(str, there))}")
        return read(load(directory / str(step)))
    damaged: dict[int, DamagedError] = {}
    while left := [other for other in steps(workdir) if other not in damaged]:
        path = directory / str(left[-1])
        try:
            found = read(load(path))
        except DamagedError as error:
            if path.exists():  # and has not been removed meanwhile by the process that trains
                damaged[left[-1]] = error
            continue
        for harm in damaged.values():
            print(f"{harm}{_as(put_aside(harm)) if set_aside else ''}; step {path.name} is used")
        return found
    raise CheckpointError("; ".join(map(str, damaged.values())) + ": none is left, and nothing was changed")


def _as(path: Path) -> str:
    return f", and is set aside as {path.name}"


def put_aside(error: DamagedError) -> Path:
    """Rename what is damaged, so that it is no checkpoint any more, and return where it is."""
    path = error.path
    if hosts.is_first():
        taken = [*path.parent.glob(f"{path.name}.damaged*")]
        path = path.rename(f"{path}.damaged{f'-{len(taken) + 1}' if taken else ''}")
    return path


# Reading ------------------------------------------------------------------------------------------------------------


def load(path: Path) -> Checkpoint:
    """A checkpoint, of which meta has been read. Raises DamagedError if that is not as it was written."""
    try:
        meta = json.loads((path / "meta" / "metadata").read_text())
        step, config = meta["step"], meta["config"]
        assert isinstance(step, int) and isinstance(config, dict) and isinstance(meta["data_position"], int)
    except (OSError, ValueError, LookupError, TypeError, AssertionError) as error:
        raise DamagedError(path, f"meta cannot be read ({type(error).__name__})") from error
    if ("digest" in meta) != ("fingerprints" in meta) or ("digest" in meta and meta["digest"] != digest(meta)):
        raise DamagedError(path, "meta is not what was written")
    if str(step) != path.name:
        raise DamagedError(path, f"it is the checkpoint of step {step}")
    return Checkpoint(path, meta)


def read_arrays(checkpoint: Checkpoint, wanted: dict[str, Any]) -> dict[str, Any]:
    """{item: arrays} for {item: what says their shapes, types and shardings}, each compared with its checksum.

    Raises DamagedError for arrays that are not those that were written, or not finite, and CheckpointError if others
    are wanted than the checkpoint holds.
    """
    for name, tree in wanted.items():
        _check_layout(checkpoint, name, fingerprint.layout(tree))
    arrays = {name: _with_orbax(checkpoint.path / name, _restored(tree)) for name, tree in wanted.items()}
    found = fingerprint.survey(arrays)
    recorded = _flat(checkpoint.meta.get("fingerprints", {}))
    for leaf, value in found.fingerprints.items():
        if recorded.get(leaf, value) != value:
            raise DamagedError(checkpoint.path, f"{leaf} is not what was written")
    if found.not_finite:
        raise DamagedError(checkpoint.path, f"{found.not_finite[0]} has values that are not finite")
    return {name: _by_name(tree, checkpoint.meta) for name, tree in arrays.items()}


def check_on_host(checkpoint: Checkpoint) -> None:
    """Read a checkpoint back, an item at a time, without a device and by this process alone. Raises DamagedError for
    arrays that are not those that were written."""
    for item, recorded in checkpoint.meta["fingerprints"].items():
        for leaf, x in read_on_host(checkpoint.path / item).items():
            if recorded[leaf].split()[1] != f"{fingerprint.host_checksum(x):08x}":
                raise DamagedError(checkpoint.path, f"{item}/{leaf} is not what was written")


def read_on_host(item: Path) -> dict[str, np.ndarray]:
    """The arrays of an item of a checkpoint, by the names of its leaves. Raises DamagedError if they cannot be read."""
    here = _this_process()

    def read(reader: ocp.StandardCheckpointer, at: Path) -> Any:
        tree = reader.metadata(at).item_metadata.tree
        kinds = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=here)
        with ocp.Checkpointer(handler, multiprocessing_options=here) as plain:
            return plain.restore(at, ocp.args.PyTreeRestore(restore_args=kinds))

    leaves = jax.tree_util.tree_leaves_with_path(_with_orbax(item, read, here))
    return {fingerprint.leaf_name(path): x for path, x in leaves}


def _this_process() -> ocp.options.MultiprocessingOptions:
    """For what one process does with Orbax, and no other has to wait for."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    here = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}"
    )


def _check_layout(checkpoint: Checkpoint, item: str, wanted: dict[str, str]) -> None:
    """Raises CheckpointError if an item has other leaves than are wanted, which is no damage."""
    if "fingerprints" in checkpoint.meta:
        recorded = {leaf: value.split()[0] for leaf, value in checkpoint.meta["fingerprints"].get(item, {}).items()}
    else:
        recorded = _with_orbax(
            checkpoint.path / item, lambda reader, at: fingerprint.layout(reader.metadata(at).item_metadata.tree)
        )
    for leaf in {**wanted, **recorded}:
        was, now = recorded.get(leaf, "absent"), wanted.get(leaf, "absent")
        if was != now:
            raise CheckpointError(
                f"{checkpoint.path} holds other arrays than this run: {item}/{leaf} is {was} there, and should be {now}"
            )


def _restored(tree: Any) -> Callable[[ocp.StandardCheckpointer, Path], Any]:
    return lambda reader, at: reader.restore(at, tree)


def _with_orbax(
    at: Path,
    ask: Callable[[ocp.StandardCheckpointer, Path], Read],
    processes: ocp.options.MultiprocessingOptions | None = None,
) -> Read:
    """What Orbax reads of an item. It raises errors of any kind, and has pages to say of them, for files that are not
    what it wrote: all of that is one DamagedError."""
    hush()
    try:
        with ocp.StandardCheckpointer(multiprocessing_options=processes or ALL_PROCESSES) as reader:
            return ask(reader, at)
    except Exception as error:
        kind = type(error).__name__
    raise DamagedError(at.parent, f"{at.name} cannot be read ({kind})")


def _flat(fingerprints: dict[str, dict[str, str]]) -> dict[str, str]:
    return {f"{item}/{leaf}": value for item, leaves in fingerprints.items() for leaf, value in leaves.items()}


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


# A run that goes on -------------------------------------------------------------------------------------------------


def restore(
    workdir: str | Path, abstract: State, config: dict, data: dict | None = None, changed: str = "refuse"
) -> tuple[int, State | None, bool]:
    """(position in the data, state, whether its keys are apart from those of samples) of the newest good checkpoint,
    laid out as `abstract` says; (0, None, True) where there is none at all. What is damaged is set aside.

    What has changed in the config is printed. Raises CheckpointError, by key, for what cannot change; for other data,
    unless changed = "allow"; and for weights from elsewhere.
    """
    if not steps(workdir):
        return 0, None, True

    def read(checkpoint: Checkpoint) -> tuple[int, State, bool]:
        meta = checkpoint.meta
        edits = [*_checked_config(checkpoint, config), *_checked_data(checkpoint, data, changed)]
        arrays = read_arrays(checkpoint, {name: getattr(abstract, name) for name in ARRAYS})
        print("".join(f"{edit}\n" for edit in edits), end="")
        step = jax.device_put(np.int32(meta["step"]), abstract.step.sharding)
        return meta["data_position"], abstract._replace(step=step, **arrays), meta.get("keys_apart", False)

    return newest_good(workdir, read, set_aside=True)


def _checked_config(checkpoint: Checkpoint, config: dict) -> list[str]:
    """A line for each key that has changed. Raises CheckpointError for what cannot."""
    if "source" in checkpoint.meta:
        raise CheckpointError(
            f"{checkpoint.path} holds the weights of {checkpoint.meta['source']}, which can be sampled from; to train "
            f"them further, choose another --workdir and give --config.train.init={checkpoint.path.parents[1]}"
        )
    changed = changes(checkpoint.meta["config"], config)
    if refused := fixed(changed):
        keys = ", ".join(f"{key} was {written(was)} and is {written(now)}" for key, (was, now) in refused.items())
        what = "optimizer" if [*refused] == ["optimizer.name"] else "network"
        raise CheckpointError(
            f"{checkpoint.path} holds another {what}: {keys}; choose another --workdir, or go back to what it was"
        )
    return [f"{key}: {written(was)} -> {written(now)}" for key, (was, now) in changed.items()]


def _checked_data(checkpoint: Checkpoint, data: dict | None, changed: str) -> list[str]:
    """A line that says what has changed in the data, if it may."""
    was = checkpoint.meta.get("data")
    if was is None or data is None or not (found := identity.differences(was, data)):
        return []
    if changed == "refuse":
        raise CheckpointError(
            f"{checkpoint.path} was trained on other data: {found}; go back to them, or say "
            "--config.data.changed=allow to go on with these"
        )
    return [f"the data have changed: {found}"]


# meta ---------------------------------------------------------------------------------------------------------------


def digest(meta: dict) -> str:
    """The sha256 of meta, but for the digest itself."""
    rest = {name: value for name, value in meta.items() if name != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """What is installed, of the packages that decide what a run computes; a checkout need not be."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
