"""Animated image files (GIF, WebP, APNG) and clips, float arrays [frames, height, width, channels] in [-1, 1]."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from dit_jax.media.image import opened, reduced, to_uint8

FRAME = 100  # milliseconds of a frame in a file


def read(text: str, shape: tuple[int, ...]) -> np.ndarray:
    """Animations, 'a.gif' or 'a.gif,b.webp' -> clips [k, *shape] in [-1, 1].

    A frame that is shown for longer than the shortest counts as several. Of frames that a file lacks, as a still image
    does all but one, nothing is known: NaN. Raises OSError, naming the file, for one that cannot be read, and
    ValueError for one of another size or with too many frames.
    """
    return np.stack([read_animation(file, shape) for file in text.split(",")])


def read_animation(file: str, shape: tuple[int, ...]) -> np.ndarray:
    """The frames of one file, [*shape]; arguments and errors as those of `read`."""
    frames, times = [], []
    with opened(file) as image:
        for frame in ImageSequence.Iterator(image):
            frames.append(reduced(frame, shape[1:], file))
            times.append(frame.info.get("duration", 0) or FRAME)
    every = np.repeat(frames, np.rint(np.divide(times, min(times))).astype(int), axis=0)
    if len(every) > shape[0]:
        raise ValueError(f"{file} has {len(every)} frames, and a clip here has {shape[0]}: cut it to that many")
    return np.pad(every, [(0, shape[0] - len(every)), (0, 0), (0, 0), (0, 0)], constant_values=np.nan)


def save(x: np.ndarray, path: Path) -> Path:
    """Write a clip [frames, height, width, channels] in [-1, 1] as PATH.gif, which loops for ever.

    It is enlarged to about 128 rows by a power of two, which `read` undoes exactly; grey levels stay what they are.
    """
    factor = 2 ** max(0, round(np.log2(128 / x.shape[1])))
    frames = [Image.fromarray(f.squeeze(-1) if f.shape[-1] == 1 else f) for f in to_uint8(x)]
    large = frames[0].width * factor, frames[0].height * factor
    first, *others = [frame.resize(large, Image.Resampling.NEAREST) for frame in frames]
    file = path.with_name(f"{path.name}.gif")
    first.save(file, save_all=True, append_images=others, duration=FRAME, loop=0)
    return file
