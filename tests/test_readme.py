"""What the documents say: their Python runs, their commands parse, their tree is the package, and their picture is of
today."""

import importlib
import re
import runpy
import shlex
from pathlib import Path

import pytest
from PIL import Image

from dit_jax import convert, evaluate, inspect, prepare, sample_cli, train
from dit_jax.command import parse
from dit_jax.config import build, with_paths

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
    arguments = parse(MAINS[command], shlex.split(words, comments=True), rewrite=with_paths)
    if arguments.get("config") is not None:
        build(arguments["config"])


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
    assert named == {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}


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
    """It keeps its words. If this fails: python docs/architecture.py"""
    pytest.importorskip("matplotlib")
    page = runpy.run_path(str(ROOT / "docs/architecture.py"))["draw"]()
    with Image.open(ROOT / "docs/architecture.png") as image:
        assert image.text["words"] == "|".join(page.words)
