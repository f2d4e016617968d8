"""Writing checkpoints by Orbax: in the background, moved into place in one rename, read back, and only then the oldest
removed, in one rename."""

import contextlib
import json
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from dit_jax.parallel import hosts
from dit_jax.training.checkpoint import (
    ARRAYS,
    ITEMS,
    LAYOUT,
    CheckpointError,
    DamagedError,
    check_on_host,
    digest,
    directory_of,
    load,
    put_aside,
    steps,
    versions,
)
from dit_jax.training.fingerprint import survey
from dit_jax.training.lock import locked
from dit_jax.training.orbax_noise import hush
from dit_jax.training.step import State

HALF_WRITTEN = "*.orbax-checkpoint-tmp*"
REMOVED = "_removed"  # where old checkpoints are moved before they are deleted, file by file


class NotFiniteError(CheckpointError):
    """A state that is not written, because it holds a value that is not finite."""


class Saver:
    """Checkpoints of a run that trains, of which the newest `keep` stay.

    To be used in a `with`, which waits for what is being written, and by one process at a time (see lock.py). A write
    that fails, such as on a full disk, or that cannot be read back, is a warning, and an error only if it was the last
    one.
    """

    def __init__(self, workdir: str | Path, keep: int):
        self._workdir, self._keep = Path(workdir), keep
        self._manager: ocp.CheckpointManager | None = None
        self._writing: int | None = None
        self._waiting: threading.Thread | None = None
        self._failure = ""

    def __enter__(self) -> "Saver":
        hush()
        self._purge()  # what a process was about to delete that was killed
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.wait()
        self._close()
        if self._failure and kind is None:
            raise CheckpointError(f"{self._failure}: see to the disk, and run the same command again")

    @property
    def newest(self) -> int | None:
        """The step of the newest checkpoint, which may still be on its way."""
        if self._waiting is not None and self._waiting.is_alive():
            return self._writing
        self.wait()
        return max(steps(self._workdir), default=None)

    def save(self, step: int, state: State, about: dict[str, Any]) -> None:
        """Write `state` after `step` updates; returns once the arrays are copied, and writes while training goes on.

        about: what else meta says. Raises NotFiniteError if a value of it is not finite.
        """
        self.write(step, {name: getattr(state, name) for name in ARRAYS}, about)

    def write(self, step: int, arrays: dict[str, Any], about: dict[str, Any]) -> None:
        """As `save`, of arrays by the names of items."""
        if step == self.newest:
            return
        found = survey(arrays)
        if found.not_finite:
            newest = "there is none" if self.newest is None else f"the newest is that of step {self.newest}"
            raise NotFiniteError(
                f"step {step} has values that are not finite, {found.not_finite[0]} among them: no checkpoint is "
                f"written, {newest}"
            )
        fingerprints: dict[str, dict[str, str]] = {name: {} for name in arrays}
        for leaf, value in found.fingerprints.items():
            item, _, name = leaf.partition("/")
            fingerprints[item][name] = value
        meta = {"step": step, "data_position": step, "layout": LAYOUT, "versions": versions(), **about}
        meta |= {"fingerprints": fingerprints}
        meta |= {"digest": digest(json.loads(json.dumps(meta)))}
        self._start(step, arrays, meta)

    def _start(self, step: int, arrays: dict[str, Any], meta: dict[str, Any]) -> None:
        self.wait()
        if hosts.anywhere(self._manager is None):  # after a failure of one process all open another
            self._close()
        items = {name: ocp.args.StandardSave(tree) for name, tree in arrays.items()}
        try:
            self._manager = self._manager or self._open()
            self._purge()
            self._manager.save(step, args=ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items), force=True)
        except (OSError, ValueError) as error:  # as Orbax and TensorStore say that a disk is full
            self._close()
            self._failed(step, error)
            return
        self._writing, self._failure = step, ""
        self._waiting = threading.Thread(target=self._wait, args=(self._manager, step), daemon=True)
        self._waiting.start()

    def _wait(self, manager: ocp.CheckpointManager, step: int) -> None:
        """Until it is written, in the background; a failure is said at once."""
        try:
            manager.wait_until_finished()
            if hosts.is_first():
                self._read_back(step)
                self._rotate()
        except Exception as error:
            self._failed(step, error)

    def _read_back(self, step: int) -> None:
        """Raises DamagedError, and sets it aside, if a checkpoint is not what was to be written."""
        try:
            check_on_host(load(directory_of(self._workdir) / str(step)))
        except DamagedError as error:
            put_aside(error)
            raise

    def _rotate(self) -> None:
        """Remove all but the newest, each in one rename."""
        directory = directory_of(self._workdir)
        for step in steps(self._workdir)[: -self._keep]:
            (directory / REMOVED).mkdir(exist_ok=True)
            (directory / str(step)).rename(directory / REMOVED / str(step))
        self._purge()

    def wait(self) -> None:
        """Wait for what is being written. After a failure the manager remembers steps that are not there: close it."""
        if self._waiting is not None:
            self._waiting.join()
            self._waiting = self._writing = None
        if self._failure:
            self._close()

    def _failed(self, step: int, error: Exception) -> None:
        newest = max(steps(self._workdir), default=None)
        stays = "there is none" if newest is None else f"the newest is that of step {newest}"
        self._failure = f"the checkpoint of step {step} could not be written ({_reason(error)}); {stays}"
        print(f"{self._failure}; training goes on", flush=True)

    def _open(self) -> ocp.CheckpointManager:
        """Removes what a killed process has half written, or a save that failed, whose threads may still be writing."""
        directory = directory_of(self._workdir)
        for _ in range(50):
            half_written = [*directory.glob(HALF_WRITTEN)] if hosts.is_first() else []
            for path in half_written:
                shutil.rmtree(path, ignore_errors=True)
            if not half_written:
                break
            time.sleep(0.1)
        hosts.barrier("checkpoints can be written")
        return ocp.CheckpointManager(directory, item_names=ITEMS)

    def _close(self) -> None:
        if self._manager is not None:
            with contextlib.suppress(Exception):  # which has been said before
                self._manager.close()
            self._purge()
        self._manager = None

    def _purge(self) -> None:
        if hosts.is_first():
            shutil.rmtree(directory_of(self._workdir) / REMOVED, ignore_errors=True)


def _reason(error: Exception) -> str:
    """Of a write that failed: what the system says, which TensorStore has in the middle of a long line."""
    if isinstance(error, DamagedError):
        return error.why
    found = re.search(r": ([^:\[]+) \[os_error_code=", str(error))
    return getattr(error, "strerror", None) or (found[1] if found else type(error).__name__)


def save_weights(workdir: str | Path, params: Any, config: dict, source: str) -> None:
    """Write parameters that come from elsewhere, which `source` names, as a run's only checkpoint: to sample from.

    Raises CheckpointError if there is one already.
    """
    Path(workdir).mkdir(parents=True, exist_ok=True)
    with locked(Path(workdir)), Saver(workdir, keep=1) as saver:
        if saver.newest is not None:
            raise CheckpointError(f"there is a checkpoint in {directory_of(workdir)} already; choose another --workdir")
        saver.write(0, {"ema": params}, {"config": config, "source": source})
