"""The loop does each thing at its own steps and no others, and what it does beside training leaves training alone."""

import contextlib
import itertools
import json
import re
import signal
import types
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax import sample_cli
from dit_jax.config import build
from dit_jax.configs import digits, text_kjv
from dit_jax.diffusion import grids
from dit_jax.network.layers import PUBLISHED
from dit_jax.parallel.mesh import make_mesh
from dit_jax.parallel.modes import MODES
from dit_jax.sampling.draw import draw, gather
from dit_jax.sampling.sheet import sheet, title_of
from dit_jax.training import flops, loop, metrics, update
from dit_jax.training.loop import train

CONFIG = json.loads(digits.get_config().to_json())
SMALL = {
    "model": {"width": 24, "depth": 1, "heads": 1},
    "data": {"name": "synthetic", "batch_size": 8},
    "optimizer": {"decay": "constant", "learning_rate": 0.05},  # so much that the average is far behind
    "train": {"steps": 7, "log_every": 5},
    "checkpoint": {"every": 2, "keep": 2},
    "sample": {"every": 3, "num": 4, "batch": 4, "steps": 2},
}


def small(**changes: dict):
    sections = {name: {**entries, **SMALL.get(name, {}), **changes.get(name, {})} for name, entries in CONFIG.items()}
    return build(sections)


@contextlib.contextmanager
def one_device():
    """It is enough here: that eight give the same is tests/test_step.py's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda: 1)
        yield


@pytest.fixture
def alone():
    with one_device():
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Seven updates, of which every second is saved, every third shown and every fifth told."""
    workdir = tmp_path_factory.mktemp("trained")
    with one_device():
        train(small(), workdir)
    return workdir


def arrays(workdir: Path, step: int, item: str):
    return jax.tree.map(np.asarray, ocp.StandardCheckpointer().restore(workdir / "checkpoints" / str(step) / item))


def rows(workdir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved(workdir: Path) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").iterdir()}


def test_numbers_are_told_at_their_steps_and_at_the_last(trained):
    assert rows(trained) == [5, 7]


def test_states_are_saved_at_their_steps_and_at_the_last_and_the_newest_are_kept(trained):
    """Of 2, 4, 6 and 7."""
    assert saved(trained) == {"6", "7"}


def test_pictures_are_written_before_the_first_update_and_at_their_steps(trained):
    assert sorted(path.name for path in trained.glob("*.png")) == [f"samples_000000{step}.png" for step in (0, 3, 6)]


def test_a_picture_is_of_the_average_at_its_step(trained, alone):
    """As whoever draws from that step's checkpoint sees it; the parameters would be another picture."""
    run, seen = small(), np.asarray(Image.open(trained / "samples_0000006.png"))
    title = title_of(trained, 6, run.sample)
    drawn = lambda step, item: sheet(
        run.streams, gather(draw(run, arrays(trained, step, item), make_mesh(), run.sample)), title
    )
    np.testing.assert_array_equal(drawn(6, "ema"), seen)
    assert np.any(drawn(6, "params") != seen) and np.any(drawn(7, "ema") != seen)


TRACES = {
    range(2, 4): [2, "start_trace", 4, "stop_trace", 6, 7],
    range(5, 9): [2, 4, "start_trace", 6, "stop_trace", 7],
}


@pytest.mark.parametrize("profile", TRACES)
def test_a_trace_is_of_the_updates_that_are_named_and_changes_none(profile, alone, trained, tmp_path, monkeypatch):
    """Also of fewer, where the run ends before."""
    calls: list = []
    save = loop.Training.save  # which happens after updates 2, 4 and 6
    for name in ("start_trace", "stop_trace"):
        monkeypatch.setattr(jax.profiler, name, lambda *of, name=name: calls.append(name))
    monkeypatch.setattr(loop.Training, "save", lambda self: calls.append(self.step) or save(self))
    train(small(), tmp_path, profile=profile)
    assert calls == TRACES[profile]
    jax.tree.map(np.testing.assert_array_equal, *(arrays(workdir, 7, "params") for workdir in (trained, tmp_path)))


def test_pictures_are_drawn_by_one_program_while_training_pauses(alone, monkeypatch, tmp_path):
    """Whose time belongs to no rate (see test_metrics)."""
    paused, traced = [], []
    pause, spaced = loop.Meter.paused, grids.level_rows

    @contextlib.contextmanager
    def recorded(meter, what):
        with pause(meter, what):
            paused.extend([True] * (what == "drawing"))
            yield
            paused.extend([False] * (what == "drawing"))

    def drawn(*arguments):
        assert paused[-1]
        return draw(*arguments)

    monkeypatch.setattr(loop.Meter, "paused", recorded)
    monkeypatch.setattr(loop, "draw", drawn)
    monkeypatch.setattr(grids, "level_rows", lambda *args, **options: traced.append(args) or spaced(*args, **options))
    train(small(sample={"every": 2}, train={"steps": 6}), tmp_path)
    assert paused == [True, False] * 4 and len(traced) == 1
    assert {path.name for path in tmp_path.glob("*.png")} == {f"samples_{step:07d}.png" for step in (0, 2, 4, 6)}


def looks(monkeypatch, interrupted: int = -1) -> list[int]:
    """The steps that are looked at from here on; a signal comes while the one of a step is drawn."""
    steps: list[int] = []
    picture = loop.Reporter.picture

    def looked(reporter):
        steps.append(reporter.training.step)
        if reporter.training.step == interrupted:
            signal.raise_signal(signal.SIGTERM)
        picture(reporter)

    monkeypatch.setattr(loop.Reporter, "picture", looked)
    return steps


def test_the_first_look_is_at_what_nobody_has_trained(trained, alone, monkeypatch, tmp_path):
    """The network says 0 then, which is a grey picture."""
    steps, updates = looks(monkeypatch), update.make_step
    monkeypatch.setattr(update, "make_step", lambda *a, **b: steps.append(-1) or updates(*a, **b))
    train(small(), tmp_path)
    assert steps == [-1, 0, 3, 6]
    first, second = (np.asarray(Image.open(tmp_path / f"samples_000000{step}.png")) for step in (0, 3))
    assert (first == 128).all(-1).sum() >= 4 * 64**2 and np.any(first != second)  # >=: some of the letters are grey too


def test_no_step_is_looked_at_twice_where_a_signal_comes_at_the_first_look(alone, monkeypatch, tmp_path, capsys):
    steps = looks(monkeypatch, interrupted=0)
    train(small(), tmp_path)
    assert "stopped at step 0; checkpoint in" in capsys.readouterr().out
    assert steps == [0] and saved(tmp_path) == {"0"} and not (tmp_path / "metrics.jsonl").exists()
    train(small(), tmp_path)
    assert steps == [0, 3, 6] and saved(tmp_path) == {"6", "7"}
    train(small(), tmp_path)  # and a finished run is not looked at
    assert steps == [0, 3, 6] and "compiling" not in capsys.readouterr().out.split("resuming from step 7")[1]


def test_a_look_that_was_cut_short_is_made_up_for(alone, monkeypatch, tmp_path):
    steps = looks(monkeypatch, interrupted=0)
    train(small(), tmp_path)
    (tmp_path / "samples_0000000.png").unlink()
    monkeypatch.undo()
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    steps = looks(monkeypatch)
    train(small(), tmp_path)
    assert steps == [0, 3, 6] and (tmp_path / "samples_0000000.png").exists()


def test_a_run_says_what_it_is_doing(alone, tmp_path, capsys):
    train(small(), tmp_path)
    lines = capsys.readouterr().out.splitlines()[2:-1]  # between its data, what it is, and how it ended
    numbers = [line for line in lines if line.startswith("training ")]
    assert [line for line in lines if line not in numbers] == [
        *("drawing", "reading data", "compiling"),
        *["drawing"] * 2,
    ]
    assert [line.split()[1] for line in numbers] == ["5/7", "7/7"] and lines[-1] == numbers[-1]
    for line in numbers:
        assert re.fullmatch(r"training \d/7  0:\d\d:\d\d  \S+/s  eta 0:\d\d:\d\d  loss \S+  examples/s \S+", line)


def test_text_is_drawn_as_text(alone, tmp_path, capsys):
    """In a file for each look, of which the terminal has the first; it has some of what the sample command draws."""
    text = json.loads(text_kjv.get_config().to_json())
    text["streams"]["text"] |= {"length": 8}
    sections = {name: {**entries, **SMALL.get(name, {})} for name, entries in text.items()}
    sections["optimizer"] |= {"warmup": 0}
    sections["sample"] |= {"given": ["text=Go*"], "every": 4}
    train(build(sections), tmp_path)
    said = capsys.readouterr().out.splitlines()
    for step in (0, 4):
        lines = (tmp_path / f"samples_{step:07d}.txt").read_text().splitlines()
        assert [line[:5] for line in lines if line[1:2] == ":"] == [f"{i}: Go" for i in range(4)]
        assert f"step {step}, sample {lines[0]}" in said
    assert not [*tmp_path.glob("*.png")]
    sample_cli.main(str(tmp_path), str(tmp_path / "out"), options={"num": 6, "batch": 6, "steps": 2})
    printed = capsys.readouterr().out.split("samples.npz\n")[1]
    files = [(tmp_path / "out" / "text" / f"{i}.txt").read_text() for i in range(4)]
    assert all(f"{i}: {file[:2]}" in printed for i, file in enumerate(files)) and "4: Go" not in printed


def test_looking_does_not_change_what_is_trained(trained, alone, tmp_path):
    train(small(sample={"every": 0}, checkpoint={"every": 100}), tmp_path)
    assert not [*tmp_path.glob("*.png")] and saved(tmp_path) == {"7"}
    for item in ("params", "ema", "opt"):
        jax.tree.map(np.testing.assert_array_equal, arrays(trained, 7, item), arrays(tmp_path, 7, item))


def test_looking_takes_no_time_of_training(alone, monkeypatch, tmp_path):
    """An update takes a second here, but for the first one, which begins the time; a look takes an hour."""
    monkeypatch.setattr(metrics, "time", types.SimpleNamespace(monotonic=lambda: now[0]))
    now, add = [1000.0], loop.Meter.add

    def later(seconds):
        now[0] += seconds

    monkeypatch.setattr(loop.Meter, "add", lambda self, values, step: (later(1), add(self, values, step)))
    monkeypatch.setattr(loop, "sheet", lambda *_: later(3600))
    train(small(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert now == [1000 + 7 + 3 * 3600] and [line["steps_per_second"] for line in lines] == [1, 1]


def test_a_signal_ends_training_with_the_update_that_is_under_way_and_saves_it(alone, monkeypatch, tmp_path):
    told = loop.Writer.scalars

    def interrupted(self, step, values):
        told(self, step, values)
        if step == 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(loop.Writer, "scalars", interrupted)
    changes = {"train": {"steps": 9, "log_every": 1}, "checkpoint": {"every": 100}, "sample": {"every": 0}}
    train(small(**changes), tmp_path)
    assert rows(tmp_path) == [1, 2] and saved(tmp_path) == {"2"}
    train(small(**changes), tmp_path)  # and the same command goes on
    assert rows(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("hosts", [1, 2, 3, 6])
def test_the_rows_of_all_hosts_are_the_batch_each_once(hosts, monkeypatch):
    """By pmap; by jit the sharding says which they are, also where hosts share rows (see test_processes.py)."""
    rows_here = MODES["pmap"](make_mesh()).rows
    monkeypatch.setattr(jax, "process_count", lambda: hosts)
    shares = []
    for host in range(hosts):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        shares.append(rows_here(12).tolist())
    assert [*itertools.chain(*shares)] == [*range(12)] and {len(share) for share in shares} == {12 // hosts}


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("depth", [1, 3])
def test_the_operations_of_an_update_are_three_passes_of_its_products(batch, depth):
    """By hand, 2 for each multiply-add: 6 tokens of 4 values, one level, a label that is looked up."""
    streams = {"image": dj.streams.image((4, 6, 1), patch=2), "label": dj.streams.label(10)}
    d, n, patch = 12, 6, 4
    level = 256 * d + d * d
    block = 6 * d * d + n * 3 * d * d + 2 * n * n * d + n * d * d + 2 * n * d * 4 * d
    once = n * patch * d + level + depth * block + 2 * d * d + n * d * patch
    run = types.SimpleNamespace(
        streams=streams,
        model=dj.DiT(streams, width=d, depth=depth, heads=2, block=PUBLISHED),
        data=types.SimpleNamespace(batch_size=batch),
    )
    assert loop.flops(run) == 3 * batch * 2 * once


def test_the_peak_is_that_of_all_devices_where_one_is_known(monkeypatch):
    mesh = make_mesh(data=4, fsdp=2)
    assert loop.peak(mesh) is None
    monkeypatch.setitem(flops.PEAK, mesh.devices.flat[0].device_kind, 7e12)
    assert loop.peak(mesh) == 56e12
