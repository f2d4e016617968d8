"""CONTRIBUTING's recipes, followed to the letter: what each adds obeys the laws, and what is wrong in it breaks one."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = {text.splitlines()[0]: text for text in PAGE.split("\n## ")[1:]}
RECIPES = [title for title, text in SECTIONS.items() if "```python\n" in text]

# What is easily got wrong in each, and the law that says so.
FAULTS = {
    "Add a modality": ("kernel_init=zeros, ", "", "head_makes_the_prediction[series]"),
    "Add a process": ("jnp.minimum(alpha / sigma, jnp.sqrt(self.gamma))", "alpha / sigma", "costs_least[min_snr]"),
    "Add a solver": ("* 2 / 3", "/ 2", "order_between_two_levels[ralston-gvp]"),
    "Add a guidance rule": ("_dot(strong, strong)", "jnp.sum(strong**2)", "one_by_one[renormalised]"),
    "Add a schedule": ("total, 4 * sigma", "total, sigma", "both_ends_are_exact_to_the_last_bit[float32-shifted_gvp]"),
}

# Tables that CONTRIBUTING names, a law of all of their rows, and the test that asks a new one for an entry.
WIRED = "test_wiring.py::test_every_entry_changes_what_happens"
TABLES = {
    "config.STREAMS": (WIRED, "test_streams.py::test_every_kind_of_stream_is_tried_here"),
    "data.sources.BUILDERS": ("test_builders.py::test_a_builder_is_called_as_its_row_is", None),
    "diffusion.ddpm.PROCESSES": ("test_process.py::test_data_are_left_alone_at_level_zero", f"{WIRED}[process."),
    "diffusion.gaussian.PREDICTIONS": (
        "test_gaussian.py::test_split_undoes_corrupt",
        "test_gaussian.py::test_the_target_is_what_its_name_says[rectified-unheard_of",
    ),
    "diffusion.gaussian.TIME_INPUTS": (
        "test_gaussian.py::test_a_network_is_told_the_level_as_its_paper_counts",
        "test_gaussian.py::test_a_network_is_told_the_level_as_its_paper_counts[unheard_of-rectified",
    ),
    "diffusion.grids.GRIDS": ("test_grids.py::test_grids_fall_from_one_to_zero", None),
    "diffusion.guidance.COMBINE": (
        "test_guidance.py::test_examples_are_guided_one_by_one",
        "test_guidance.py::test_every_rule_is_its_equation",
    ),
    "diffusion.joint_levels.JOINT_LEVELS": ("test_levels.py::test_joint_levels_are_levels", None),
    "diffusion.levels.LEVELS": ("test_levels.py::test_levels_grow_with_u_and_stay_levels", f"{WIRED}[levels."),
    "diffusion.objective.OBJECTIVES": ("test_dit.py::test_every_objective_differentiates_on_a_gpu", None),
    "diffusion.schedules.SCHEDULES": (
        "test_schedules.py::test_both_ends_are_exact_to_the_last_bit",
        "test_schedules.py::test_schedules_are_what_their_names_say",
    ),
    "diffusion.solvers.SOLVERS": (
        "test_solvers.py::test_every_solver_samples_the_data",
        "test_solvers.py::test_every_solver_has_an_order",
    ),
}


@pytest.fixture
def copy(tmp_path) -> Path:
    """The tree, without what runs have left in it."""
    for name in ("dit_jax", "docs", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.md"), ROOT / "pyproject.toml"]:
        shutil.copy(path, tmp_path)
    return tmp_path


def parts(recipe: str) -> Iterator[tuple[str, str]]:
    """(file, what goes into it) of a section."""
    for block in re.findall(r"^```python\n(.*?)^```", recipe, re.DOTALL | re.MULTILINE):
        _, *pieces = re.split(r"^# (\S+\.py)\n", block, flags=re.MULTILINE)
        yield from zip(pieces[::2], pieces[1::2], strict=True)


def command(recipe: str) -> tuple[list[str], str]:
    """(the files that a section has pytest run, the name of its row)."""
    (words,) = re.findall(r"^\.venv/bin/python -m pytest (.*)$", recipe, re.MULTILINE)
    *files, _, name = shlex.split(words)
    return files, name


def follow(recipe: str, tree: Path):
    """Everything goes to the end of its file, where `TABLE["name"] = row` is the same as a row of the table."""
    for name, code in parts(recipe):
        with (tree / name).open("a") as file:
            file.write(code)


def run(tree: Path, *arguments: str) -> dict[str, str]:
    """pytest in a tree -> {test: PASSED, or FAILED and why}."""
    quiet = ["-n0", "-p", "no:cacheprovider", "-rA", "--no-header", "--tb=line"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *arguments],
        cwd=tree,
        env=os.environ | {"COLUMNS": "1000"},
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^(PASSED|FAILED|SKIPPED|ERROR) (\S+::.*?)(?: - (.*))?$", done.stdout, re.MULTILINE)
    assert found, done.stdout + done.stderr
    return {test: f"{outcome} {why}".strip() for outcome, test, why in found}


def test_every_recipe_has_a_fault():
    assert FAULTS.keys() == set(RECIPES)


@pytest.mark.heavy
@pytest.mark.parametrize("title", RECIPES)
def test_a_recipe_adds_what_obeys_the_laws_and_its_fault_breaks_one(title, copy):
    recipe, (old, new, law) = SECTIONS[title], FAULTS[title]
    files, name = command(recipe)
    follow(recipe, copy)
    outcomes = run(copy, *files, "-k", name)
    assert set(outcomes.values()) == {"PASSED"}, outcomes
    assert len([test for test in outcomes if re.search(rf"\[.*{name}.*\]", test)]) > 3
    (test,) = [test for test in outcomes if test.endswith(law)]

    (path,) = [copy / path for path, code in parts(recipe) if old in code]
    path.write_text(path.read_text().replace(old, new))
    assert run(copy, test)[test].startswith("FAILED")


@pytest.mark.heavy
def test_a_new_row_stops_no_file_is_tested_and_is_told_what_it_needs(copy):
    """A row more in every table, all at once."""
    for name in TABLES:
        module, _, table = name.rpartition(".")
        with (copy / "dit_jax" / f"{module.replace('.', '/')}.py").open("a") as file:
            file.write(f'{table}["unheard_of"] = [*{table}.values()][0]\n')
    quiet = ["-n0", "-p", "no:cacheprovider", "--collect-only"]  # and -q, by pyproject.toml
    done = subprocess.run([sys.executable, "-m", "pytest", *quiet], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    new = [line.removeprefix("tests/") for line in done.stdout.splitlines() if "unheard_of" in line]
    for law, _ in TABLES.values():
        assert any(test.startswith(law) for test in new), law

    asking = {test: [one for one in new if one.startswith(test)] for _, test in TABLES.values() if test}
    outcomes = run(copy, *(f"tests/{one}" for tests in asking.values() for one in tests[:3]))
    told = [why for why in outcomes.values() if re.search(r"FAILED .*unheard_of\S* is new: ", why)]
    assert all(asking.values()) and told == [*outcomes.values()], outcomes
