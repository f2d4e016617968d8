"""A mistake of the user's ends in one line and status 1; a mistake of ours keeps its traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, os, pathlib
from absl import flags
import dit_jax as dj
from dit_jax.command import run_command
from dit_jax.config import build
from dit_jax.run import SampleOptions
from dit_jax.training.checkpoint import open_reader

NUM = flags.DEFINE_integer("num", 1, "how many")
WORD = flags.DEFINE_string("word", "none", "a word")
ITSELF = {}
ITSELF["itself"] = ITSELF

DO = {
    "none": lambda: print(json.dumps([NUM.value, WORD.value])),
    "label": lambda: dj.streams.label(10).view.read("x"),
    "missing": lambda: open_reader("nowhere"),
    "circle": lambda: build(ITSELF),
    "open": lambda: open("nowhere"),
    "key": lambda: SampleOptions(guidance=2.0, combine="nothing").guide(),
}

if __name__ == "__main__":
    run_command(lambda: DO.get(WORD.value, DO["none"])(), **json.loads(os.environ["HOW"]))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("command") / "script.py"
    path.write_text(SCRIPT)
    return path


def run(script: Path, *arguments: str, **how) -> tuple[int, str, str]:
    """(status, what it said, what it complained of)"""
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "HOW": json.dumps(how)}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=environment, cwd=script.parent, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("label", "a label is an integer, a list such as 0,2,5, all or random; not 'x'"),  # a ValueError
        ("missing", "there is no checkpoint in {}/nowhere/checkpoints; train with this --workdir first"),  # an OSError
    ],
)
def test_what_the_package_complains_of_is_one_line_and_status_one(word, message, script):
    status, said, complaint = run(script, f"--word={word}")
    assert status == 1 and said == "" and complaint == f"error: {message.format(script.parent)}\n"


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("circle", "ValueError: Circular reference detected"),  # by json, which the package has called
        (
            "open",
            "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere'",
        ),  # by what the command itself does
        ("key", "KeyError: 'nothing'"),  # by the package, and nothing that it says to users
    ],
)
def test_any_other_error_keeps_its_traceback(word, error, script):
    status, _, complaint = run(script, f"--word={word}")
    assert status == 1 and "Traceback (most recent call last)" in complaint
    assert complaint.splitlines()[-1].startswith(error)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], [5, "a word"]),
        (["--num=7"], [7, "a word"]),
        (["--word=other", "--num=0"], [0, "other"]),
        (["--num", "7"], [7, "a word"]),
    ],
)
def test_a_default_is_used_unless_its_flag_is_given(arguments, wanted, script):
    status, said, complaint = run(script, *arguments, defaults=["--num=5", "--word=a word"])
    assert (status, json.loads(said)) == (0, wanted), complaint


def test_a_default_that_gives_way_is_not_even_read(script):
    """It may be a file that is not there."""
    status, said, complaint = run(script, "--num=7", defaults=["--num=many"])
    assert (status, json.loads(said)) == (0, [7, "none"]), complaint


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--nun=3", "error: Unknown command line flag 'nun'. Did you mean: num"),
        ("--num=many", "error: flag --num=many: invalid literal for int() with base 10: 'many'"),
    ],
)
def test_a_flag_that_is_none_or_has_no_such_value_is_one_line(argument, message, script):
    status, said, complaint = run(script, argument)
    assert status == 1 and said == "" and complaint.startswith(message) and complaint.count("\n") == 1
