"""Checksums of arrays, computed on the devices that hold them: the same for every sharding, mesh and dtype.

A checksum is a sum mod 2^32, in which order is nothing, of a hash of each value and its place. The hash is one-to-one
in the value, so that no change of a single value can go unseen; a change of several does once in 2^32. It finds
accidents, and is no signature.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}  # of so many bytes; two words for eight


class Survey(NamedTuple):
    """Of a tree of arrays: {leaf: 'float32[2,3] 89abcdef'}, its type, shape and checksum; and the names of the leaves
    that hold a value that is not finite."""

    fingerprints: dict[str, str]
    not_finite: list[str]


def survey(tree: Any) -> Survey:
    """Checksums of all leaves and whether they are finite; leaves of one shape, type and sharding share a program."""
    layouts = layout(tree)
    found = jax.device_get([_checked(leaf) for leaf in jax.tree.leaves(tree)])
    pairs = [*zip(layouts.items(), found, strict=True)]
    return Survey(
        {name: f"{shape} {checksum:08x}" for (name, shape), (checksum, _) in pairs},
        [name for (name, _), (_, finite) in pairs if not finite],
    )


def layout(tree: Any) -> dict[str, str]:
    """{leaf: 'float32[2,3]'} of arrays, or of what says where arrays will lie: what a fingerprint begins with."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sizes = {leaf_name(path): (leaf.dtype, ",".join(map(str, leaf.shape))) for path, leaf in leaves}
    return {name: f"{dtype}[{shape}]" for name, (dtype, shape) in sizes.items()}


def leaf_name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


@jax.jit
def _checked(x: Array) -> tuple[Array, Array]:
    return checksum(x), is_finite(x)


def is_finite(x: Array) -> Array:
    """Whether all values are finite, as those that are no floating point numbers always are."""
    return jnp.all(jnp.isfinite(x)) if jnp.issubdtype(x.dtype, jnp.inexact) else jnp.array(True)


def checksum(x: Array) -> Array:
    """uint32 []: the sum of a hash of each value and its place (the mixing steps are MurmurHash3's)."""
    words = _words(x)
    place, stride = jnp.zeros(words.shape, jnp.uint32), 1
    for axis in reversed(range(words.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        place += along * np.uint32(stride % 2**32)
        stride *= words.shape[axis]
    return jnp.sum(_hash(words, place), dtype=jnp.uint32)


def host_checksum(x: np.ndarray, piece: int = 2**16) -> int:
    """`checksum` of an array on the host, computed there, so many words at a time: it takes no memory of a device."""
    words, total = _host_words(x).reshape(-1), 0
    for start in range(0, len(words), piece):
        some = words[start : start + piece]
        total += int(_hash(some, np.arange(start, start + len(some)).astype(np.uint32)).sum(dtype=np.uint64))
    return total % 2**32


def _hash(words: Any, place: Any) -> Any:
    h = words + place * np.uint32(0x9E3779B9)
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)


def _host_words(x: np.ndarray) -> np.ndarray:
    """`_words` of an array on the host, in the order of its places."""
    x = np.ascontiguousarray(x)
    if x.dtype == bool or (x.dtype.itemsize < 4 and np.issubdtype(x.dtype, np.integer)):
        return x.astype(np.int32).view(np.uint32)
    return x.view(f"u{min(x.dtype.itemsize, 4)}").astype(np.uint32, copy=False)


def _words(x: Array) -> Array:
    """The bits of an array, as uint32 of its shape, or of one axis more."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag])
    if x.dtype == bool or (x.dtype.itemsize < 4 and jnp.issubdtype(x.dtype, jnp.integer)):
        return x.astype(jnp.int32).astype(jnp.uint32)  # types of four bits have no words
    return jax.lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize]).astype(jnp.uint32)
