"""A run goes on where it is taken: on other devices, in another mesh, it trains and draws as if it had stayed."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from dit_jax.config import build
from dit_jax.configs import digits
from dit_jax.restore import restore_run
from dit_jax.sampling.draw import draw, gather
from dit_jax.training.loop import train

pytestmark = pytest.mark.heavy

CONFIG = json.loads(digits.get_config().to_json())
SMALL = {
    "model": {"width": 48, "depth": 2, "heads": 2},
    "data": {"name": "synthetic", "batch_size": 16},
    "optimizer": {"decay": "constant", "warmup": 0},
    "train": {"log_every": 1},
    "checkpoint": {"every": 100},
    "sample": {"every": 0, "num": 16, "batch": 16, "steps": 4},
}
# Updates done by then, devices, and how the parameters are shared among them.
JOURNEY = [(3, 8, 1), (6, 4, 4), (8, 2, 2), (10, 1, 1), (13, 8, 8)]


def run(steps: int, fsdp: int = 1):
    changes = SMALL | {"train": SMALL["train"] | {"steps": steps}, "parallel": {"fsdp": fsdp}}
    return build({name: {**entries, **changes.get(name, {})} for name, entries in CONFIG.items()})


def losses(workdir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def samples(workdir: Path) -> np.ndarray:
    run, params, mesh = restore_run(str(workdir))
    return gather(draw(run, params, mesh, run.sample))["image"]


def test_a_run_that_moves_between_devices_trains_and_draws_as_if_it_had_stayed(tmp_path, monkeypatch):
    """From eight devices to four, two, one and back, losses to 1e-5 and samples in the same order."""
    devices = [8]
    monkeypatch.setattr(jax, "device_count", lambda: devices[0])
    for steps, devices[0], fsdp in JOURNEY:
        train(run(steps, fsdp), tmp_path / "moves")
    train(run(JOURNEY[-1][0]), tmp_path / "stays")
    assert len(losses(tmp_path / "stays")) == 13
    np.testing.assert_allclose(losses(tmp_path / "moves"), losses(tmp_path / "stays"), rtol=1e-5)
    drawn, wanted = samples(tmp_path / "moves"), samples(tmp_path / "stays")
    assert np.abs(wanted[:, None] - wanted[None]).max((2, 3, 4))[np.triu_indices(16, 1)].min() > 0.1  # all differ
    np.testing.assert_allclose(drawn, wanted, atol=1e-3)
