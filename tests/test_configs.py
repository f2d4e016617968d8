"""Every config, made small: it trains, goes on as if it had not been stopped, draws, and shows what it has drawn."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dit_jax.config import SHIPPED, build, load
from dit_jax.restore import restore_run
from dit_jax.sampling.draw import draw, gather
from dit_jax.sampling.sheet import sheet
from dit_jax.training.loop import train

pytestmark = pytest.mark.usefixtures("alone")

CONFIGS = sorted(path.stem for path in SHIPPED.glob("[a-z]*.py"))
AT_ONCE = {"digits", "video_digits"}  # images, and clips with a past; the others are heavy
SMALL = {
    "model": {"width": 48, "depth": 1, "heads": 2},
    "data": {"name": "synthetic", "batch_size": 8},
    "optimizer": {"decay": "constant", "warmup": 0},  # a decay would end where the run ends
    "train": {"log_every": 2},
    "sample": {"num": 2, "batch": 2, "steps": 2, "every": 0},
}


@pytest.fixture
def alone(monkeypatch):
    """One device is enough here: that eight give the same is tests/test_step.py's, and takes their compiler's time."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def small(name: str, steps: int):
    config = json.loads(load(name).to_json())
    changes = SMALL | {"train": SMALL["train"] | {"steps": steps}}
    return build({section: {**entries, **changes.get(section, {})} for section, entries in config.items()})


def state(workdir: Path, step: int):
    reader = ocp.StandardCheckpointer()
    return [reader.restore(workdir / "checkpoints" / str(step) / item) for item in ("params", "ema", "opt")]


@pytest.mark.parametrize("name", CONFIGS)
def test_what_it_draws_is_looked_at_now_and_then_and_at_the_end(name):
    """The last picture is of what is saved at the end."""
    config = load(name)
    assert config.sample.every, "say in config.sample.every after how many updates samples are drawn to be seen"
    looks = config.train.steps / config.sample.every
    assert looks.is_integer() and 2 <= looks <= 40


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.heavy] * (name not in AT_ONCE)) for name in CONFIGS]
)
def test_it_trains_resumes_draws_and_shows(name, tmp_path):
    train(small(name, 3), tmp_path / "straight")
    train(small(name, 2), tmp_path / "stopped")
    train(small(name, 3), tmp_path / "stopped")
    straight, stopped = (state(tmp_path / which, 3) for which in ("straight", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, straight, stopped)
    begun = state(tmp_path / "stopped", 2)
    assert any(np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (begun, straight)), strict=True))

    run, params, mesh = restore_run(str(tmp_path / "straight"))
    sample = gather(draw(run, params, mesh, run.sample))
    for key, stream in run.streams.items():
        assert sample[key].shape == (2, *stream.shape) and np.all(np.isfinite(sample[key]))
        if stream.view.save is not None:
            assert stream.view.save(sample[key][0], tmp_path / key).stat().st_size > 0
    words = {key for key, stream in run.streams.items() if stream.head and stream.process.dtype == np.int32}
    drawn = {key for key, stream in run.streams.items() if stream.head}
    assert sheet(run.streams, sample) is not None or words == drawn
