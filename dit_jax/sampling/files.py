"""Samples as files: samples.npz, a contact sheet, and one file for each sound, text and clip."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dit_jax.diffusion.stream import Streams
from dit_jax.sampling.sheet import sheet


def write_samples(
    out: Path, streams: Streams, sample: dict[str, np.ndarray], protocol: dict[str, Any], is_path: bool = False
) -> Path:
    """Write a sample {name: [num, *shape]} in all its forms, and return the file to look at. is_path: samples are the
    way from one to another, and a clip as well."""
    out.mkdir(parents=True, exist_ok=True)
    streams = {name: stream for name, stream in streams.items() if name in sample}
    arrays: dict[str, Any] = {**sample, **pictures(streams, sample)}
    np.savez(out / "samples.npz", **arrays, seed=protocol["seed"], protocol=json.dumps(protocol))
    for name, stream in streams.items():
        if stream.view.save is not None:
            (out / name).mkdir(exist_ok=True)
            for i, example in enumerate(sample[name]):
                stream.view.save(example, out / name / str(i))
    picture = sheet(streams, sample)
    if picture is None:
        return out / "samples.npz"
    Image.fromarray(picture).save(out / "samples.png")
    if is_path:
        write_clip(out / "interpolation.gif", streams, sample)
    return out / "samples.png"


def pictures(streams: Streams, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first stream that shows pictures, as {"arr_0": [num, height, width, 3]}; nothing if none does."""
    shown = (stream.view.show(sample[name]) for name, stream in streams.items() if stream.view.show is not None)
    return next(({"arr_0": p.repeat(3 // p.shape[-1], -1)} for p in shown if isinstance(p, np.ndarray)), {})


def write_clip(path: Path, streams: Streams, sample: dict[str, np.ndarray]) -> None:
    """Samples as the frames of a GIF that runs there and back, for ever."""
    ones = [{name: values[[i]] for name, values in sample.items()} for i in range(len(next(iter(sample.values()))))]
    sheets = [sheet(streams, one, columns=1, size=256) for one in ones]
    there = [Image.fromarray(picture) for picture in sheets if picture is not None]
    there[0].save(path, save_all=True, append_images=there[1:] + there[-2:0:-1], duration=50, loop=0)
