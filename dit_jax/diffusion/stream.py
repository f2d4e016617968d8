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
    a class label does. embed: width, dtype -> linen module from the noised array to tokens [B, n, width], or to the
    modulation vector [B, width]. head: width, dtype -> linen module from tokens to the prediction; None for a stream that
    is only ever given. read: text from the shell -> examples [k, *shape]. show: examples [k, *shape] -> an RGB or grey
    picture of each, [k, height, width, channels] in [0, 255], or None.
    """

    shape: tuple[int, ...]
    process: Gaussian | Masked
    levels: Quantile
    embed: Callable[..., Any]
    positions: np.ndarray | None = None
    head: Callable[..., Any] | None = None
    read: Callable[[str], np.ndarray] | None = None
    show: Callable[[np.ndarray], np.ndarray] | None = None


Streams = dict[str, Stream]
