"""Class conditioning: a label is one masked token that modulates the whole network.

Its mask is DiT's null class, and training with it masked one time in ten is DiT's label dropout.
"""

from __future__ import annotations

from typing import Annotated

import flax.linen as nn
import numpy as np
from flax.linen.initializers import normal

from dit_jax.diffusion.levels import Share, dropout
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.stream import Stream, View
from dit_jax.schema import Range, checks


@checks
def label(classes: Annotated[int, Range(at_least=1, at_most=2**24)], dropout_rate: Share = 0.1) -> Stream:
    """A label in 0 ... classes - 1, hidden from the network at a rate, for guidance."""
    return Stream(
        shape=(),
        process=Masked(vocabulary=classes),
        levels=dropout(rate=dropout_rate),
        embed=lambda width, dtype, name: nn.Embed(classes + 1, width, embedding_init=normal(0.02), name=name),
        view=View(
            read=lambda text: read(text, classes),
            show=lambda labels: [str(value) if value < classes else "" for value in labels],
        ),
    )


def read(text: str, classes: int) -> np.ndarray:
    """'3', '0,2,5', 'all', or 'random' for 50,000 drawn evenly, always the same -> labels [k].

    'none', also in a list, is the null class: the mask, `classes`.
    """
    if text == "random":
        return np.random.default_rng(0).integers(classes, size=50_000, dtype=np.int32)
    try:
        words = [*map(str, range(classes))] if text == "all" else text.split(",")
        numbers = [None if word == "none" else int(word) for word in words]
    except ValueError:
        raise ValueError(f"a label is an integer, a list such as 0,2,5, all, random or none; not {text!r}") from None
    for number in numbers:
        if number is not None and not 0 <= number < classes:
            raise ValueError(f"label {number} does not exist: labels are 0 ... {classes - 1}, and none")
    return np.array([classes if number is None else number for number in numbers], np.int32)
