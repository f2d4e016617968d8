"""A mistake of the user's ends in one line and status 1; a mistake of ours keeps its traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

SCRIPT = """
import dataclasses, json, os
from typing import Annotated
import dit_jax as dj
from dit_jax.command import run_command
from dit_jax.config import build
from dit_jax.run import SampleOptions
from dit_jax.schema import EACH, Range
from dit_jax.training.checkpoint import newest_good

ITSELF = {}
ITSELF["itself"] = ITSELF

DO = {
    "none": lambda: None,
    "label": lambda: dj.streams.label(10).view.read("x"),
    "missing": lambda: newest_good("nowhere", lambda checkpoint: checkpoint),
    "circle": lambda: build(ITSELF),
    "open": lambda: open("nowhere"),
    "key": lambda: dj.streams.label(3).view.show([{}["nothing"]]),
}

@dataclasses.dataclass
class Options:
    size: Annotated[int, Range(at_least=1), "how large"] = 3
    hidden: int = 4
    num: Annotated[int, "another"] = 5

def main(
    kind: str,
    num: Annotated[int, "how many"] = 1,
    word: Annotated[str, "a word"] = "none",
    parts: Annotated[tuple, "some"] = (),
    each: Annotated[tuple, EACH, "some more"] = ("x",),
    options: Annotated[dict, Options] = None,
):
    DO.get(word, DO["none"])()
    print(json.dumps([kind, num, word, parts, each, options]))

if __name__ == "__main__":
    run_command(main, **json.loads(os.environ["HOW"]))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("command") / "script.py"
    path.write_text(SCRIPT)
    return path


def run(script: Path, *arguments: str, **how) -> tuple[int, str, str]:
    """(status, what it said, what it complained of)"""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "HOW": json.dumps(how)}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=environment, cwd=script.parent, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("label", "a label is an integer, a list such as 0,2,5, all, random or none; not 'x'"),  # a ValueError
        ("missing", "there is no checkpoint in {}/nowhere/checkpoints; train with this --workdir first"),  # an OSError
    ],
)
def test_what_the_package_complains_of_is_one_line_and_status_one(word, message, script):
    status, said, complaint = run(script, "kind", f"--word={word}")
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
    status, _, complaint = run(script, "kind", f"--word={word}")
    assert status == 1 and "Traceback (most recent call last)" in complaint
    assert complaint.splitlines()[-1].startswith(error)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], ["kind", 5, "a word", [], ["x"], {}]),
        (["--num=7"], ["kind", 7, "a word", [], ["x"], {}]),
        (["--word=other", "--num=0"], ["kind", 0, "other", [], ["x"], {}]),
        (["--num", "7"], ["kind", 7, "a word", [], ["x"], {}]),
        (["--parts=a,b", "--each=a,b", "--each=c"], ["kind", 5, "a word", ["a", "b"], ["a,b", "c"], {}]),
        (["--size=9"], ["kind", 5, "a word", [], ["x"], {"size": 9}]),  # what main has itself is no option
    ],
)
def test_flags_are_the_arguments_and_a_default_is_used_unless_its_flag_is_given(arguments, wanted, script):
    status, said, complaint = run(script, "kind", *arguments, defaults=["--num=5", "--word=a word"])
    assert (status, json.loads(said)) == (0, wanted), complaint


def test_a_default_that_gives_way_is_not_even_read(script):
    """It may be a file that is not there."""
    status, said, complaint = run(script, "kind", "--num=7", defaults=["--num=many"])
    assert (status, json.loads(said)[1:3]) == (0, [7, "none"]), complaint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kind", "--nun=3"], "error: Unknown command line flag 'nun'. Did you mean: num"),
        (["kind", "--num=many"], "error: flag --num=many: invalid literal for int() with base 10: 'many'"),
        (["kind", "--hidden=3"], "error: Unknown command line flag 'hidden'"),  # there is no line for it
        (["kind", "stray"], "error: what is 'stray'? Flags are written --name=value"),
        ([], "error: KIND is missing, the first word after the command"),
        (["kind", "--word="], "error: --word is empty; where it is left out, it is none"),
    ],
)
def test_what_is_no_argument_or_has_no_such_value_is_one_line(arguments, message, script):
    status, said, complaint = run(script, *arguments)
    assert status == 1 and said == "" and complaint.startswith(message) and complaint.count("\n") == 1


def test_help_has_a_line_for_every_flag_and_runs_nothing(script):
    status, said, complaint = run(script, "--help", "--word=open")
    assert status == 0 and complaint == ""
    assert {"--num: how many (default: '1')", "--size: how large"} <= {line.strip() for line in said.splitlines()}


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["train.py"], "--workdir: where checkpoints"),
        (["-m", "dit_jax.train"], "--config: a config by name"),
        (["sample.py"], "--solver: how to move"),
        (["-m", "dit_jax.sample"], "--solver: how to move"),
        (["-m", "dit_jax.evaluate"], "--guidance: a score for each"),
        (["-m", "dit_jax.prepare"], "--data_dir: where data sets live"),
        (["-m", "dit_jax.convert"], "--checkpoint: published weights"),
    ],
)
def test_every_command_starts_here(command, line):
    done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert line in done.stdout
