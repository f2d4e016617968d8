"""A folder of images with one subfolder a class, as a random-access source."""

import os
from pathlib import Path

import numpy as np

from dit_jax.media.image import SUFFIXES, fit, opened


class Folder:
    """Images under `path`/CLASS/, classes in the order of their names, fitted to `shape` (height, width, channels),
    over the colour `background` where they are transparent.

    Raises FileNotFoundError if there is no such folder, no class or a class without images; OSError, naming the file,
    when an image that is asked for cannot be read.
    """

    def __init__(self, path: str | os.PathLike, shape: tuple[int, ...], background: str = "white"):
        root = Path(path).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder of images: {root}")
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if not folders:
            raise FileNotFoundError(f"{root} has no subfolders: it needs one for each class of images")
        self.shape, self.background = shape, background
        self.classes = [folder.name for folder in folders]
        self.files = [(file, label) for label, folder in enumerate(folders) for file in images_in(folder)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        file, label = self.files[index]
        with opened(file) as image:
            return {"image": fit(image, self.shape, self.background), "label": np.asarray(label, np.int32)}


def images_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"no images in {folder}: looked for {', '.join(sorted(SUFFIXES))}")
    return files
