"""Metrics of a run: metrics.jsonl and TensorBoard, fetched from the device only when they are reported."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from PIL import Image

from dit_jax.parallel import hosts


class Writer:
    """Appends scalars to WORKDIR/metrics.jsonl and to TensorBoard event files beside it.

    step: where the run goes on from; lines of later steps, and one that a kill has torn, are taken out first, so that
    no step is there twice. Of several processes the first one writes, and the others do nothing.
    """

    def __init__(self, workdir: Path, step: int = 0):
        self._writes = hosts.is_first()
        if not self._writes:
            return
        with without("torch"):  # which it would import wherever there is one: seconds, for nothing
            from tensorboardX import SummaryWriter
        self._workdir = workdir
        self.rewind(step)
        self._board = SummaryWriter(str(workdir / "tensorboard"), flush_secs=30, purge_step=step + 1)

    def rewind(self, step: int) -> None:
        """Take out the lines of steps beyond this one."""
        if not self._writes:
            return
        file = self._workdir / "metrics.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        kept = [line for line in lines if (at := _step_of(line)) is not None and at <= step]
        if kept != lines:
            _write_whole(file, "".join(kept))

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line, written whole; a number that is not finite is null there."""
        if not self._writes:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": step, **finite}, allow_nan=False) + "\n"
        with open(self._workdir / "metrics.jsonl", "ab", buffering=0) as lines:
            lines.write(line.encode())
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray | None) -> None:
        """image [height, width, 3] in 0 ... 255: to TensorBoard, and to WORKDIR/NAME_STEP.png."""
        if image is None or not self._writes:
            return
        self._board.add_image(name, image, step, dataformats="HWC")
        Image.fromarray(image).save(self._workdir / f"{name}_{step:07d}.png")

    def text(self, step: int, name: str, text: str) -> None:
        """A text: to TensorBoard, and to WORKDIR/NAME_STEP.txt."""
        if not self._writes:
            return
        self._board.add_text(name, f"```\n{text}\n```", step)  # as it is, where Markdown would change it
        (self._workdir / f"{name}_{step:07d}.txt").write_text(f"{text}\n", encoding="utf-8")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writes:
            self._board.close()


def memory() -> dict[str, float]:
    """GiB that the first device here has in use, and had at most, where it says so."""
    stats = jax.local_devices()[0].memory_stats() or {}
    names = {"bytes_in_use": "memory_gib", "peak_bytes_in_use": "memory_peak_gib"}
    return {name: stats[key] / 2**30 for key, name in names.items() if key in stats}


@contextlib.contextmanager
def profiled(steps: range, folder: Path) -> Iterator[Callable[[int, Any], None]]:
    """A trace of some updates, by JAX's profiler, which Perfetto and TensorBoard show; yields at(step, state), to be
    called before each update with how many there have been, and what the devices are still computing."""
    is_on = False

    def at(step: int, state: Any) -> None:
        nonlocal is_on
        if is_on and step >= steps.stop:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            is_on = False
            print(f"the trace of steps {steps.start} ... {steps.stop} is in {folder}")
        elif step in steps and not is_on and hosts.is_first():
            jax.profiler.start_trace(str(folder))
            is_on = True

    try:
        yield at
    finally:
        if is_on:
            jax.profiler.stop_trace()


def _step_of(line: str) -> int | None:
    """The step of a line of metrics.jsonl; None for one that is not whole."""
    try:
        return int(json.loads(line)["step"]) if line.endswith("\n") else None
    except (ValueError, TypeError, KeyError):
        return None


def write_json(file: Path, value: dict) -> None:
    """A JSON file, moved into place whole."""
    _write_whole(file, json.dumps(value, indent=2) + "\n")


def _write_whole(file: Path, text: str) -> None:
    temporary = file.with_suffix(".incomplete")
    temporary.write_text(text)
    temporary.replace(file)


@contextlib.contextmanager
def without(module: str) -> Iterator[None]:
    """What is imported here does as if this module, which nothing has imported yet, were not installed."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[module]


class Meter:
    """Collects the metrics of updates on the device, and fetches them only when asked for their means.

    After a fetch, `skipped` has the steps whose update was skipped, since the last time that somebody emptied it, and
    `in_a_row` how many the newest are without one that was made.
    """

    def __init__(self, batch_size: int, flops: int, peak: float | None):
        self._batch_size, self._flops, self._peak = batch_size, flops, peak
        self._pending: list[dict] = []
        self._fetched: list[dict] = []
        self._steps: list[int] = []
        self._untimed, self._since = 0, 0.0
        self._begun, self._lost = time.monotonic(), 0.0
        self._spent: dict[str, float] = {}
        self.skipped: list[int] = []
        self.in_a_row = 0

    def add(self, metrics: dict, step: int = 0) -> None:
        if not self._since:  # the first update of a process compiles: it belongs to no rate
            jax.block_until_ready(metrics)
            self._untimed, self._since = 1, time.monotonic()
            self._spend("compiling", self._since - self._begun - self._lost)
        self._pending.append(metrics)
        self._steps.append(step)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """What is waited for in here, such as data, keeps devices from training: `means` has its seconds."""
        begin = time.monotonic()
        yield
        self._spend(what, time.monotonic() - begin)

    @contextlib.contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """What is done in here, such as drawing, is no training: besides, the rates leave its time out."""
        jax.block_until_ready(self._pending)
        begin = time.monotonic()
        with self.waiting(what):
            yield
        if self._since:  # else the first update is still to come, which begins the time
            self._since += time.monotonic() - begin

    def _spend(self, what: str, seconds: float) -> None:
        self._spent[what] = self._spent.get(what, 0.0) + seconds
        self._lost += seconds

    def fetch(self) -> None:
        """Wait for the updates so far, and count the skipped ones."""
        for step, metrics in zip(self._steps, jax.device_get(self._pending), strict=True):
            is_skipped = bool(metrics["skipped"])
            self.in_a_row = self.in_a_row + 1 if is_skipped else 0
            self.skipped += [step] * is_skipped
            self._fetched.append(metrics)
        self._pending, self._steps = [], []

    def means(self) -> dict[str, float]:
        """Means since the last call, of the updates that were made: losses, rates, and losses by level as
        `loss/STREAM/t0.3-0.4`; `skipped`, how many were not; `seconds_WHAT` of what kept devices from training, and
        `goodput`, the share of all time so far that is left."""
        self.fetch()
        fetched, self._fetched = self._fetched, []
        seconds, self._since = time.monotonic() - self._since, time.monotonic()
        timed, self._untimed = len(fetched) - self._untimed, 0
        made = [m for m in fetched if not m["skipped"]]
        values = {name: float(np.mean([m[name] for m in made or fetched])) for name in ("loss", "grad_norm")}
        values["skipped"] = float(len(fetched) - len(made))
        values["seconds"] = seconds
        values |= {f"seconds_{what}": spent for what, spent in self._spent.items()}
        values["goodput"] = 1 - self._lost / max(time.monotonic() - self._begun, 1e-9)
        self._spent = {}
        if timed:
            values["steps_per_second"] = timed / seconds
            values["examples_per_second"] = timed / seconds * self._batch_size
            values["flops_per_second"] = timed / seconds * self._flops
        if timed and self._peak:
            values["mfu"] = values["flops_per_second"] / self._peak
        for name in fetched[0]["by_level"]:
            sums, counts = (np.sum(part, 0) for part in zip(*(m["by_level"][name] for m in fetched), strict=True))
            for i in np.flatnonzero(counts):
                low, high = i / len(counts), (i + 1) / len(counts)
                values[f"loss/{name}/t{low:.1f}-{high:.1f}"] = float(sums[i] / counts[i])
        return values
