"""The README's Python runs as it stands, and its tree names every file."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_python_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["drawn"]["image"].shape == (10, 8, 8, 1)
    assert not (names["drawn"]["image"] == names["guided"]["image"]).all()


def test_the_tree_in_the_readme_names_every_file():
    tree = README.split("## What is where")[1].split("```")[1]
    for folder in ("configs", "dit_jax"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "__init__.py":
                assert re.search(rf"\b{file.name}\b", tree), (
                    f"{file.relative_to(ROOT)} is missing from the README's tree"
                )
