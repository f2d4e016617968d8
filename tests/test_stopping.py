"""A run stops when it is asked to, whatever it is doing, and never without a word."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dit_jax.training import stopping
from dit_jax.training.stopping import SIGNALS, Watcher, watched

ROOT = Path(__file__).parent.parent


def until(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


@pytest.fixture
def left(monkeypatch) -> list[int]:
    """Statuses with which the process would have ended."""
    statuses: list[int] = []

    def leave(status):
        statuses.append(status)
        raise SystemExit

    monkeypatch.setattr(stopping.os, "_exit", leave)
    return statuses


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_leaves(number, left):
    watcher = Watcher(lambda: "saved")
    with watched(watcher):
        assert not watcher.asked
        signal.raise_signal(number)
        assert watcher.asked and not left
        time.sleep(2 * stopping.ECHO)
        signal.raise_signal(signal.SIGTERM)
        assert until(lambda: left == [128 + signal.SIGTERM])


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_twice_at_once_is_one_and_another_is_a_second(number, left):
    """As timeout(1) sends it, to a process and to its group."""
    watcher = Watcher(lambda: "saved")
    with watched(watcher):
        for _ in range(3):
            signal.raise_signal(number)
            time.sleep(0.01)
        time.sleep(0.3)
        assert watcher.asked and not left
    watcher = Watcher(lambda: "saved")
    with watched(watcher):
        signal.raise_signal(number)
        signal.raise_signal(next(other for other in SIGNALS if other != number))
        assert until(lambda: len(left) == 1)


@pytest.mark.parametrize("error", [None, KeyError])
def test_signals_mean_afterwards_what_they_meant_before(error):
    heard: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: heard.append(number)) for number in SIGNALS}
    threads = threading.active_count()
    try:
        ours = [signal.getsignal(number) for number in SIGNALS]
        try:
            with watched(Watcher(lambda: "saved")):
                assert not {*ours} & {signal.getsignal(number) for number in SIGNALS}
                if error:
                    raise error
        except KeyError:
            pass
        assert [signal.getsignal(number) for number in SIGNALS] == ours and threading.active_count() == threads
        for number in SIGNALS:
            signal.raise_signal(number)
        assert heard == [*SIGNALS]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_whoever_was_woken_by_signals_before_is_woken_afterwards():
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    before = signal.set_wakeup_fd(sender)
    try:
        with watched(Watcher(lambda: "saved")):
            pass
        assert signal.set_wakeup_fd(-1) == sender
    finally:
        signal.set_wakeup_fd(before)
        os.close(receiver)
        os.close(sender)


def test_where_training_does_not_answer_the_watcher_saves_and_leaves(left, monkeypatch, capsys):
    monkeypatch.setattr(stopping, "PATIENCE", 0.2)
    saved: list[bool] = []
    watcher = Watcher(lambda: saved.append(True) or "stopped at step 3")
    with watched(watcher):
        signal.raise_signal(signal.SIGTERM)
        assert until(lambda: left == [0])
    assert saved == [True] and "stopped at step 3" in capsys.readouterr().out


def test_a_training_thread_that_ends_by_itself_is_not_saved_twice(left, monkeypatch):
    monkeypatch.setattr(stopping, "PATIENCE", 0.5)
    saved: list[bool] = []
    with watched(Watcher(lambda: saved.append(True) or "")):
        signal.raise_signal(signal.SIGTERM)
    time.sleep(0.8)
    assert saved == [] and left == []


def test_a_step_that_holds_the_state_is_waited_for_and_then_said_to_be_lost(left, monkeypatch, capsys):
    monkeypatch.setattr(stopping, "PATIENCE", 0.1)
    monkeypatch.setattr(stopping, "LAST_RESORT", 0.2)
    watcher = Watcher(lambda: pytest.fail("the state is being replaced"))
    with watched(watcher), watcher.updating:
        watcher.stop()
        assert until(lambda: left == [1])
    assert "in the middle of a step that does not end" in capsys.readouterr().err


def test_a_step_that_holds_the_state_is_no_loss_where_nothing_is_new(left, monkeypatch, capsys):
    monkeypatch.setattr(stopping, "PATIENCE", 0.1)
    monkeypatch.setattr(stopping, "LAST_RESORT", 0.2)
    watcher = Watcher(lambda: pytest.fail("the state is being replaced"), unchanged=lambda: "nothing is lost")
    with watched(watcher), watcher.updating:
        watcher.stop()
        assert until(lambda: left == [0])
    assert "nothing is lost" in capsys.readouterr().out


def test_a_save_that_takes_long_is_let_to_its_end(left, monkeypatch):
    """The watcher does not begin another one beside it, whenever it looks."""
    monkeypatch.setattr(stopping, "PATIENCE", 0.1)
    monkeypatch.setattr(stopping, "LAST_RESORT", 0.1)
    saved: list[bool] = []
    watcher = Watcher(lambda: saved.append(True) or "")
    with watched(watcher):
        with watcher.updating:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.15)  # it waits for the state by now
        for _ in range(3):
            watcher.step()
        assert watcher.limit == stopping.LEAST
        with watcher.saving():
            assert watcher.limit == stopping.LONGEST
            time.sleep(1.0)
            watcher._rescue()  # as where the save begins just after it has looked
    assert saved == [] and left == []


def test_a_second_signal_leaves_at_once_while_it_saves(left, monkeypatch):
    """The watcher does not wait for the state meanwhile."""
    monkeypatch.setattr(stopping, "PATIENCE", 0.1)
    monkeypatch.setattr(stopping, "LAST_RESORT", 30.0)
    watcher = Watcher(lambda: "")
    with watched(watcher), watcher.saving():
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.7)
        signal.raise_signal(signal.SIGTERM)
        assert until(lambda: left == [128 + signal.SIGTERM])


def test_a_run_that_hangs_ends_with_the_stacks_of_all_threads(left, capfd):
    watcher = Watcher(lambda: "", watchdog=0.3)
    with watched(watcher):
        assert until(lambda: left == [1])
    said = capfd.readouterr().err
    assert "train.watchdog = 0" in said and "test_a_run_that_hangs_ends_with_the_stacks_of_all_threads" in said


def test_a_run_that_goes_on_is_left_alone(left):
    watcher = Watcher(lambda: "", watchdog=0.5)
    with watched(watcher):
        for _ in range(8):
            time.sleep(0.1)
            watcher.step()
    assert left == []


def test_the_limit_follows_the_slowest_step_once_the_first_is_compiled(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stopping.time, "monotonic", lambda: now[0])
    watcher = Watcher(lambda: "")
    assert watcher.limit == stopping.LONGEST
    for seconds in (900, 2, 20, 1):  # the first one compiles, and belongs to none
        now[0] += seconds
        watcher.step()
    assert watcher.limit == stopping.TIMES * 20
    assert Watcher(lambda: "", 7.0).limit == 7.0 and Watcher(lambda: "", 0.0).limit == float("inf")


PROGRAM = """
import json, os, sys, time
from pathlib import Path
import jax
jax.config.update("jax_disable_most_optimizations", True)
from dit_jax.config import build
from dit_jax.configs import digits
from dit_jax.data import pipeline
from dit_jax.training import loop
from dit_jax.training.saving import Saver
config = json.loads(digits.get_config().to_json())
config["model"] |= {"width": 24, "depth": 1, "heads": 1}
config["data"] |= {"name": "synthetic", "batch_size": 4, "threads": 0}
config["train"] |= {"steps": 100000, "log_every": 5}
config["checkpoint"] |= {"every": 100000}
config["sample"] |= {"every": 0, "num": 2, "batch": 2, "steps": 2}
where = sys.argv[2]

def stuck(*_, **__):
    print("STUCK", flush=True)
    time.sleep(1000)

if where == "compiling":
    from dit_jax.parallel.modes import MODES
    real = MODES["jit"]
    MODES["jit"] = lambda mesh: real(mesh)._replace(compile=lambda step: stuck)
elif where == "data":
    real_batches = pipeline.batches
    def batches(*arguments, **options):
        for i, batch in enumerate(real_batches(*arguments, **options)):
            if i == 20:
                stuck()
            yield batch
    pipeline.batches = batches
elif where == "drawing":
    config["sample"]["every"] = 10
    real_draw, drawn = loop.draw, []
    loop.draw = lambda *arguments: drawn.append(1) or (real_draw if len(drawn) == 1 else stuck)(*arguments)
elif where == "drawing first":
    config["sample"]["every"] = 10
    loop.draw = stuck
elif where == "saving":
    config["checkpoint"]["every"] = 10
    real_save = Saver.save
    def save(self, step, *rest):
        if step == 10:
            print("STUCK", flush=True)
            time.sleep(2)
        return real_save(self, step, *rest)
    Saver.save = save
elif where == "ending":
    real_end = loop.Training.end
    def end(self):
        print("STUCK", flush=True)
        time.sleep(9)  # a large state on a slow disk
        return real_end(self)
    loop.Training.end = end
loop.train(build(config), Path(sys.argv[1]))
"""


def start(workdir: Path, where: str) -> subprocess.Popen:
    command = [sys.executable, "-u", "-c", PROGRAM, str(workdir), where]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def read_until(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"no {text}: {process.stderr.read()}")


def steps(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


@pytest.mark.heavy
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    ("where", "word", "saved"),
    [
        ("updating", "training 10/", None),
        ("data", "STUCK", 20),
        ("drawing", "STUCK", 10),
        ("drawing first", "STUCK", 0),
        ("saving", "STUCK", 10),
    ],
)
def test_any_signal_saves_and_ends_within_ten_seconds_whatever_is_being_done(where, word, saved, number, tmp_path):
    process = start(tmp_path, where)
    read_until(process, word)
    begin = time.monotonic()
    process.send_signal(number)
    said, complaint = process.communicate(timeout=30)
    assert time.monotonic() - begin < 10 and process.returncode == 0, complaint
    newest = steps(tmp_path)[-1]
    assert f"stopped at step {newest}; checkpoint in" in said and (saved is None or newest in (saved, saved + 1))


@pytest.mark.heavy
def test_a_signal_while_compiling_has_nothing_to_save_and_says_so(tmp_path):
    process = start(tmp_path, "compiling")
    read_until(process, "STUCK")
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    said, complaint = process.communicate(timeout=30)
    assert time.monotonic() - begin < 10 and process.returncode == 0, complaint
    assert "stopped at step 0, before the first update" in said and steps(tmp_path) == []


@pytest.mark.heavy
def test_a_disk_that_is_slow_is_waited_for(tmp_path):
    """For longer than the watcher is patient; one checkpoint is written, once."""
    process = start(tmp_path, "ending")
    read_until(process, "training 10/")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    (step,) = steps(tmp_path)
    assert process.returncode == 0, errors
    assert output.splitlines()[-1].startswith(f"stopped at step {step}; checkpoint in ") and output.count("STUCK") == 1
    assert "could not be written" not in output and "Traceback" not in errors


@pytest.mark.heavy
def test_a_closed_terminal_saves_and_ends_well(tmp_path):
    process = start(tmp_path, "updating")
    read_until(process, "training 10/")
    process.stdout.close()
    assert process.wait(timeout=20) == 0, process.stderr.read()
    assert len(steps(tmp_path)) == 1


@pytest.mark.heavy
def test_a_reader_that_hangs_ends_with_stacks_and_status_one(tmp_path):
    program = PROGRAM.replace('config["sample"] |=', 'config["train"]["watchdog"] = 3.0; config["sample"] |=')
    command = [sys.executable, "-u", "-c", program, str(tmp_path), "data"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "no step in" in done.stderr and "in stuck" in done.stderr
