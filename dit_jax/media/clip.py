"""Animated image files (GIF, WebP, APNG) and clips, float arrays [frames, height, width, channels] in [-1, 1]."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageSequence

from dit_jax.media.image import displayed, opened, reduced, to_uint8
from dit_jax.media.paths import split_paths

FRAME = 100  # milliseconds of a frame in a file
PAUSE = 4  # times as long as any other frame: a last one that is held for longer is the pause before it begins anew


def read(text: str, shape: tuple[int, ...], background: str = "white") -> np.ndarray:
    """Animations, 'a.gif' or 'a.gif,b.webp' -> clips [k, *shape] in [-1, 1].

    A frame that is shown for longer than the shortest counts as several, but for a pause at the end. Of frames that a
    file lacks, as a still image does all but one, nothing is known: NaN. Raises OSError, naming the file, for one that
    cannot be read, and ValueError for one of another size or with too many frames.
    """
    return np.stack([read_animation(file, shape, background) for file in split_paths(text)])


def read_animation(file: str, shape: tuple[int, ...], background: str = "white") -> np.ndarray:
    """The frames of one file, [*shape]; arguments and errors as those of `read`."""
    frames, times = [], []
    for picture, time in pictures(file, shape[-1], background):
        frames.append(reduced(picture, shape[1:], file))
        times.append(time)
    every = np.repeat(frames, repeats(times, shape[0]), axis=0)
    if len(every) > shape[0]:
        low, high = min(times), max(times)
        held = f"{len(times)} frames of {low:g} ... {high:g} ms, which make " if len(every) > len(times) else ""
        raise ValueError(
            f"{file} has {held}{len(every)} frames{f' of {low:g} ms' if held else ''}, and a clip here has {shape[0]}: "
            "cut it to that many"
        )
    return np.pad(every, [(0, shape[0] - len(every)), (0, 0), (0, 0), (0, 0)], constant_values=np.nan)


def pictures(file: str, channels: int, background: str) -> Iterator[tuple[Image.Image, float]]:
    """What is displayed, and for how many milliseconds, frame by frame."""
    with opened(file) as image:
        # What else is in the file of a photograph, such as a gain map, is no frame.
        frames = iter([image]) if image.format == "MPO" else ImageSequence.Iterator(image)
        if image.info.get("default_image"):  # of an APNG, what is shown where nothing can move
            next(frames)
        for frame in frames:
            picture = displayed(frame, channels, background)
            yield picture, frame.info.get("duration", 0) or FRAME


def repeats(times: list[float], length: int) -> np.ndarray:
    """How many frames of a clip each frame of a file makes that is shown for so long, [k].

    A pause at the end makes one, unless the clip has exactly `length` frames with it: writers of animations keep one of
    frames that are alike, and hold it.
    """
    counts = np.rint(np.divide(times, min(times))).astype(int)
    if times[-1] > PAUSE * max(times[:-1], default=times[-1]) and counts.sum() != length:
        counts[-1] = 1
    return counts


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
