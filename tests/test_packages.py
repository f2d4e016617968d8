"""Packages are fetched once, and checked; where they cannot be, the error says what to do."""

import hashlib
import importlib.metadata
import os
from pathlib import Path

import pytest

from dit_jax.data import packages


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """programs(name="script", ...): the only ones on the PATH beside the shell's own."""

    def put(**scripts: str):
        folder = Path(tmp_path, "bin")
        folder.mkdir(exist_ok=True)
        for name, script in scripts.items():
            file = folder / name.replace("_", "-")
            file.write_text(f"#!/bin/sh\n{script}\n")
            file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/nowhere" if not scripts else f"{folder}{os.pathsep}/bin")

    return put


def test_a_package_of_npm_is_fetched_once_and_checked(tmp_path, programs):
    programs(npm='echo "$@" >> calls; printf x > a-b-1.0.tgz')
    for _ in range(2):
        file = packages.npm("@a/b@1.0", hashlib.sha256(b"x").hexdigest(), tmp_path)
        assert file.read_bytes() == b"x" and (tmp_path / "calls").read_text() == "pack --silent @a/b@1.0\n"
    with pytest.raises(ValueError, match=r"a-b-1\.0\.tgz is not @a/b@1\.0 as it was published: delete it"):
        packages.npm("@a/b@1.0", hashlib.sha256(b"y").hexdigest(), tmp_path)


def test_without_npm_or_a_network_the_error_says_what_to_do(tmp_path, programs):
    for scripts, says in (({}, "No such file.*npm"), ({"npm": "echo no network >&2; exit 1"}, "no network")):
        programs(**scripts)
        with pytest.raises(FileNotFoundError, match=rf"apt install npm.*a-1\.tgz as npm pack --silent a@1.*{says}"):
            packages.npm("a@1", "", tmp_path)


APT = {
    "apt_get": 'echo "$@" >> {calls}; touch a_1.0_all.deb',
    "dpkg_deb": 'mkdir -p "$3/usr"; cp "$2" "$3/usr"',
}


def test_a_package_of_debian_is_unpacked_once(tmp_path, programs):
    calls = tmp_path / "calls"
    programs(**APT | {"apt_get": APT["apt_get"].format(calls=calls)})
    for _ in range(2):
        root = packages.debian("a=1.0", tmp_path / "new")
        assert (root / "usr/a_1.0_all.deb").is_file() and calls.read_text() == "download a=1.0\n"
    assert [*(tmp_path / "new").iterdir()] == [root]


def test_without_apt_or_such_a_version_the_error_says_what_to_do_and_leaves_nothing(tmp_path, programs):
    (folder := tmp_path / "new").mkdir()
    for scripts, says in (({}, "No such file.*apt-get"), (APT | {"apt_get": "echo no 2.0 >&2; exit 100"}, "no 2.0")):
        programs(**scripts)
        with pytest.raises(
            FileNotFoundError, match=rf"a=2.0 needs apt-get of Debian.*a-2\.0; apt-get failed: .*{says}"
        ):
            packages.debian("a=2.0", folder)
        assert not [*folder.iterdir()]


def test_a_package_of_pypi_has_to_be_of_its_version():
    packages.pypi(f"numpy=={importlib.metadata.version('numpy')}")
    with pytest.raises(ValueError, match=r"numpy is \d.*, and has to be 0\.1: pip install numpy==0\.1"):
        packages.pypi("numpy==0.1")
    with pytest.raises(
        ValueError, match=r"nothing-at-all is not installed, and has to be 1: pip install nothing-at-all==1"
    ):
        packages.pypi("nothing-at-all==1")
