"""A stream is one named part of a sample; a sample is a dict of them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.levels import Quantile
from dit_jax.diffusion.masked import Masked


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """What the mathematics, the network and the shell each need to know about one part of a sample.

    shape: of one example. process: how it is noised. levels: where training looks (see levels.py).
    positions: [n, 3] (time, row, column) of its tokens, or None for a stream that modulates all others instead, as
    a class label does. embed: (width, dtype, name) -> linen module from the noised array to tokens [B, n, width], or to
    the modulation vector [B, width]. head: likewise, from tokens to the prediction; None for a stream that is only ever
    given. read: text from the shell -> examples [k, *shape]. show: examples [k, *shape] -> what a person sees of each:
    pictures [k, height, width, 1 or 3] in 0 ... 255, or k words.
    """

    shape: tuple[int, ...]
    process: Gaussian | Masked
    levels: Quantile
    embed: Callable[..., Any]
    positions: np.ndarray | None = None
    head: Callable[..., Any] | None = None
    read: Callable[[str], np.ndarray] | None = None
    show: Callable[[np.ndarray], np.ndarray | list[str]] | None = None


Streams = dict[str, Stream]
