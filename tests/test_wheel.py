"""A wheel that is installed anywhere trains, samples and scores, and has the configs with it."""

import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Of a copy: setuptools leaves build/ beside what it builds, and packs what an earlier build has left there."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "dit_jax", folder / "source" / "dit_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "source")
    build = [sys.executable, "-m", "pip", "wheel", str(folder / "source"), "--no-deps", "--quiet"]
    subprocess.run([*build, f"--wheel-dir={folder}"], check=True, cwd=folder)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """run(*arguments): Python outside the checkout, with the wheel, and what it depends on from this environment."""
    folder = tmp_path_factory.mktemp("elsewhere")
    install = ["pip", "install", "--quiet", "--no-deps", f"--target={folder / 'installed'}", str(wheel)]
    subprocess.run([sys.executable, "-m", *install], check=True)
    # Folders of PYTHONPATH are searched, but their .pth files are not read, by which this checkout is installed.
    paths = [str(folder / "installed"), *site.getsitepackages()]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}

    def run(*arguments: str) -> str:
        base = getattr(sys, "_base_executable", sys.executable)
        command = [base, "-S", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert str(folder) in run("-c", "import dit_jax; print(dit_jax.__file__)")
    return run


def test_it_holds_every_module_and_every_config(wheel):
    with zipfile.ZipFile(wheel) as files:
        found = set(files.namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "dit_jax").rglob("*.py")}
    assert wanted == {name for name in found if name.endswith(".py")}
    assert {"dit_jax/configs/kjv_bpe.txt", "dit_jax/py.typed"} <= found
    assert not [name for name in found if not name.startswith(("dit_jax/", "dit_jax-"))]


def test_it_trains_samples_and_scores_from_anywhere(python, tmp_path):
    workdir = tmp_path / "run"
    python("-m", "dit_jax.train", "--config=digits", "--config.train.steps=20", f"--workdir={workdir}")
    python("-m", "dit_jax.sample", f"--workdir={workdir}", "--num=4", f"--out={tmp_path / 'samples'}")
    python("-m", "dit_jax.evaluate", f"--workdir={workdir}", "--num=50")
    with np.load(tmp_path / "samples" / "samples.npz") as arrays:
        assert arrays["image"].shape == (4, 8, 8, 1)
    assert len(json.loads((workdir / "evaluation.json").read_text())) == 3


def test_configs_are_found_by_name_with_their_variants_and_files(python):
    for name, width in (("imagenet256:dit_xl2", 1152), ("text_kjv_bpe", 192)):
        assert int(python("-c", f"import dit_jax as dj; print(dj.config.load({name!r}).model.width)")) == width
