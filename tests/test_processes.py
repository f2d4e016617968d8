"""Several processes train, draw and score as one does: they start together, stop together, and none hangs on another.

Two processes of two CPU devices each, which talk over the loopback.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from dit_jax.training.checkpoint import check_on_host, directory_of, load, read_on_host, steps

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.heavy

TINY = [
    *("--config.model.width=48", "--config.model.depth=2", "--config.model.heads=2", "--config.data.batch_size=8"),
    *("--config.train.log_every=1", "--config.checkpoint.every=4", "--config.checkpoint.keep=9"),
    *("--config.optimizer.decay=constant", "--config.sample.every=0", "--config.sample.num=4"),
]
LONG = "--config.train.steps=1000000"
HANGS = """
import sys, threading
from dit_jax.data import pipeline
read, sys.argv = pipeline.batch, sys.argv[1:]
def batch(examples, step, *rest):
    if step == 6:
        threading.Event().wait()
    return read(examples, step, *rest)
pipeline.batch = batch
from dit_jax.train import command
command()
"""


def environment(devices: int) -> dict[str, str]:
    return os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def job(
    *command: str, apart: Sequence[Sequence[str]] = ((), ()), programs: Sequence[Sequence[str]] = ((), ())
) -> list[subprocess.Popen]:
    """Two processes of a job, of which each may have arguments, or a program, of its own."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *program, *command, *own, f"--distributed=127.0.0.1:{port},2,{i}"],
            cwd=ROOT,
            env=environment(2),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, (own, program) in enumerate(zip(apart, programs, strict=True))
    ]


def ended(processes: Sequence[subprocess.Popen], within: float = 300) -> list[tuple[int, str]]:
    """(exit status, what it said) of each process. Those that do not end in time are killed."""
    try:
        said = [process.communicate(timeout=within)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


def alone(*command: str, devices: int = 4) -> str:
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment(devices), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def fingerprints(workdir: Path, step: int) -> dict:
    checkpoint = load(directory_of(workdir) / str(step))
    check_on_host(checkpoint)
    return checkpoint.meta["fingerprints"]


def check_agreement(one: Path, other: Path, step: int = 12) -> None:
    """Two runs have the same losses and end alike, to within the rounding of sums that are taken in another order."""
    losses = [[line["loss"] for line in lines(workdir)] for workdir in (one, other)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    first, second = (read_on_host(directory_of(workdir) / str(step) / "params") for workdir in (one, other))
    for name in {**first, **second}:
        np.testing.assert_allclose(first[name], second[name], atol=1e-5)


def wait_for_checkpoint(workdir: Path, processes: Sequence[subprocess.Popen]) -> None:
    while not steps(workdir):
        assert all(process.poll() is None for process in processes), ended(processes)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """A run of twelve updates by one process of four devices."""
    workdir = tmp_path_factory.mktemp("straight")
    alone("train.py", f"--workdir={workdir}", *TINY, "--config.train.steps=12")
    return workdir


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """The same of two processes, which draw on the way."""
    workdir = tmp_path_factory.mktemp("together")
    train_together(workdir, 12, "--config.sample.every=6")
    return workdir


def train_together(workdir: Path, number: int, *more: str) -> None:
    results = ended(job("train.py", f"--workdir={workdir}", *TINY, f"--config.train.steps={number}", *more))
    (status, first), (other, second) = results
    assert (status, other) == (0, 0), first + second
    assert f"finished at step {number}" in first and "process 1 of 2" in second and "finished" not in second


def test_two_processes_train_as_one_does(straight, together):
    """And one of them writes every line once."""
    check_agreement(straight, together)
    assert [line["step"] for line in lines(together)] == [*range(1, 13)]
    assert {file.name for file in together.glob("*.png")} == {f"samples_{step:07d}.png" for step in (0, 6, 12)}


def test_two_processes_go_on_bitwise(together, tmp_path):
    train_together(tmp_path, 8)
    train_together(tmp_path, 12)
    assert fingerprints(tmp_path, 12) == fingerprints(together, 12)


@pytest.mark.parametrize("devices", [4, 1])
def test_one_process_goes_on_from_two(devices, straight, together, tmp_path):
    there = tmp_path / "run"
    shutil.copytree(together, there)
    shutil.rmtree(there / "checkpoints" / "12")
    said = alone("train.py", f"--workdir={there}", *TINY, "--config.train.steps=12", devices=devices)
    assert "resuming from step 8" in said
    check_agreement(straight, there)


@pytest.mark.parametrize("more", [["--config.parallel.fsdp=2"], ["--config.parallel.mode=pmap"]])
def test_another_layout_trains_alike(more, straight, tmp_path):
    command = ["train.py", f"--workdir={tmp_path}", *TINY, "--config.train.steps=12", *more]
    for status, said in ended(job(*command)):
        assert status == 0, said
    check_agreement(straight, tmp_path)


def test_what_two_processes_draw_and_score_is_what_one_does(straight, together, tmp_path):
    draws = ["sample.py", f"--workdir={straight}", "--num=10", "--batch=8", "--given=label=all", "--guidance=1.5"]
    (status, first), (other, second) = ended(job(*draws, f"--out={tmp_path / 'two'}"))
    assert (status, other) == (0, 0) and "10 samples" in first and "samples" not in second, first + second
    alone(*draws, f"--out={tmp_path / 'one'}")
    one, two = (np.load(tmp_path / name / "samples.npz") for name in ("one", "two"))
    np.testing.assert_allclose(one["image"], two["image"], atol=1e-5)

    scores = ["-m", "dit_jax.evaluate", f"--workdir={straight}", "--num=20", "--guidance=1.5", "--steps=2"]
    alone(*scores)
    expected = json.loads((straight / "evaluation.json").read_text())
    (straight / "evaluation.json").unlink()
    (status, first), (other, second) = ended(job(*scores))
    assert (status, other) == (0, 0) and "agreement" in first and "agreement" not in second, first + second
    for was, now in zip(expected, json.loads((straight / "evaluation.json").read_text()), strict=True):
        assert was["scores"] == pytest.approx(now["scores"], rel=1e-3)


def test_a_signal_to_one_stops_all_at_one_step_which_is_saved(straight, tmp_path):
    """And with the status that the config has for it."""
    command = ["train.py", f"--workdir={tmp_path}", *TINY, LONG, "--config.train.stopped_status=75"]
    processes = job(*command)
    wait_for_checkpoint(tmp_path, processes)
    begin = time.monotonic()
    processes[1].send_signal(signal.SIGTERM)
    (status, first), (other, second) = ended(processes, within=60)
    assert time.monotonic() - begin < 30
    stopped = steps(tmp_path)[-1]
    assert (status, other) == (75, 75) and f"stopped at step {stopped}" in first, first + second
    assert [line["step"] for line in lines(tmp_path)] == [*range(1, stopped + 1)] and fingerprints(tmp_path, stopped)


@pytest.mark.parametrize("victim", [0, 1])
def test_when_one_is_killed_the_others_end_and_the_run_goes_on_from_its_checkpoint(victim, straight, tmp_path):
    processes = job("train.py", f"--workdir={tmp_path}", *TINY, LONG)
    wait_for_checkpoint(tmp_path, processes)
    processes[victim].kill()
    begin = time.monotonic()
    results = ended(processes, within=90)
    assert time.monotonic() - begin < 60 and results[1 - victim][0] not in (0, -signal.SIGKILL), results
    assert "this is a bug" not in results[1 - victim][1]
    for step in steps(tmp_path)[1:]:
        shutil.rmtree(directory_of(tmp_path) / str(step))
    said = alone("train.py", f"--workdir={tmp_path}", *TINY, "--config.train.steps=12")
    assert "resuming from step 4" in said
    check_agreement(straight, tmp_path)


def test_where_one_hangs_all_end_by_the_watchdog_and_say_where(tmp_path):
    plain = "import sys; sys.argv = sys.argv[1:]; from dit_jax.train import command; command()"
    command = ["train.py", f"--workdir={tmp_path}", *TINY, LONG, "--config.train.watchdog=20"]
    results = ended(job(*command, programs=[("-c", plain), ("-c", HANGS)]), within=150)
    assert steps(tmp_path) == [4]
    for status, said in results:
        assert status not in (0, -signal.SIGKILL) and "most recent call first" in said, said
        assert "error: no step in" in said and "this is a bug" not in said, said


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ("--config.train.seed=1", "process 1 has config.train.seed = 1, and process 0 has 0"),
        ("--config.data.name=synthetic", "process 1 has config.data.name = 'synthetic', and process 0 has 'digits'"),
    ],
)
def test_processes_that_are_not_one_job_say_why_before_anything_compiles(own, named, tmp_path):
    begin = time.monotonic()
    results = ended(job("train.py", f"--workdir={tmp_path}", *TINY, LONG, apart=((), (own,))), within=90)
    assert time.monotonic() - begin < 60 and not steps(tmp_path)
    assert all(status not in (0, -signal.SIGKILL) for status, _ in results), results
    assert all(f"error: {named}" in said and "compiling" not in said for _, said in results), results


def test_an_error_of_one_ends_all(tmp_path):
    """One that finds no data, while the others wait for it."""
    nowhere = f"--config.data.dir={tmp_path / 'nowhere'}", f"--config.data.name={tmp_path / 'none'}"
    begin = time.monotonic()
    (status, first), (other, second) = ended(job("train.py", f"--workdir={tmp_path}", *TINY, apart=((), nowhere)), 90)
    assert time.monotonic() - begin < 60 and 0 not in (status, other), first + second
    assert "error: " in second
