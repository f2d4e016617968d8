"""What the documents say: their Python runs, their commands parse, their tree is the package, and their picture is of
today."""

import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest
from PIL import Image

from dit_jax import convert, evaluate, inspect, plan, prepare, sample_cli, train
from dit_jax.command import parse
from dit_jax.config import build

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = {
    path: path.read_text() for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md"))
}
MAINS = {
    "train": train.main,
    "sample": sample_cli.main,
    "evaluate": evaluate.main,
    "inspect": inspect.main,
    "prepare": prepare.main,
    "convert": convert.main,
    "plan": plan.main,
}
ENTRIES = re.compile(r"^python (?:-m dit_jax\.(\w+)|(train|sample)\.py)(.*)")


def commands():
    """Every command of this package in a block of the documents, without what the shell makes of it."""
    for page, text in PAGES.items():
        for block in re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            for line in block.replace("\\\n", " ").splitlines():
                if match := ENTRIES.match(line):
                    yield pytest.param(match[1] or match[2], match[3], id=f"{page.stem}: {line.split('#')[0].strip()}")


def test_the_python_in_the_readme_runs():
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    assert names["drawn"]["image"].shape == (10, 8, 8, 1)
    assert not (names["drawn"]["image"] == names["guided"]["image"]).all()
    assert names["run"].model.block.norm == "layer"
    assert names["values"]["residual"].shape == (2, 10, 16, 48)
    assert not (names["without"]["image"] == names["drawn"]["image"]).all()


@pytest.mark.parametrize("command, words", [*commands()])
def test_a_command_has_the_flags_and_configs_that_it_names(command, words):
    words = shlex.split(words, comments=True)
    main = evaluate.mode(words) if command == "evaluate" else MAINS[command]
    arguments = parse(main, words, rewrite=plan.rewritten)
    if arguments.get("config") is not None:
        build(arguments["config"])


def test_the_table_of_faults_names_tests_that_there_are():
    rows = [line for line in (ROOT / "docs/faults.md").read_text().splitlines() if line.startswith("| ")][1:]
    for row in rows:
        named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {test}"
    assert len(rows) >= 30


def test_the_tree_is_that_of_the_package():
    """Folders are indented by two below the one that they are in, and files by two more."""
    tree = PAGES[ROOT / "docs/design.md"].split("## What is where")[1].split("```")[1]
    named, folder = set(), ""
    for line in tree.strip().splitlines():
        indent, names = len(line) - len(line.lstrip()), re.split(r"\s{2,}", line.strip())[0].split()
        if names[0].endswith("/"):
            folder = names[0] if indent == 0 else f"dit_jax/{names[0]}"
        else:
            inside = {0: "", 2: "dit_jax/", 4: folder}[indent]
            named |= {inside + name for name in names if name.endswith(".py")}
    files = [*ROOT.glob("*.py"), *(ROOT / "dit_jax").rglob("*.py")]
    there = {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}
    assert not there - named, f"the tree in docs/design.md should name {', '.join(sorted(there - named))}"
    assert not named - there, f"the tree in docs/design.md names {', '.join(sorted(named - there))}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGES[page]):
        assert link.startswith("http") or (page.parent / link).exists(), link


def test_the_contents_of_the_readme_are_its_headings():
    headings = {
        re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.*)", README, re.MULTILINE)
    }
    links = re.findall(r"\]\(#([^)]*)\)", README)
    assert links and set(links) <= headings


def test_every_module_in_the_picture_is_there():
    picture = runpy.run_path(str(ROOT / "docs/architecture.py"))
    for part, module in picture["MODULES"].items():
        importlib.import_module(module)
        assert (ROOT / "dit_jax" / picture["module"](part)).exists()


def test_the_picture_is_of_today():
    """It keeps its words."""
    pytest.importorskip("matplotlib")
    page = runpy.run_path(str(ROOT / "docs/architecture.py"))["draw"]()
    with Image.open(ROOT / "docs/architecture.png") as image:
        is_of_today = image.text["words"] == "|".join(page.words)
    assert is_of_today, "what the picture shows has changed: python docs/architecture.py draws it anew"
