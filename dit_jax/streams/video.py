"""Video: frames of rows and columns of channels. A clip of one frame is an image, to the last bit."""

import numpy as np
from einops import rearrange

from dit_jax.diffusion.ddpm import PROCESSES
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.levels import LEVELS, Quantile
from dit_jax.diffusion.stream import Stream, View
from dit_jax.media import clip
from dit_jax.media.image import MODES, colour, to_uint8
from dit_jax.network.tokens import COLUMN, ROW, TIME, grid_shape, positions
from dit_jax.schema import called
from dit_jax.streams.image import PatchEmbed, PatchHead


def video(
    shape: tuple[int, int, int, int],
    patch: tuple[int, int, int] = (1, 4, 4),
    process: Gaussian | str = "gaussian()",
    levels: Quantile | str = "logit_normal(mean=0.8, std=0.8)",
    background: str = "white",
) -> Stream:
    """A clip of (frames, height, width, channels), values scaled to [-1, 1], as tubelets of `patch` frames, rows and
    columns, one token each. The frames of a tubelet are a group: they share a level, and are given together.

    process, levels, background, errors: as those of `image`.
    """
    grid = grid_shape(tuple(shape[:3]), patch)
    process = called(process, PROCESSES, "process")
    predicted = (*shape[:3], process.outputs * shape[3])
    return Stream(
        shape=tuple(shape),
        process=process,
        levels=called(levels, LEVELS, "levels"),
        positions=positions(grid, (TIME, ROW, COLUMN)),
        embed=lambda width, dtype, name: PatchEmbed(patch, width, dtype, name=name),
        head=lambda width, dtype, name: PatchHead(predicted, patch, dtype, name=name),
        groups=grid[0],
        view=View(
            read=(lambda text: clip.read(text, tuple(shape), background)) if shape[-1] in MODES else None,
            background=colour(background),
            show=show,
            frame=shape[2],
            save=clip.save,
            features=features,
        ),
    )


def show(x: np.ndarray) -> np.ndarray:
    """[k, frames, height, width, channels] in [-1, 1] -> strips [k, height, frames * width, 1 or 3] in 0 ... 255."""
    return rearrange(to_uint8(x), "k f h w c -> k h (f w) c")


def centres(x: np.ndarray) -> np.ndarray:
    """Where things are in frames [..., height, width, channels] in [-1, 1]: the centre (row, column) of the squared
    light, [..., 2]. Squared, because a faint background would pull it to the middle."""
    energy = np.square(np.clip((np.asarray(x, np.float64) + 1) / 2, 0, 1)).sum(-1)
    rows, columns = energy.sum(-1), energy.sum(-2)
    moments = np.stack([rows @ np.arange(rows.shape[-1]), columns @ np.arange(columns.shape[-1])], -1)
    return moments / np.maximum(rows.sum(-1), 1e-9)[..., None]


def features(x: np.ndarray) -> np.ndarray:
    """What is seen, wherever it moves: clips [k, frames, height, width, channels] -> the mean of their frames, each
    turned round until its centre is in the middle, [k, height * width * channels]."""
    frames = x.reshape(-1, *x.shape[2:])
    turns = np.rint((np.array(x.shape[2:4]) - 1) / 2 - centres(frames)).astype(int)
    turned = np.stack([np.roll(frame, turn, axis=(0, 1)) for frame, turn in zip(frames, turns, strict=True)])
    return turned.reshape(x.shape).mean(1).reshape(len(x), -1)
