"""A folder of images with one subfolder a class, as a random-access source, and what is held out of it."""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dit_jax.media.image import SUFFIXES, fit, opened
from dit_jax.names import first_few

HELD_OUT = ("test", "val", "validation")  # what a folder beside `train` is called; the first that is there counts
GREY = {"1", "F", "I", "I;16", "L", "LA", "La"}  # PIL's names of what has no colours


class Images(NamedTuple):
    """Images below a folder. names: relative to it, with / between folders, in natural order. classes: its subfolders.
    left_out: {why: how many files and folders}. held_out, holdout: the names of more images, which are not trained on,
    and their share if it was asked for."""

    root: Path
    names: list[str]
    classes: list[str]
    left_out: Counter[str]
    held_out: Sequence[str] = ()
    holdout: float = 0.0


# What is there -------------------------------------------------------------------------------------------------------


def listing(root: Path) -> Images:
    """All images of a folder, at any depth. Raises FileNotFoundError if there are none, or no such folder."""
    if not root.is_dir():
        raise FileNotFoundError(f"no such folder of images: {root.absolute()}")
    left_out: Counter[str] = Counter()
    names = [*_names(root, "", left_out, ())]
    folders = [entry.name for entry in os.scandir(root) if entry.is_dir() and not _unfit(entry)]
    if not names:
        raise FileNotFoundError(f"no images in {root}: {_looked_for(left_out)}")
    return Images(root, names, sorted(folders, key=natural), left_out)


def in_classes(root: Path) -> Images:
    """The images of a folder that are in its subfolders, which are classes. Raises FileNotFoundError if there is no
    such folder, no class, or one without images."""
    found = listing(root)
    counts = Counter(map(class_of, found.names))
    if not found.classes:
        raise FileNotFoundError(
            f"{root} has no subfolders: it needs one for each class of images, or a config without the stream label"
        )
    for name in found.classes:
        if not counts[name]:
            raise FileNotFoundError(
                f"no images in {root / name}, and each subfolder is a class: {_looked_for(found.left_out)}"
            )
    names = [name for name in found.names if class_of(name)]
    return found._replace(names=names, left_out=found.left_out + Counter({"in no class": counts[""]}))


def class_of(name: str) -> str:
    """'cat/old/1.png' -> 'cat'; nothing for an image that is in no subfolder."""
    return name.partition("/")[0] if "/" in name else ""


def natural(name: str) -> tuple:
    """A key that sorts names as people count: 2 before 10."""
    words = re.split(r"(\d+)", name)
    return [int(word) if i % 2 else word for i, word in enumerate(words)], name


def counted(left_out: Counter[str]) -> str:
    """'3 hidden, 1 .txt'."""
    return ", ".join(f"{count:,} {why}" for why, count in left_out.most_common())


def _looked_for(left_out: Counter[str]) -> str:
    return f"looked for {', '.join(sorted(SUFFIXES))}" + (f"; left out: {counted(left_out)}" if left_out else "")


def _names(root: Path, within: str, left_out: Counter[str], above: tuple[Path, ...]) -> Iterator[str]:
    """The images below root/within, a folder inside those `above`; what is left out is counted."""
    here = root / within
    above = (*above, here.resolve())
    for entry in sorted(os.scandir(here), key=lambda entry: natural(entry.name)):
        if why := _unfit(entry, above):
            left_out[why] += 1
        elif entry.is_dir():
            yield from _names(root, f"{within}{entry.name}/", left_out, above)
        else:
            yield within + entry.name


def _unfit(entry: os.DirEntry, above: tuple[Path, ...] = ()) -> str:
    """Why an entry is neither an image nor a folder that may have some; nothing if it is."""
    suffix = Path(entry.name).suffix.lower()
    if entry.name.startswith(".") or entry.name == "__MACOSX":
        return "hidden"
    if entry.is_dir():
        leads_back = entry.is_symlink() and Path(entry).resolve() in above
        return "link back" if leads_back else "folder named like an image" if suffix in SUFFIXES else ""
    if suffix not in SUFFIXES:
        return suffix or "without a suffix"
    return "" if entry.is_file() else "link to nothing"


# What is held out ----------------------------------------------------------------------------------------------------


def part(path: str, split: str, holdout: float = 0.0, read: Callable[[Path], Images] = in_classes) -> Images:
    """The images of a folder, as `read` lists them, that are trained on, "train", or those that are held out, "test";
    all of them for any other name of a split.

    Splits are folders where {split} in the path stands for their names, or where it has a subfolder `train` and one of
    HELD_OUT. Otherwise the share `holdout` is held out. Raises what `read` raises, and ValueError for a class that is
    held out and not trained on.
    """
    folders = split_folders(path)
    if split not in ("train", "test"):
        return read(Path(path.replace("{split}", split)).expanduser())
    if not folders:
        every = read(Path(path.replace("{split}", "train")).expanduser())
        held = held_out(every.names, holdout)
        mine = [name for name in every.names if (name in held) == (split == "test")]
        return every._replace(names=mine, held_out=sorted(held), holdout=holdout)
    train, test = (read(folders[name]) for name in ("train", "test"))
    if unknown := [name for name in test.classes if name not in train.classes]:
        raise ValueError(f"{test.root / unknown[0]} is of no class: {train.root} has {', '.join(train.classes)}")
    return train._replace(held_out=test.names) if split == "train" else test._replace(classes=train.classes)


def split_folders(path: str) -> dict[str, Path]:
    """{"train": folder, "test": folder} where there are both; nothing where one folder is for all."""
    pattern = path if "{split}" in path else f"{path}/{{split}}"
    at = {name: Path(pattern.replace("{split}", name)).expanduser() for name in ("train", *HELD_OUT)}
    train, *rest = [folder if folder.is_dir() else None for folder in at.values()]
    test = next(filter(None, rest), None)
    return {"train": train, "test": test} if train and test else {}


def held_out(names: Iterable[str], share: float) -> set[str]:
    """Which images are not trained on. The hash of a name decides, so that others which come later move none; each
    class keeps at least the one whose hash is the greatest."""
    places = {name: int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32 for name in names}
    keeps: dict[str, str] = {}
    for name in places:
        keeps[class_of(name)] = max(name, keeps.get(class_of(name), name), key=places.__getitem__)
    return {name for name, place in places.items() if place < share} - {*keeps.values()}


# As a source ---------------------------------------------------------------------------------------------------------


class Folder:
    """Images of a `part` of a folder, fitted to `shape` (height, width, channels), over the colour `background` where
    they are transparent, and their labels: the places of their classes in natural order, -1 for those in none.

    Raises what `part` raises; OSError, naming the file, when an image that is asked for cannot be read.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        shape: tuple[int, ...],
        split: str = "",
        holdout: float = 0.0,
        read: Callable[[Path], Images] = in_classes,
        background: str = "white",
    ):
        self.images = part(str(path), split, holdout, read)
        self.shape, self.background, self.classes = shape, background, self.images.classes
        labels = {name: label for label, name in enumerate(self.classes)}
        self.files = [(self.images.root / name, labels.get(class_of(name), -1)) for name in self.images.names]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        file, label = self.files[index]
        with opened(file) as image:
            return {"image": fit(image, self.shape, self.background), "label": np.asarray(label, np.int32)}


def described(folder: Folder) -> str:
    """What is there, in a line, and in another what becomes of pictures that are not as `shape` says."""
    images, (height, width, channels), looked_at = folder.images, folder.shape, _looked_at(folder)
    sizes = sorted({size for size, _ in looked_at}, key=np.prod)
    ends = dict.fromkeys([*sizes[:1], *sizes[-1:]])
    words = [
        f"{images.root.absolute()}: {len(folder):,} images"
        + (f" of {len(images.classes):,} classes ({first_few(images.classes)})" if images.classes else ""),
        f"{len(images.held_out):,} more are held out" if images.held_out else "none is held out",
        f"{' ... '.join(f'{w} x {h}' for w, h in ends)} pixels, of {len(looked_at)} that were looked at",
    ]
    words += [f"left out: {counted(images.left_out)}"] if images.left_out else []
    become = [f"scaled and cropped to {width} x {height} pixels"] if {*sizes} - {(width, height)} else []
    become += ["made grey"] if channels == 1 and any(has_colours for _, has_colours in looked_at) else []
    because = f"pictures are {' and '.join(become)}, because streams.image.shape is {folder.shape}"
    return "; ".join(words) + (f"\n{because}" if become else "")


def _looked_at(folder: Folder, most: int = 16) -> list[tuple[tuple[int, int], bool]]:
    """(width and height, whether it has colours) of a few images at random: to open all would take long. One that
    cannot be read is left to whoever asks for it."""
    found = []
    for place in np.random.default_rng(0).permutation(len(folder))[:most]:
        with contextlib.suppress(Exception), opened(folder.files[place][0]) as image:
            found.append((image.size, image.mode not in GREY))
    return found
