"""Runs that are killed, or run out of disk, or meet another one in their directory: in processes of their own.

Each is forked from a server that has imported everything and computed nothing, so that it begins at once.
"""

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from dit_jax import train as train_command
from dit_jax.config import build
from dit_jax.configs import digits
from dit_jax.data import pipeline
from dit_jax.parallel.mesh import make_mesh
from dit_jax.parallel.modes import jit_mode
from dit_jax.training import loop
from dit_jax.training.checkpoint import restore, steps
from dit_jax.training.lock import LockedError, locked
from dit_jax.training.saving import Saver, save_weights
from dit_jax.training.step import State, make_init

pytestmark = pytest.mark.heavy

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["test_faults"])
SMALL = {
    "model": {"width": 24, "depth": 1, "heads": 1},
    "data": {"name": "synthetic", "batch_size": 4},
    "train": {"steps": 4, "log_every": 1},
    "optimizer": {"decay": "constant", "learning_rate": 0.01},
    "checkpoint": {"every": 2, "keep": 1},
    "sample": {"every": 0},
}


def run(workdir: Path, steps: int) -> None:
    config = json.loads(digits.get_config().to_json())
    for section, entries in SMALL.items():
        config[section] |= entries
    config["train"]["steps"] = steps
    loop.train(build(config), workdir)


def begin(said: Path) -> None:
    """What every process here does first: all that it prints goes to a file."""
    opened = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(opened, 1)
    os.dup2(opened, 2)
    jax.config.update("jax_disable_most_optimizations", True)


def trained(workdir: Path, said: Path, count: int) -> None:
    begin(said)
    run(workdir, count)


# Training without a network, which takes no time: its state is read, updated and saved as that of any run.
OPTIMIZER = optax.adam(0.1)
INIT = make_init(types.SimpleNamespace(init=lambda key: {"kernel": jax.random.normal(key, (9, 9))}), OPTIMIZER)


@jax.jit
def update(state: State) -> State:
    gradient = jax.tree.map(lambda x: jnp.sin(x + state.step), state.params)
    updates, opt = OPTIMIZER.update(gradient, state.opt, state.params)
    return State(state.step + 1, optax.apply_updates(state.params, updates), state.params, opt)


def updated(workdir: Path, count: int) -> None:
    workdir.mkdir(exist_ok=True)
    mode, about = jit_mode(make_mesh()), {"config": {"streams": {}, "model": {}}, "keys_apart": True}
    with locked(workdir), Saver(workdir, 1) as saver:
        done, state, _ = restore(workdir, mode.abstract(INIT), about["config"])
        state = mode.create(INIT, jax.random.key(0)) if state is None else state
        while done < count:
            state, done = update(state), done + 1
            if done % 2 == 0:
                saver.save(done, state, about)


OPERATIONS = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate", "os.link")


def killed(workdir: Path, said: Path, count: int, last: int) -> None:
    """`updated`, which ends at the last-th operation on a file under checkpoints, if there are so many."""
    begin(said)
    found, under = itertools.count(1), str(workdir / "checkpoints")

    def audit(event: str, arguments: tuple) -> None:
        writes = event == "open" and arguments[1] not in (None, "r", "rb")
        if (writes or event in OPERATIONS) and str(arguments[0]).startswith(under) and next(found) == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)
    updated(workdir, count)


def forked(target, *arguments) -> int:
    """The exit status of a process, negative for a signal."""
    process = PROCESSES.Process(target=target, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def state(workdir: Path, step: int) -> list[np.ndarray]:
    reader = ocp.StandardCheckpointer()
    items = [reader.restore(workdir / "checkpoints" / str(step) / item) for item in ("params", "ema", "opt")]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(items)]


def same(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    assert len(a) == len(b) > 4
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """Runs that nothing happened to: of 2 updates, of 6 and of 60."""
    folder = tmp_path_factory.mktemp("straight")
    for count in (2, 6, 60):
        assert forked(trained, folder / str(count), folder / "said", count) == 0, (folder / "said").read_text()
    return folder


def test_a_run_that_is_killed_at_any_operation_on_a_file_ends_as_if_it_had_not_been(tmp_path, capsys):
    """From 2 updates to 4, where the checkpoint of 4 replaces that of 2: killed at each operation by which one is
    written, moved and removed; then begun again."""
    said = tmp_path / "said"
    for count in (2, 4):
        updated(tmp_path / f"whole{count}", count)
    expected = state(tmp_path / "whole4", 4)
    for point in itertools.count(1):
        workdir = shutil.copytree(tmp_path / "whole2", tmp_path / str(point))
        status = forked(killed, workdir, said, 4, point)
        if status == 0:
            break
        assert status == -signal.SIGKILL, said.read_text()
        left = steps(workdir)
        assert left, f"nothing is left after operation {point}"
        updated(workdir, 4)
        same(state(workdir, 4), expected)
        # What was written to the end stays, and the one before it until the next is.
        assert {path.name for path in (workdir / "checkpoints").iterdir()} == {
            "4",
            *(map(str, left) if 4 in left else ()),
        }
    assert point > 20
    assert "damaged" not in said.read_text() + capsys.readouterr().out


def filled(workdir: Path, said: Path, limit: int, until: int) -> None:
    """Train where no file can grow beyond a size until an update; 0 is for good."""
    begin(said)
    jax.config.update("jax_enable_compilation_cache", False)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    told = loop.Writer.scalars

    def freed(self, step, values):
        if step == until:
            while "could not be written" not in said.read_text():  # which is said at once, while training goes on
                time.sleep(0.1)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        told(self, step, values)

    loop.Writer.scalars = freed
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    sys.argv = ["train.py"]
    train_command.run_command(lambda: run(workdir, 6))


def test_a_disk_that_fills_is_a_warning_and_the_next_checkpoint_is_tried(straight, tmp_path):
    workdir, said = shutil.copytree(straight / "2", tmp_path / "run"), tmp_path / "said"
    assert forked(filled, workdir, said, 20_000, 5) == 0, said.read_text()
    lines = [line for line in said.read_text().splitlines() if "could not be written" in line]
    assert len(lines) == 1 and "the checkpoint of step 4 could not be written (File too large)" in lines[0], (
        said.read_text()
    )
    assert lines[0].endswith("; the newest is that of step 2; training goes on") and "Traceback" not in said.read_text()
    same(state(workdir, 6), state(straight / "6", 6))
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"6"}


def test_a_disk_that_stays_full_is_an_error_at_the_end_and_the_newest_checkpoint_stays(straight, tmp_path):
    workdir, said = shutil.copytree(straight / "2", tmp_path / "run"), tmp_path / "said"
    assert forked(filled, workdir, said, 20_000, 0) == 1, said.read_text()
    last = said.read_text().splitlines()[-1]
    assert last.startswith("error: the checkpoint of step 6 could not be written (File too large)")
    assert last.endswith("; the newest is that of step 2: see to the disk, and run the same command again")
    assert "Traceback" not in said.read_text() and steps(workdir) == [2]
    same(state(workdir, 2), state(straight / "2", 2))
    assert forked(trained, workdir, said, 6) == 0
    same(state(workdir, 6), state(straight / "6", 6))


# Killed at any time --------------------------------------------------------------------------------------------------


def struck(workdir: Path, said: Path, count: int, seconds: float) -> int:
    """The exit status of `trained`, killed so long after its first checkpoint if it is not done by then."""
    before = steps(workdir)
    process = PROCESSES.Process(target=trained, args=(workdir, said, count))
    process.start()
    while process.is_alive() and steps(workdir) == before:
        time.sleep(0.01)
    process.join(seconds)
    process.kill()
    process.join()
    return process.exitcode


def test_a_run_that_is_killed_at_any_time_again_and_again_ends_as_if_it_had_not_been(straight, tmp_path):
    """Also while TensorStore writes, which no audit hook sees: a checkpoint every other update, and twelve kills."""
    said, rng, kills, number = tmp_path / "said", random.Random(0), 0, 0
    while kills < 12:
        workdir = tmp_path / str(number)
        if not workdir.exists():
            shutil.copytree(straight / "2", workdir)
        status = struck(workdir, said, 60, rng.random())
        if status == 0:
            same(state(workdir, 60), state(straight / "60", 60))
            number += 1
        else:
            assert status == -signal.SIGKILL, said.read_text()
            kills += 1
    assert forked(trained, tmp_path / str(number), said, 60) == 0, said.read_text()
    same(state(tmp_path / str(number), 60), state(straight / "60", 60))
    rows = [json.loads(line)["step"] for line in (tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()]
    assert rows == [*range(1, 61)]
    assert "damaged" not in said.read_text() and "Traceback" not in said.read_text()


# Memory -------------------------------------------------------------------------------------------------------------


def starved(workdir: Path, said: Path, after: int) -> None:
    """Train where, from the batch of a step on, memory ends while examples are read."""
    begin(said)
    real, page = pipeline.batch, os.sysconf("SC_PAGE_SIZE")

    def batch(examples, step, *arguments):
        if step == after:
            in_use = int(Path("/proc/self/statm").read_text().split()[0]) * page
            resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**28, resource.RLIM_INFINITY))
            np.ones(2**30)
        return real(examples, step, *arguments)

    pipeline.batch = batch
    sys.argv = ["train.py"]
    train_command.run_command(lambda: run(workdir, 6))


def test_memory_that_ends_is_one_sentence_and_nothing_is_lost(straight, tmp_path):
    workdir, said = shutil.copytree(straight / "2", tmp_path / "run"), tmp_path / "said"
    assert forked(starved, workdir, said, 5) == 1, said.read_text()
    last = said.read_text().splitlines()[-1]
    assert last.startswith("error: ") and "memory" in last, said.read_text()
    assert "Traceback" not in said.read_text() and steps(workdir) == [5]
    assert forked(trained, workdir, said, 6) == 0, said.read_text()
    same(state(workdir, 6), state(straight / "6", 6))


# One writer ---------------------------------------------------------------------------------------------------------


def holding(workdir: Path, said: Path, taken) -> None:
    begin(said)
    with locked(workdir):
        taken.set()
        time.sleep(300)


def commanded(workdir: Path, said: Path) -> None:
    """The command, as a second user types it."""
    begin(said)
    sys.argv = ["train.py", "--config=digits", f"--workdir={workdir}"]
    train_command.command()


@contextlib.contextmanager
def held(workdir: Path, said: Path):
    taken = PROCESSES.Event()
    process = PROCESSES.Process(target=holding, args=(workdir, said, taken))
    process.start()
    try:
        assert taken.wait(60), said.read_text()
        yield process
    finally:
        process.kill()
        process.join()


def test_a_second_run_in_a_directory_says_who_is_there_and_leaves(straight, tmp_path):
    workdir, said = shutil.copytree(straight / "2", tmp_path / "run"), tmp_path / "said"
    with held(workdir, tmp_path / "first") as first:
        begun = time.monotonic()
        assert forked(commanded, workdir, said) == 1
        assert time.monotonic() - begun < 20
        (line,) = said.read_text().splitlines()
        who = f"by process {first.pid} on {os.uname().nodename} since 20"
        assert line.startswith(f"error: {workdir} is being written to {who}")
        assert line.endswith(": stop it, or choose another --workdir")
        assert steps(workdir) == [2]
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        assert forked(trained, workdir, said, 6) == 0, said.read_text()  # the lock of a dead process is taken over
    same(state(workdir, 6), state(straight / "6", 6))


def test_a_lock_is_free_again_after_an_error_and_is_of_one_directory(tmp_path):
    with contextlib.suppress(KeyError), locked(tmp_path):
        (tmp_path / "other").mkdir()
        with locked(tmp_path / "other"), pytest.raises(LockedError), locked(tmp_path):
            pass
        raise KeyError
    with locked(tmp_path):
        pass


def test_who_is_on_another_host_is_said_with_what_to_do_if_it_is_gone(tmp_path):
    with locked(tmp_path):
        holder = {"host": "elsewhere", "pid": 7, "since": "2026-01-01 00:00:00+00:00"}
        (tmp_path / "train.lock").write_text(json.dumps(holder))
        with pytest.raises(LockedError, match=r"by process 7 on elsewhere since .*: stop it there, .* remove .*/train"):  # noqa: SIM117
            with locked(tmp_path):
                pass
        (tmp_path / "train.lock").write_text("")
        with pytest.raises(LockedError, match="by another process; choose another --workdir"), locked(tmp_path):
            pass


def test_weights_are_not_written_where_a_run_trains(tmp_path):
    with locked(tmp_path), pytest.raises(LockedError):
        save_weights(tmp_path, {"a": np.ones(3, np.float32)}, {"streams": {}, "model": {}}, "a paper")
    assert steps(tmp_path) == []
