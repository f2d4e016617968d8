"""Randomness that ignores batches and devices.

Every random number belongs to one example: its key is (root, row of the example), then the stream's name, then whatever
the caller folds in. So example 7 gets the same noise in a batch of 8 and a batch of 512, on one device and on many.
"""

import zlib

import jax
import numpy as np
from jax import Array


def domain(key: Array, name: str) -> Array:
    """The key of a use apart from drawing samples, such as "train": key [] -> key [].

    Samples take (key, row) as it is. With the highest bit set, no row, stream or step is folded in by the same number.
    """
    return jax.random.fold_in(key, np.uint32(zlib.crc32(name.encode()) | 1 << 31))


def example_keys(key: Array, rows: Array) -> Array:
    """One key an example: key [], rows [B] integers -> [B] keys."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, rows)


def fold(keys: Array, data: int | Array) -> Array:
    """Derive new keys: keys [B] -> [B] keys, all by the same integer."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


def stream_id(name: str) -> int:
    """An integer for a stream's name that no other stream, process or Python version changes."""
    return zlib.crc32(name.encode()) & 0x7FFFFFFF


def normal(keys: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal noise, keys [B] -> [B, *shape]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def uniform(keys: Array, shape: tuple[int, ...]) -> Array:
    """Uniform numbers in [0, 1), keys [B] -> [B, *shape]."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)
