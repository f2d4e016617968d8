"""Image files and float arrays [height, width, channels] in [-1, 1]: decoding, centre cropping, and back to uint8."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
MODES = {1: "L", 3: "RGB"}  # PIL's name for images of so many channels


@contextlib.contextmanager
def opened(file: str | os.PathLike) -> Iterator[Image.Image]:
    """Open an image file, for `with`. Raises OSError, naming the file, if it cannot be read then or later."""
    try:
        with Image.open(Path(file).expanduser()) as image:
            yield image
    except (OSError, SyntaxError) as error:  # SyntaxError is what PIL calls a broken PNG
        raise OSError(f"cannot read the image {file}: {getattr(error, 'strerror', None) or error}") from error


def fit(image: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    """The centre crop of any image, float32 [height, width, channels] in [-1, 1]; 1 channel is grey, 3 are RGB.

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


def reduced(image: Image.Image, shape: tuple[int, ...], file: str) -> np.ndarray:
    """An image downsampled by a whole number, float32 [height, width, channels] in [-1, 1]: nothing is cropped.

    Raises ValueError, naming the file, for a size that is no whole multiple of the shape's.
    """
    height, width, _ = shape
    times = max(1, image.width // width)
    if image.size != (times * width, times * height):
        raise ValueError(
            f"{file} is {image.width} pixels wide and {image.height} high, and should be {width} and {height} or a "
            f"multiple: magick IN -resize {width}x{height}^ -gravity center -extent {width}x{height} OUT"
        )
    return fit(image, shape)


def read(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Image files, 'cat.png' or 'cat.png,dog.png' -> float32 [k, *shape] in [-1, 1].

    Raises OSError for a file that cannot be read, ValueError for one of another size; both name it.
    """
    images = []
    for file in text.split(","):
        with opened(file) as image:
            images.append(reduced(image, shape, file))
    return np.stack(images)


def crop(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Image files as `read` takes them, but of any size: `fit`, as those that are trained on."""
    images = []
    for file in text.split(","):
        with opened(file) as image:
            images.append(fit(image, shape))
    return np.stack(images)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Pixels [..., height, width, channels] in [-1, 1] -> uint8 of 1 or 3 channels; of latents, the first three."""
    visible = x[..., :3] if x.shape[-1] >= 3 else x[..., :1]
    return np.clip((visible + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
