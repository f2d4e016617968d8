"""Image files and float arrays [height, width, channels] in [-1, 1]: what a viewer shows of them, cropped, and back."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from dit_jax.media.paths import split_paths
from dit_jax.names import ConfigError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
MODES = {1: "L", 3: "RGB"}  # PIL's name for images of so many channels
LARGEST = 89_478_485  # pixels of an image; PIL warns of more, which may be a decompression bomb
WHITE = {"F": 1, "I": 2**16 - 1}  # of grey levels that are floats, and that are integers of more than 8 bits


# Decoding ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(file: str | os.PathLike) -> Iterator[Image.Image]:
    """Open an image file, for `with`. Raises OSError, naming the file, if it cannot be read then or later."""
    try:
        with Image.open(Path(file).expanduser()) as image:
            if image.width * image.height > LARGEST:
                raise Image.DecompressionBombError
            yield image
    except MemoryError:
        raise
    except Exception as error:  # PIL raises errors of many kinds for files that are broken
        match error:
            case Image.DecompressionBombError():
                why = f"it has more than {LARGEST:,} pixels: magick IN -resize 4096x4096 OUT"
            case UnidentifiedImageError():
                why = "cannot identify its kind: magick IN OUT.png or, of a film, ffmpeg -i IN OUT.gif"
            case _:
                why = getattr(error, "strerror", None) or str(error)
        raise OSError(f"cannot read the image {file}: {why}") from error


def displayed(image: Image.Image, channels: int, background: str = "white") -> Image.Image:
    """Any image as viewers show it: turned as its EXIF orientation says, over the background where it is transparent.

    1 channel is grey, mode "L", 3 are "RGB". Grey levels of 16 bits, or floats in 0 ... 1, keep their precision, as
    floats in 0 ... 255, mode "F". background: a colour's name, or #rrggbb. Raises ValueError for levels that are out of
    range or not finite.
    """
    image = upright(image)
    if image.mode[0] in WHITE:
        return _precise(image, background)
    if image.has_transparency_data:
        below = Image.new("RGBA", image.size, background)
        image = Image.alpha_composite(below, image.convert("RGBA"))
    return image.convert(MODES[channels])


def upright(image: Image.Image) -> Image.Image:
    """An image turned and mirrored as its EXIF orientation says, if it has one that can be read."""
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # PIL raises errors of many kinds for EXIF data that are broken
        return image


def colour(name: str) -> str:
    """The name of an opaque colour, or #rrggbb, as it is. Raises ConfigError for what PIL knows no colour of."""
    try:
        is_opaque = len(ImageColor.getrgb(name)) == 3
    except ValueError:
        is_opaque = False
    if not is_opaque:
        raise ConfigError(f"background = {name!r} is no colour: it should be a name, such as white, or #rrggbb")
    return name


def _precise(image: Image.Image, background: str) -> Image.Image:
    """Grey levels that 8 bits do not hold, in 0 ... 255."""
    levels, white = np.asarray(image, np.float64), WHITE[image.mode[0]]
    if not np.all((levels >= 0) & (levels <= white)):
        raise ValueError(
            f"its grey levels are {levels.min():g} ... {levels.max():g}, and should be 0 ... {white}: scale them"
        )
    grey = levels / white * 255
    if "transparency" in image.info:  # the level that is transparent
        grey[levels == image.info["transparency"]] = Image.new("L", (1, 1), background).getpixel((0, 0))
    return Image.fromarray(grey.astype(np.float32))


# Sizes ---------------------------------------------------------------------------------------------------------------


def fit(image: Image.Image, shape: tuple[int, ...], background: str = "white") -> np.ndarray:
    """The centre crop of any image, float32 [height, width, channels] in [-1, 1], of what is `displayed`.

    As ADM prepared ImageNet: halve with a box filter while twice too large, then bicubic until the image just covers
    the shape, then crop. An image that has the right size already is left as it is. Raises ValueError as `displayed`
    does.
    """
    return cropped(displayed(image, shape[-1], background), shape)


def cropped(image: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    """What `fit` makes of an image that is `displayed`."""
    height, width, _ = shape
    while image.height >= 2 * height and image.width >= 2 * width:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(height / image.height, width / image.width)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height)), np.float32).reshape(height, width, -1)
    return np.broadcast_to(np.clip(pixels, 0, 255), shape) / 127.5 - 1  # bicubic floats overshoot; one grey is for all


def reduced(image: Image.Image, shape: tuple[int, ...], file: str) -> np.ndarray:
    """A displayed image downsampled by a whole number, float32 [height, width, channels] in [-1, 1]: nothing is
    cropped. Raises ValueError, naming the file, for a size that is no whole multiple of the shape's."""
    height, width, _ = shape
    times = max(1, image.width // width)
    if image.size != (times * width, times * height):
        raise ValueError(
            f"{file} is {image.width} pixels wide and {image.height} high, and should be {width} and {height} or a "
            f"multiple: magick IN -resize {width}x{height}^ -gravity center -extent {width}x{height} OUT"
        )
    return cropped(image, shape)


# What people give and see --------------------------------------------------------------------------------------------


def read(text: str, shape: tuple[int, ...], background: str = "white") -> np.ndarray:
    """Image files, 'cat.png' or 'cat.png,dog.png' -> float32 [k, *shape] in [-1, 1].

    Raises OSError for a file that cannot be read, ValueError for one of another size; both name it.
    """
    images = []
    for file in split_paths(text):
        with opened(file) as image:
            picture = displayed(image, shape[-1], background)
        images.append(reduced(picture, shape, file))
    return np.stack(images)


def crop(text: str, shape: tuple[int, ...], background: str = "white") -> np.ndarray:
    """Image files as `read` takes them, but of any size: `fit`, as those that are trained on."""
    images = []
    for file in split_paths(text):
        with opened(file) as image:
            images.append(fit(image, shape, background))
    return np.stack(images)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """Pixels [..., height, width, channels] in [-1, 1] -> uint8 of 1 or 3 channels; of latents, the first three."""
    visible = x[..., :3] if x.shape[-1] >= 3 else x[..., :1]
    return np.clip((visible + 1) * 127.5 + 0.5, 0, 255).astype(np.uint8)
