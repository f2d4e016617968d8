"""A mistake of the user's ends in one line and status 1; a mistake of ours keeps its traceback."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dit_jax import convert, evaluate, evaluate_files, inspect, prepare, sample_cli, train
from dit_jax.command import BUG, check_cache, mistake, parse
from dit_jax.names import ConfigError
from dit_jax.schema import LOCAL, notes, parameters

ROOT = Path(__file__).parent.parent

SCRIPT = """
import dataclasses, json, os
from typing import Annotated
import jax.numpy as jnp
import numpy as np
import dit_jax as dj
from dit_jax.command import run_command
from dit_jax.config import build
from dit_jax.run import SampleOptions
from dit_jax.schema import EACH, Range, check_fields
from dit_jax.training.checkpoint import newest_good

ITSELF = {}
ITSELF["itself"] = ITSELF

def stop():
    raise KeyboardInterrupt

DO = {
    "none": lambda: None,
    "label": lambda: dj.streams.label(10).view.read("x"),
    "missing": lambda: newest_good("nowhere", lambda checkpoint: checkpoint),
    "circle": lambda: build(ITSELF),
    "open": lambda: open("nowhere"),
    "device": lambda: jnp.zeros((2**20, 2**22)).block_until_ready(),
    "host": lambda: np.zeros((2**20, 2**30)),
    "stop": stop,
    "json": lambda: json.loads("{"),
    "key": lambda: dj.streams.label(3).view.show([{}["nothing"]]),
}

@dataclasses.dataclass
class Options:
    size: Annotated[int, Range(at_least=1), "how large"] = 3
    hidden: int = 4
    num: Annotated[int, "another"] = 5

    def __post_init__(self):
        check_fields(self)

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
        ("open", "nowhere: No such file or directory; paths that do not begin with / start in {}"),  # by Python
        ("circle", "config holds what is no number, word or list of them: Circular reference detected"),
        ("device", "out of memory: make less at a time, by a smaller --batch, or"),
        ("host", "out of memory: make less at a time, by a smaller --batch, or"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_status_one(word, message, script):
    status, said, complaint = run(script, "kind", f"--word={word}")
    assert status == 1 and said == "" and complaint.count("\n") == 1 and complaint.endswith("\n")
    assert complaint.startswith(f"error: {message.format(script.parent)}")


@pytest.mark.parametrize(
    ("word", "error"),
    [
        (
            "json",
            "json.decoder.JSONDecodeError: Expecting property name",
        ),  # a ValueError, which the package did not raise
        ("key", "KeyError: 'nothing'"),  # by the package, and nothing that it says to users
    ],
)
def test_any_other_error_keeps_its_traceback_which_says_that_it_is_a_bug_and_where_to_report_it(word, error, script):
    status, _, complaint = run(script, "kind", f"--word={word}")
    assert status == 1 and complaint.startswith("Traceback (most recent call last)")
    *_, last, advice = complaint.splitlines()
    assert last.startswith(error)
    assert advice == BUG and "this is a bug" in advice and "report it, with what is above, as an issue" in advice


def test_ctrl_c_and_a_reader_that_leaves_are_silent(script):
    assert run(script, "kind", "--word=stop") == (130, "", "")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "HOW": "{}", "PYTHONUNBUFFERED": "1"}
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, str(script), "kind"]
    done = subprocess.run(command, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def raised(do) -> Exception:
    try:
        do()
    except Exception as error:
        return error
    raise AssertionError("it went well")


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda here: here.read_text(), "{}: Is a directory; it is a directory, and should be a file"),
        (lambda here: (here / "no" / "file").read_text(), "{}/no/file: No such file or directory; check the path"),
        (lambda here: (here / "file").mkdir(), "{}/file: File exists; a file is where a directory should be: choose "),
        (
            lambda here: (here / "file" / "in").write_text(""),
            "{}/file/in: Not a directory; a file is where a directory",
        ),
        (lambda here: (here / ("x" * 300)).read_text(), "{}/xxx"),
        (lambda here: os.rename(here / "a", here / "b"), "{0}/a -> {0}/b: No such file or directory; check the path"),
        (lambda here: os.write(os.open("/dev/full", os.O_WRONLY), b"x"), "No space left on device; make room, or "),
        (lambda here: os.chmod("/proc/self/fd", 0), "/proc/self/fd: Operation not permitted; change its permissions"),
        (lambda here: os.mkdir("/proc/here"), "/proc/here: No such file or directory; check the path"),
        (
            lambda here: importlib.import_module("nowhere_at_all.inside"),
            "the Python package nowhere_at_all is not inst",
        ),
        (lambda here: Image.open(here / "file"), "cannot identify image file '{}/file'"),
    ],
)
def test_what_the_operating_system_refuses_is_the_file_the_reason_and_the_fix(do, message, tmp_path):
    """Wherever it is raised: none of these is by this package."""
    (tmp_path / "file").write_text("")
    sentence = mistake(raised(lambda: do(tmp_path)))
    assert sentence is not None and sentence.startswith(message.format(tmp_path)) and "\n" not in sentence


@pytest.mark.parametrize(
    "words", ["Unable to initialize backend 'cuda': no device", "Unable to initialize backend 'x'"]
)
def test_a_device_that_is_not_there_is_no_bug(words):
    assert mistake(RuntimeError(words)) == (
        f"JAX has no such device: {words}; install jax for it, or unset JAX_PLATFORMS"
    )
    with pytest.raises(KeyError) as other:
        {}["backend"]
    assert mistake(other.value) is None


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], ["kind", 5, "a word", [], ["x"], {}]),
        (["--num=7"], ["kind", 7, "a word", [], ["x"], {}]),
        (["--word=other", "--num=0"], ["kind", 0, "other", [], ["x"], {}]),
        (["--num", "7"], ["kind", 7, "a word", [], ["x"], {}]),
        (["--num=3", "--num=7"], ["kind", 7, "a word", [], ["x"], {}]),  # the last counts
        (["-num=7"], ["kind", 7, "a word", [], ["x"], {}]),
        (["--num", "-7"], ["kind", -7, "a word", [], ["x"], {}]),
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
        (["kind", "--nun=3"], "error: --nun does not exist; did you mean --num?"),
        (["kind", "--num=many"], "error: --num=many should be a whole number"),
        (["kind", "--num=1.5"], "error: --num=1.5 should be a whole number"),
        (["kind", "--num"], "error: Missing value for flag --num"),
        (["kind", "--size=0"], "error: --size = 0 should be at least 1"),
        (["kind", "--hidden=3"], "error: --hidden does not exist; --help has all flags"),  # there is no line for it
        (
            ["kind", "--config.train.steps=3"],
            "error: --config.train.steps does not exist; it is a flag of python -m dit",
        ),
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
        (["-m", "dit_jax.plan"], "--topology: the chips"),
    ],
)
def test_every_command_starts_here(command, line):
    done = subprocess.run([sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert line in done.stdout


MAINS = (train.main, sample_cli.main, evaluate.main, evaluate_files.main, inspect.main, prepare.main, convert.main)
PATHS = [(main, name) for main in MAINS for name, p in parameters(main).items() if LOCAL in notes(p.annotation)]


@pytest.mark.parametrize(("main", "name"), [*PATHS, (sample_cli.main, "weak")])
def test_a_path_that_this_machine_cannot_open_is_refused_by_its_flag(main, name):
    """Or gs://bucket/run would be a folder gs: here, on every host one of its own."""
    words = ["x"] if main is prepare.main else []
    with pytest.raises(ConfigError, match=f"--{name} = gs://bucket/run is no path of this machine: mount it"):
        parse(main, [*words, f"--{name}=gs://bucket/run"])
    assert {"workdir", "out", "vae", "source", "data_dir", "samples", "reference"} <= {name for _, name in PATHS}


def test_what_is_compiled_is_kept_where_nobody_else_can_write(tmp_path):
    """The folder is made for the user alone; one that others can write to holds whose programs?"""
    check_cache("")
    check_cache("gs://bucket/compiled")
    folder = tmp_path / "compiled" / "here"
    check_cache(str(folder))
    check_cache(str(folder))
    assert folder.stat().st_mode & 0o777 == 0o700
    for mode in (0o777, 0o770, 0o702):
        folder.chmod(mode)
        with pytest.raises(
            ValueError, match=r"JAX_COMPILATION_CACHE_DIR=.*/here can be written to by others.* chmod 700"
        ):
            check_cache(str(folder))
    folder.chmod(0o755)
    check_cache(str(folder))


@pytest.mark.parametrize(
    "words", ["UNKNOWN: Gloo all-reduce failed: Connection closed by peer", "NCCL operation failed"]
)
def test_another_process_that_has_ended_is_no_bug_of_this_one(words):
    assert mistake(RuntimeError(words)) == (
        f"another process of this job has ended, or cannot be reached: what it said is why ({words})"
    )
