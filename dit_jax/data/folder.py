"""A folder of images with one subfolder a class, as a random-access source."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
MODES = {1: "L", 3: "RGB"}


class Folder:
    """Images under `path`/CLASS/, classes in the order of their names, fitted to `shape` (height, width, channels).

    Raises FileNotFoundError if there is no such folder, no class or a class without images; OSError, naming the file,
    when an image that is asked for cannot be read.
    """

    def __init__(self, path: str | os.PathLike, shape: tuple[int, ...]):
        root = Path(path).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"no such folder of images: {root}")
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        if not folders:
            raise FileNotFoundError(f"{root} has no subfolders: it needs one for each class of images")
        self.shape = shape
        self.classes = [folder.name for folder in folders]
        self.files = [(file, label) for label, folder in enumerate(folders) for file in images_in(folder)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        file, label = self.files[index]
        with opened(file) as image:
            return {"image": fit(image, self.shape), "label": np.asarray(label, np.int32)}


def images_in(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"no images in {folder}: looked for {', '.join(sorted(SUFFIXES))}")
    return files


@contextlib.contextmanager
def opened(file: str | os.PathLike) -> Iterator[Image.Image]:
    """An image file, open. Raises OSError, naming it, if it cannot be read then or later."""
    try:
        with Image.open(Path(file).expanduser()) as image:
            yield image
    except (OSError, SyntaxError) as error:  # SyntaxError is what PIL calls a broken PNG
        raise OSError(f"cannot read the image {file}: {getattr(error, 'strerror', None) or error}") from error


def fit(image: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    """Any image -> float32 [height, width, channels] in [-1, 1], centre-cropped; 1 channel is grey, 3 are RGB.

    As ADM prepared ImageNet: halve with a box filter while twice too large, then bicubic until the image just covers
    the shape, then crop. An image that has the right size already is left as it is.
    """
    height, width, channels = shape
    image = image.convert(MODES[channels])
    while image.height >= 2 * height and image.width >= 2 * width:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(height / image.height, width / image.width)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32)
    return pixels.reshape(shape) / 127.5 - 1
