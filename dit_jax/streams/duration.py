"""Padding: the duration of a clip, after which its tokens are masked in attention and predicted to be silent."""

from __future__ import annotations

import flax.linen as nn
import numpy as np
from jax import Array

from dit_jax.diffusion import gaussian
from dit_jax.diffusion.levels import Share, dropout
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.stream import Stream, View, steps_in_time
from dit_jax.schema import checks


@checks
def duration(stream: Stream, of: str = "speech", dropout_rate: Share = 0.1) -> Stream:
    """How many values `stream`, whose name is `of`, has along its first axis before its end, 1 ... all; it modulates
    the whole network. Hidden, it ends nothing: the silence is drawn with the sound.

    Raises ValueError for a stream whose silence no prediction of 0 means: it has to predict clean values; and for one
    whose first axis is not time.
    """
    if stream.positions is None or not stream.process.predicts(gaussian.x):
        raise ValueError(f"of = {of!r} should be a Gaussian stream that predicts x, such as one of audio")
    most, tokens = stream.shape[0], steps_in_time(stream)
    if tokens == 1 < most:
        raise ValueError(f"of = {of!r} should be a stream along time, such as one of audio or video")
    return Stream(
        shape=(),
        process=Masked(vocabulary=most + 1),
        levels=dropout(rate=dropout_rate),
        embed=lambda width, dtype, name: Begun(tokens, most // tokens, width, name=name),
        duration_of=of,
        view=View(
            read=lambda text: read(text, most),
            show=lambda values: [str(value) if value <= most else "" for value in values],
        ),
    )


class Begun(nn.Module):
    """Durations [B], in values, to modulation vectors [B, width]: one for each number of tokens along time that have
    begun by then, and one for what is hidden. patch: values of a token along time."""

    tokens: int
    patch: int
    width: int

    @nn.compact
    def __call__(self, values: Array) -> Array:
        begun = -(-values // self.patch)
        return nn.Embed(self.tokens + 2, self.width, embedding_init=nn.initializers.normal(0.02), name="tokens")(begun)


def read(text: str, most: int) -> np.ndarray:
    """'4000' or '2500,4000' -> durations [k]."""
    try:
        values = np.array([int(word) for word in text.split(",")])
    except ValueError:
        raise ValueError(f"a duration is a number of samples or a list such as 2500,4000; not {text!r}") from None
    wrong = values[(values < 1) | (values > most)]
    if len(wrong):
        raise ValueError(f"duration {wrong[0]} should be 1 ... {most} samples")
    return values.astype(np.int32)
