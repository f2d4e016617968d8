"""Long sampling by sliding windows: each window of a stream, such as a clip, is given the end of the one before.

Prediction and image -> video are the same with a given beginning.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.keys import fold, stream_id
from dit_jax.diffusion.stream import Arrays, Streams, drawable

# (keys [B], given {name: [B, *shape]}, prefix {name: groups}) -> a sample of all streams, as `sample_rows` draws it.
Draw = Callable[[Array, Arrays, dict[str, int]], Arrays]


def rollout(
    draw: Draw,
    streams: Streams,
    keys: Array,
    name: str,
    length: int,
    overlap: int,
    given: Arrays | None = None,
    prefix: dict[str, int] | None = None,
) -> Arrays:
    """A sample {name: [B, *shape]} whose stream `name` is `length` long, such as frames, whatever its shape says.

    The first window is draw(keys, given, prefix): what a sampler draws. Each later one has keys of its own, is given
    the last `overlap` groups of the one before, and all other streams as they are; that is exact if the past beyond the
    overlap does not matter. Raises ValueError for an overlap that leaves nothing given, or nothing to draw.
    """
    check_overlap(streams, name, overlap)
    stream = streams[name]
    window, known = stream.shape[0], stream.shape[0] // stream.groups * overlap
    first = draw(keys, given or {}, prefix or {})
    others = {k: x for k, x in first.items() if k != name and (k in drawable(streams) or k in (given or {}))}

    def next_window(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], Array]:
        keys, last = carry
        keys = fold(keys, stream_id(name))
        new = draw(keys, {**others, name: jnp.roll(last, known, axis=1)}, {name: overlap})[name]
        return (keys, new), new[:, known:]

    windows = max(0, -(-(length - window) // (window - known)))
    _, later = jax.lax.scan(next_window, (keys, first[name]), length=windows)
    return {**first, name: jnp.concatenate([first[name], *later], axis=1)[:, :length]}


def check_overlap(streams: Streams, name: str, overlap: int) -> None:
    """Raises ValueError for an overlap that leaves nothing given, or nothing to draw."""
    groups = streams[name].groups
    if not 0 < overlap < groups:
        raise ValueError(f"overlap = {overlap} should be 1 ... {groups - 1} of the {groups} groups of {name}")
