"""A record that cannot be read is named, and loses nothing: the run saves and stops, or takes the next record."""

import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax.config import build
from dit_jax.configs import digits
from dit_jax.data import pipeline
from dit_jax.data.pipeline import UnreadableError
from dit_jax.training.loop import train

CONFIG = json.loads(digits.get_config().to_json())
STREAMS = {"image": dj.streams.image((8, 8, 1)), "label": dj.streams.label(2)}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two classes of six pictures, of which the third of the second is cut off."""
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(6):
            picture = Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8))
            picture.save(tmp_path / "pets" / name / f"{i}.png")
    broken = tmp_path / "pets" / "bee" / "2.png"
    broken.write_bytes(broken.read_bytes()[:50])
    return tmp_path / "pets"


def run(folder: Path, **data):
    changes = {
        "model": {"width": 24, "depth": 1, "heads": 1},
        "data": {"name": str(folder), "batch_size": 2, "holdout": 0.0, **data},
        "optimizer": {"decay": "constant"},
        "train": {"steps": 9, "log_every": 1},
        "checkpoint": {"every": 100},
        "sample": {"every": 0},
    }
    sections = {name: {**entries, **changes.get(name, {})} for name, entries in CONFIG.items()}
    sections["streams"]["label"] = {**sections["streams"]["label"], "classes": 2}
    return build(sections)


def saved(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def test_it_is_named_and_the_run_saves_and_stops_and_may_go_on_without_it(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    for _ in range(2):  # the same command does not lose more
        with pytest.raises(UnreadableError, match=r"example 8 of 12 cannot be used: .*bee/2\.png"):
            train(run(folder), tmp_path / "stopped")
        (step,) = saved(tmp_path / "stopped")
        assert 0 < step < 6  # within the first epoch
    capsys.readouterr()
    train(run(folder, unreadable="skip"), tmp_path / "stopped")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped: ")]
    assert len(lines) == 1 and "bee/2.png" in lines[0]  # once, though two epochs came by it
    train(run(folder, unreadable="skip"), tmp_path / "skipping")
    straight, other = (
        ocp.StandardCheckpointer().restore(tmp_path / which / "checkpoints" / "9" / "opt")
        for which in ("skipping", "stopped")
    )
    jax.tree.map(np.testing.assert_array_equal, straight, other)


class Records:
    """Twelve pictures, of some of which something is wrong."""

    def __init__(self, harm, wrong=(8,)):
        self.harm, self.wrong = harm, wrong

    def __len__(self):
        return 12

    def __getitem__(self, index):
        example = {"image": np.full((8, 8, 1), index / 12, np.float32), "label": np.int32(index % 2)}
        return self.harm(example) if index in self.wrong else example


def broken(example):
    raise OSError("broken")


HARMS = {
    "broken": broken,
    "image has the shape": lambda example: {**example, "image": np.zeros((8, 9, 1), np.float32)},
    "image is int64": lambda example: {**example, "image": np.zeros((8, 8, 1), np.int64)},
    "image .*finite": lambda example: {**example, "image": np.full((8, 8, 1), np.nan, np.float32)},
    "label .*2": lambda example: {**example, "label": np.int32(2)},
}


@pytest.mark.parametrize("harm", HARMS)
def test_the_next_record_takes_its_place_as_a_function_of_seed_and_step(harm):
    good = pipeline.examples(Records(None, wrong=()), 0, streams=STREAMS)
    stop = pipeline.examples(Records(HARMS[harm]), 0, streams=STREAMS)
    skip = pipeline.examples(Records(HARMS[harm]), 0, streams=STREAMS, unreadable="skip")
    number = lambda example: round(float(example["image"].mean()) * 12)
    places = [i for i in range(36) if number(good[i]) == 8]
    assert len(places) == 3
    for i in range(36):
        assert number(skip[i]) == (9 if i in places else number(good[i]))
        if i in places:
            with pytest.raises(UnreadableError, match=f"example 8 of 12 cannot be used: .*{harm}"):
                stop[i]
    for threads in (0, 3):
        batches = pipeline.batches(skip, 2, 4, threads=threads)
        for step in range(2, 9):
            np.testing.assert_array_equal(next(batches)["image"], pipeline.batch(skip, step, 4)["image"])


def test_where_none_can_be_read_it_says_so_at_once():
    with pytest.raises(UnreadableError, match="none of 12 examples can be used"):
        pipeline.examples(Records(broken, range(12)), 0, streams=STREAMS, unreadable="skip")[0]


def test_memory_that_ends_is_no_record_that_is_broken():
    def starved(example):
        raise MemoryError

    for unreadable in ("stop", "skip"):
        examples = pipeline.examples(Records(starved), 0, streams=STREAMS, unreadable=unreadable)
        with pytest.raises(MemoryError):
            [examples[i] for i in range(12)]


def test_reading_ahead_starts_no_process():
    """So that there is none to be killed, and none that outlives the run."""
    children = lambda: [*map(Path.read_text, Path("/proc/self/task").glob("*/children"))]
    before = sorted("".join(children()).split())
    batches = pipeline.batches(pipeline.examples(Records(None, wrong=()), 0), 0, 4, threads=4)
    next(batches)
    assert sorted("".join(children()).split()) == before
