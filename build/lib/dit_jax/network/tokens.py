"""Arrays to tokens and back, and where tokens are.

A token's position is (time, row, column). An image has rows and columns, audio and text have time, video has all three,
so one rotary embedding serves them all and nothing assumes that a grid is square.
"""

import math

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

TIME, ROW, COLUMN = 0, 1, 2
MOST = 2**28  # values of an example, without channels


def grid_shape(shape: tuple[int, ...], patch: tuple[int, ...]) -> tuple[int, ...]:
    """Patches along each axis of an example of shape [*shape]; every axis must divide. Raises ValueError for sizes that
    cannot be meant."""
    if min(*shape, *patch) < 1 or math.prod(shape) > MOST:
        raise ValueError(f"shape {shape} and patch {patch} should be at least 1, and {MOST:,} values at most")
    if any(size % p for size, p in zip(shape, patch, strict=True)):
        raise ValueError(f"patch {patch} does not divide the shape {shape}; choose divisors of each axis")
    return tuple(size // p for size, p in zip(shape, patch, strict=True))


def patchify(x: Array, patch: tuple[int, ...]) -> Array:
    """[B, *shape, C] -> [B, n, prod(patch) C], patches in row-major order, for any number of axes."""
    spread, flat, _ = _pattern(len(patch))
    return rearrange(x, f"{spread} -> {flat}", **{f"p{i}": p for i, p in enumerate(patch)})


def unpatchify(tokens: Array, shape: tuple[int, ...], patch: tuple[int, ...]) -> Array:
    """[B, n, prod(patch) C] -> [B, *shape, C], the inverse of `patchify`."""
    spread, flat, names = _pattern(len(patch))
    sizes = {f"p{i}": p for i, p in enumerate(patch)} | dict(zip(names, grid_shape(shape, patch), strict=True))
    return rearrange(tokens, f"{flat} -> {spread}", **sizes)


def _pattern(axes: int) -> tuple[str, str, list[str]]:
    names, within = [f"n{i}" for i in range(axes)], [f"p{i}" for i in range(axes)]
    spread = " ".join(f"({n} {p})" for n, p in zip(names, within, strict=True))
    return f"b {spread} c", f"b ({' '.join(names)}) ({' '.join(within)} c)", names


def positions(grid: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """[n, 3] integer positions of a grid of tokens, whose axes are some of (TIME, ROW, COLUMN)."""
    table = np.zeros((math.prod(grid), 3), np.float32)
    table[:, list(axes)] = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(-1, len(grid))
    return table


def sincos(positions: np.ndarray, width: int) -> np.ndarray:
    """Additive sin-cos position embedding, [n, width]: of DiT and MAE, columns in the first half, rows in the second.

    Time is added over the whole width, as in Latte (Ma et al. 2024), less its value at 0: an image, which has none, is
    DiT's to the last bit.
    """
    if width % 4:
        raise ValueError(f"sin-cos positions need a width divisible by 4, not {width}")
    time, row, column = (positions[:, axis].astype(np.float64) for axis in (TIME, ROW, COLUMN))
    spatial = np.concatenate([_waves(column, width // 2), _waves(row, width // 2)], -1)
    later = _waves(time, width) - _waves(np.zeros(1), width)
    return (spatial + later).astype(np.float32)


def _waves(position: np.ndarray, width: int) -> np.ndarray:
    """Sines, then cosines, of positions [n] at frequencies from 1 down to 1 / 10000: [n, width]."""
    half = width // 2
    angle = position[:, None] * 10000.0 ** -(np.arange(half) / half)
    return np.concatenate([np.sin(angle), np.cos(angle)], -1)


def rotary(positions: np.ndarray, head_width: int, base: float = 10000.0) -> tuple[np.ndarray, np.ndarray]:
    """(cos, sin), each [n, head_width / 2], of three-axis rotary embedding (Su et al. 2021; split over axes as in Wan).

    Scores depend on differences of positions only. In float64, which `rotate` casts to what it turns.
    """
    if head_width % 2 or head_width < 6:
        raise ValueError(f"rotary positions need an even head width of at least 6, not {head_width}")
    third = head_width // 6
    angles = [
        positions[:, axis, None].astype(np.float64) * base ** -(np.arange(pairs) / pairs)
        for axis, pairs in ((TIME, head_width // 2 - 2 * third), (ROW, third), (COLUMN, third))
    ]
    angle = np.concatenate(angles, -1)
    return np.cos(angle), np.sin(angle)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Turn each pair (first half, second half) of the last axis: x [B, n, heads, d], cos and sin [n, d / 2]."""
    first, second = jnp.split(x, 2, axis=-1)
    cos, sin = cos[:, None].astype(x.dtype), sin[:, None].astype(x.dtype)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
