"""The interval t - r of MeanFlow, a condition: how far a step of the sampler goes."""

from __future__ import annotations

import flax.linen as nn
from jax import Array

from dit_jax.diffusion.levels import Share, spans
from dit_jax.diffusion.meanflow import Span
from dit_jax.diffusion.stream import Stream
from dit_jax.network.layers import LevelEmbed
from dit_jax.schema import checks


@checks
def span(rate: Share = 0.25) -> Stream:
    """t - r, a number that modulates the network; in training it is 0 but at this rate. Its name has to be "span"."""
    return Stream(
        shape=(),
        process=Span(),
        levels=spans(rate=rate),
        embed=lambda width, dtype, name: SpanEmbed(width, name=name),
    )


class SpanEmbed(nn.Module):
    """[B] -> [B, width], as levels are embedded; not times 1000, for the network is differentiated by it."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return LevelEmbed(self.width, name="level")(x[:, None])[:, 0]
