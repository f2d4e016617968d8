"""Token layout and attention masks: where each stream's tokens are among all of them, and which attend to which.

The tokens of all streams stand one after another in the order of the streams, n of them in all; those of a stream in
groups, as a clip's are in frames. Nothing here knows of a network.
"""

from typing import cast

import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion.stream import Stream, Streams, generation_order, steps_in_time


def token_counts(streams: Streams) -> dict[str, int]:
    """How many tokens each stream has, of those that have any."""
    return {name: len(stream.positions) for name, stream in streams.items() if stream.positions is not None}


def token_slice(streams: Streams, name: str, group: int | Array) -> tuple[int | Array, int]:
    """(index of the first token of a stream's group among all tokens, how many the group has)."""
    counts = token_counts(streams)
    earlier = list(counts.values())[: list(counts).index(name)]
    size = counts[name] // streams[name].groups
    return sum(earlier) + group * size, size


def level_of_token(counts: dict[str, int], levels: dict[str, int]) -> np.ndarray:
    """Which of all noise levels each token has, [n]: a stream's tokens are split evenly among its levels."""
    first, found = 0, []
    for name, tokens in counts.items():
        found.append(first + np.repeat(np.arange(levels[name]), tokens // levels[name]))
        first += levels[name]
    return np.concatenate(found)


def frame_count(streams: Streams, depth: int) -> int:
    """Frames that factorised attention goes by. Raises ValueError where it has nothing to factorise."""
    if ended := [stream.duration_of for stream in streams.values() if stream.duration_of]:
        raise ValueError(f"factorised attention takes no duration, and there is one of {ended[0]}")
    counts = {name: stream.groups for name, stream in streams.items() if stream.positions is not None}
    if len(counts) != 1 or max(counts.values()) == 1:
        raise ValueError(f"factorised attention is for one stream with frames alone, not for {', '.join(counts)}")
    if depth % 2:
        raise ValueError(f"depth = {depth} should be even: factorised attention takes blocks by twos")
    return max(counts.values())


def attention_mask(streams: Streams, valid: dict[str, Array]) -> Array | None:
    """Boolean attention mask, True where query i may attend to key j: [n, N], or [B, 1, 1 or n, N] with padding after a
    duration. None: full attention.

    valid: {name: [B, length]}, which values of a stream that has a duration come before its end.
    """
    mask = jnp.asarray(block_causal_mask(streams)) if any(stream.past_of for stream in streams.values()) else None
    if not valid:
        return mask
    batch = next(iter(valid.values())).shape[0]
    keys = [
        valid[name][:, first_value(streams[name])] if name in valid else jnp.ones((batch, count), bool)
        for name, count in token_counts(streams).items()
    ]
    padding = jnp.concatenate(keys, axis=1)[:, None, None]
    return padding if mask is None else mask & padding


def block_causal_mask(streams: Streams) -> np.ndarray:
    """Block-causal attention mask [n, n] of streams with a past, True where query i may attend to key j.

    Tokens of one stream's group, or drawn at once, attend to each other. What comes later attends to them too if they
    are clean by then, as a past is and all that is drawn before any block; no other token attends to a noised block.
    """
    step_of, counts = generation_order(streams), token_counts(streams)
    step = np.concatenate([np.repeat(step_of[name], count // step_of[name].size) for name, count in counts.items()])
    is_past = np.concatenate([np.full(count, bool(streams[name].past_of)) for name, count in counts.items()])
    same_block = np.equal.outer(step, step) & np.equal.outer(is_past, is_past)
    return same_block | (np.greater.outer(step, step) & (is_past | (step == 0)))


def first_value(stream: Stream) -> np.ndarray:
    """The value along time, the first axis of an example, with which each token [n] begins."""
    tokens, steps = len(cast(np.ndarray, stream.positions)), steps_in_time(stream)
    return np.repeat(np.arange(steps) * (stream.shape[0] // steps), tokens // steps)
