"""Images and image-like latents: rows and columns of channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import numpy as np
from jax import Array

from dit_jax.diffusion.ddpm import PROCESSES
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.levels import LEVELS, Quantile
from dit_jax.diffusion.stream import Stream, View
from dit_jax.media.image import MODES, colour, crop, read, to_uint8
from dit_jax.network.tokens import COLUMN, ROW, grid_shape, patchify, positions, unpatchify
from dit_jax.schema import Range, called, checks

# Of pixels, the largest magnitude that data may have: standardised ones are below it, and bytes are not.
MOST = 10.0
PIXELS = "pixels are in -1 ... 1, which bytes are as x / 127.5 - 1"


@checks
def image(
    shape: Annotated[tuple[int, int, int], "height, width, channels"],
    patch: Annotated[int, Range(at_least=1)] = 2,
    process: Gaussian | str = "gaussian()",
    levels: Quantile | str = "logit_normal(mean=0.8, std=0.8)",
    codec: str = "",
    background: str = "white",
) -> Stream:
    """An image or a latent of (height, width, channels), values scaled to [-1, 1], as patch x patch tokens.

    process, levels: objects, or calls of rows of PROCESSES and LEVELS, such as "gaussian(prediction='v')". codec: of
    latents, the sha256 of the VAE that made them; of pixels, nothing. background: what files show where they are
    transparent, a colour's name or #rrggbb. Raises ValueError for a patch that does not divide the shape, for a call
    that is none and for an unknown colour.
    """
    grid = grid_shape(tuple(shape[:2]), (patch, patch))
    process = called(process, PROCESSES, "process")
    predicted = (*shape[:2], process.outputs * shape[2])
    return Stream(
        shape=tuple(shape),
        process=process,
        levels=called(levels, LEVELS, "levels"),
        positions=positions(grid, (ROW, COLUMN)),
        embed=lambda width, dtype, name: PatchEmbed((patch, patch), width, dtype, name=name),
        head=lambda width, dtype, name: PatchHead(predicted, (patch, patch), dtype, name=name),
        codec_id=codec,
        most=math.inf if codec else MOST,
        unit="" if codec else PIXELS,
        view=View(
            read=(lambda text: read(text, tuple(shape), background)) if shape[-1] in MODES else None,
            background=colour(background),
            show=to_uint8,
            features=lambda x: x.reshape(len(x), -1),
            crop=(lambda text: crop(text, tuple(shape), background)) if shape[-1] in MODES else None,
        ),
    )


class PatchEmbed(nn.Module):
    """[B, *shape, C] -> tokens [B, n, width], of patches of what `into` makes of it."""

    patch: tuple[int, ...]
    width: int
    dtype: Any
    into: Callable[[Array], Array] = lambda x: x

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.xavier_uniform()
        patches = patchify(self.into(x), self.patch)
        return nn.Dense(self.width, kernel_init=init, dtype=self.dtype, name="patches")(patches)


class PatchHead(nn.Module):
    """Tokens [B, n, width] -> [B, *shape], zero at initialisation: what `back` makes of patches."""

    shape: tuple[int, ...]
    patch: tuple[int, ...]
    dtype: Any
    back: Callable[[Array], Array] = lambda x: x

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        *size, channels = self.shape
        features = int(np.prod(self.patch)) * channels
        out = nn.Dense(features, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="patches")(tokens)
        return self.back(unpatchify(out, tuple(size), self.patch))
