"""Metrics of a run: metrics.jsonl and TensorBoard, fetched from the device only when they are reported."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from PIL import Image


class Writer:
    """Appends scalars to WORKDIR/metrics.jsonl and to TensorBoard event files beside it."""

    def __init__(self, workdir: Path):
        with without("torch"):  # which it would import wherever there is one: seconds, for nothing
            from tensorboardX import SummaryWriter
        self._workdir = workdir
        self._board = SummaryWriter(str(workdir / "tensorboard"), flush_secs=30)

    def scalars(self, step: int, values: dict[str, float]):
        with open(self._workdir / "metrics.jsonl", "a") as lines:
            lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, step: int, name: str, image: np.ndarray | None):
        """image [height, width, 3] in 0 ... 255: to TensorBoard, and to WORKDIR/NAME_STEP.png."""
        if image is None:
            return
        self._board.add_image(name, image, step, dataformats="HWC")
        Image.fromarray(image).save(self._workdir / f"{name}_{step:07d}.png")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._board.close()


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
    """Collects the metrics of updates on the device, and fetches them only when asked for their means."""

    def __init__(self, batch_size: int, flops: int, peak: float | None):
        self._batch_size, self._flops, self._peak = batch_size, flops, peak
        self._pending: list[dict] = []
        self._untimed, self._since = 0, 0.0

    def add(self, metrics: dict):
        if not self._since:  # the first update of a process compiles: it belongs to no rate
            jax.block_until_ready(metrics)
            self._untimed, self._since = 1, time.monotonic()
        self._pending.append(metrics)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in here, such as drawing samples, is no training: the rates leave its time out."""
        jax.block_until_ready(self._pending)
        begin = time.monotonic()
        yield
        self._since += time.monotonic() - begin

    def means(self) -> dict[str, float]:
        """Means since the last call: losses, rates, and losses by level as `loss/STREAM/t0.3-0.4`."""
        fetched, self._pending = jax.device_get(self._pending), []
        seconds, self._since = time.monotonic() - self._since, time.monotonic()
        timed, self._untimed = len(fetched) - self._untimed, 0
        values = {name: float(np.mean([m[name] for m in fetched])) for name in ("loss", "grad_norm")}
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
