"""Class conditioning: a label is one masked token that modulates the whole network.

Its mask is DiT's null class, and training with it masked one time in ten is DiT's label dropout.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import flax.linen as nn
import numpy as np
from flax.linen.initializers import normal

from dit_jax.diffusion.levels import Share, dropout
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.stream import Stream, View
from dit_jax.names import nearest
from dit_jax.schema import Range, checks


@checks
def label(classes: Annotated[int, Range(at_least=1, at_most=2**24)], dropout_rate: Share = 0.1) -> Stream:
    """A label in 0 ... classes - 1, hidden from the network at a rate, for guidance."""
    return Stream(
        shape=(),
        process=Masked(vocabulary=classes),
        levels=dropout(rate=dropout_rate),
        embed=lambda width, dtype, name: nn.Embed(classes + 1, width, embedding_init=normal(0.02), name=name),
        view=view_of(classes),
    )


def view_of(classes: int, names: Sequence[str] = ()) -> View:
    """How labels are read and shown: by numbers, and by the names of all classes where these are known."""
    return View(
        read=lambda text: read(text, classes, names),
        show=lambda labels: [(names[value] if names else str(value)) if value < classes else "" for value in labels],
        named=lambda names: view_of(classes, names),
    )


def read(text: str, classes: int, names: Sequence[str] = ()) -> np.ndarray:
    """'3', '0,2,5', 'cat,dog', 'all', or 'random' for 50,000 drawn evenly, always the same -> labels [k].

    'none', also in a list, is the null class: the mask, `classes`. A class goes by its name or its number; where names
    are other numbers, as those of folders 1, 2 and 10 are, by its name alone. All of the text may be one name, commas
    and all. A class that is called all, random or none goes by its number.
    """
    if text == "random":
        return np.random.default_rng(0).integers(classes, size=50_000, dtype=np.int32)
    if text == "all":
        return np.arange(classes, dtype=np.int32)
    words = [text] if text in names else [word.strip() for word in text.split(",")]
    return np.array([classes if word == "none" else _class_of(word, classes, names) for word in words], np.int32)


def _class_of(word: str, classes: int, names: Sequence[str]) -> int:
    """The class of a name or a number. Raises ValueError for one that does not exist."""
    if word in names:
        return names.index(word)
    names_are_others = any(name.isdecimal() and int(name) != place for place, name in enumerate(names))
    if names_are_others or not re.fullmatch(r"[+-]?\d+", word):
        if names:
            raise ValueError(f"label {word!r} does not exist; {nearest(word, names)}")
        raise ValueError(f"a label is an integer, a list such as 0,2,5, all, random or none; not {word!r}")
    if not 0 <= int(word) < classes:
        raise ValueError(f"label {int(word)} does not exist: labels are 0 ... {classes - 1}, and none")
    return int(word)
