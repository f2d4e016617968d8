"""Samples as files: a shard of arrays for each batch, a contact sheet of the first ones, and one file for each sound,
text and clip."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dit_jax.diffusion.stream import Streams
from dit_jax.sampling.shards import first_samples, write_shard, written_whole
from dit_jax.sampling.sheet import sheet

SHOWN = 100  # samples on a contact sheet, at most


def write_samples(out: Path, streams: Streams, sample: dict[str, np.ndarray], start: int = 0) -> None:
    """Write a batch {name: [k, *shape]}, samples from `start` on, in all its forms; last of all the shard, so that
    where there is one, all is there. Raises OSError if that fails."""
    for name, stream in streams.items():
        if name in sample and stream.view.save is not None:
            for i, example in enumerate(sample[name], start):
                _save(stream.view.save, example, out / name / str(i))
    write_shard(out, start, {**sample, **pictures(streams, sample)})


def _save(save: Callable[[np.ndarray, Path], Any], example: np.ndarray, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(example, path)
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"{path} cannot be written: {why}; the same command goes on from what is there") from error


def write_pictures(samples: Path, streams: Streams, is_path: bool = False, title: str = "") -> Path:
    """Write the contact sheet of samples.npz beside it, and return the file to look at. is_path: samples are the way
    from one to another, and a clip as well. title: what the sheet says that it is of."""
    shown = first_samples(samples, SHOWN)
    picture = sheet(streams, shown, title)
    if picture is None:
        return samples
    with written_whole(samples.with_name("samples.png")) as part:
        Image.fromarray(picture).save(part)
    if is_path:
        write_clip(samples.with_name("interpolation.gif"), streams, first_samples(samples, 10**9))
    return samples.with_name("samples.png")


def pictures(streams: Streams, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first stream that shows pictures, as {"arr_0": [num, height, width, 3]}; nothing if none does."""
    there = {name: stream.view.show for name, stream in streams.items() if name in sample}
    shown = (show(sample[name]) for name, show in there.items() if show is not None)
    return next(({"arr_0": p.repeat(3 // p.shape[-1], -1)} for p in shown if isinstance(p, np.ndarray)), {})


def write_clip(path: Path, streams: Streams, sample: dict[str, np.ndarray]) -> None:
    """Samples as the frames of a GIF that runs there and back, for ever."""
    ones = [{name: values[[i]] for name, values in sample.items()} for i in range(len(next(iter(sample.values()))))]
    sheets = [sheet(streams, one, columns=1, size=256) for one in ones]
    there = [Image.fromarray(picture) for picture in sheets if picture is not None]
    with written_whole(path) as part:
        there[0].save(part, save_all=True, append_images=there[1:] + there[-2:0:-1], duration=50, loop=0)
