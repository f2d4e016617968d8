"""Randomness that ignores batches and devices.

Every random number belongs to one example: its key is (root, row of the example), then the stream's name, then whatever
the caller folds in. So example 7 gets the same noise in a batch of 8 and a batch of 512, on one device and on many.
"""

import reprlib
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array


def check_key(key: Any) -> None:
    """Raises ValueError for anything but one random key."""
    is_key = hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    is_old_key = hasattr(key, "dtype") and key.dtype == np.uint32 and key.shape != ()  # of jax.random.PRNGKey
    if not is_key and not is_old_key:
        raise ValueError(f"key = {reprlib.repr(key)} should be a random key, such as jax.random.key(0)")
    if key.shape[is_old_key:] != ():
        raise ValueError(f"key holds {key.shape[0]} keys, and should be one, such as jax.random.key(0)")


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
