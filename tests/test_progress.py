"""What is being done, how fast, and how long it will take, for people and for files."""

import re
import time
import types

import pytest

import dit_jax.progress
from dit_jax.progress import SILENCE, announced, progress


@pytest.fixture
def clock(monkeypatch) -> types.SimpleNamespace:
    """now: seconds, which pass when they are added to."""
    clock = types.SimpleNamespace(now=1000.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(dit_jax.progress, "time", clock)
    return clock


@pytest.fixture
def piped(monkeypatch, capsys):
    """() -> the lines since the last call, without a terminal."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return lambda: [line for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_without_a_terminal_numbers_have_a_line_with_the_time_the_rate_and_what_is_left(clock, piped):
    """The first step compiles, and belongs to no rate."""
    with progress(12, 2, "training") as show:
        clock.now += 20
        show(3)
        assert piped() == []
        clock.now += 2
        show(4, loss=0.123456, rate=1234.5)
        assert piped() == ["training 4/12  0:00:22  0.5/s  eta 0:00:16  loss 0.1235  rate 1234"]  # 8 steps of 2 s
        clock.now += 1
        show(5)
        clock.now += 1
        show(7, loss=12.0)
        assert piped() == ["training 7/12  0:00:24  1/s  eta 0:00:05  loss 12"]  # 4 steps in 4 s since the first one
        clock.now += 3576
        show(9)
        assert piped() == [
            "training 9/12  1:00:00  0.001676/s  eta 0:29:50"
        ]  # 6 in 3580 s, and nothing was said for long
        clock.now += SILENCE
        show(10)
        assert piped() == []


def test_before_there_is_a_rate_the_time_is_all_there_is(clock, piped):
    with progress(10, 0, "sampling") as show:
        clock.now += 61
        show(1, loss=1)
    assert piped() == ["sampling 1/10  0:01:01  loss 1"]


def test_what_goes_on_instead_is_a_line_and_no_step(clock, piped):
    with progress(10, 0, "training") as show:
        show(0, doing="compiling")
        assert piped() == ["compiling"]
        show(1)
        clock.now += 1
        show(2, doing="drawing")
        clock.now += 9
        show(2, doing="compiling")
        show(3, loss=1)
    assert piped() == ["drawing", "compiling", "training 3/10  0:00:10  0.2/s  eta 0:00:35  loss 1"]


def test_in_a_terminal_there_is_a_bar_which_has_the_last_numbers(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    with progress(10, 2, "training") as show:
        show(4, loss=0.123456)
        show(7)
    said = capsys.readouterr().out
    assert "training 4/10" not in said
    last = [line for line in said.splitlines() if "training" in line][-1]
    assert "7/10" in last and "loss 0.1235" in last


def test_in_a_terminal_the_bar_says_compiling_until_the_first_step_is_there(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    said = []
    with progress(10, 2, "training") as show:
        for step, doing in ((2, "reading data"), (2, "compiling"), (3, "")):
            show(step, doing=doing)
            time.sleep(0.5)  # the bar is drawn ten times a second
            said.append(capsys.readouterr().out)
    words = re.compile("reading data|compiling|training")
    assert [words.findall(text)[-1] for text in said] == ["reading data", "compiling", "training"]
    assert "compiling" not in said[0] and "reading data" not in said[2]


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, []), (0.5, ["reading digits"])])
def test_what_takes_longer_than_a_moment_is_announced(seconds, lines, piped):
    with announced("reading digits", after=0.1):
        time.sleep(seconds)
    time.sleep(0.2)
    assert piped() == lines


def test_what_fails_at_once_is_not_announced(piped):
    with pytest.raises(KeyError), announced("reading digits", after=0.05):
        raise KeyError
    time.sleep(0.1)
    assert piped() == []
