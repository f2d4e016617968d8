"""What attention heads do: how wide and how far they look, on what sinks, and which streams and tokens read which."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion.stream import Streams
from dit_jax.network.layout import token_counts
from dit_jax.network.tokens import COLUMN, ROW, TIME


def head_table(streams: Streams, probabilities: Array) -> dict[str, Array]:
    """Attention probabilities [..., B, h, n, n] -> {measure: [..., h]}, means over examples and queries.

    entropy: in nats. time, row, column: the mean distance to the tokens of the same stream. own: the mass on the own
    stream. sink: the mass on that token which gets most.
    """
    counts = token_counts(streams)
    positions = np.concatenate([np.asarray(streams[name].positions) for name in counts])
    owner = np.repeat(np.arange(len(counts)), [*counts.values()])
    same = np.equal.outer(owner, owner)
    mean = lambda of_query: jnp.mean(of_query, axis=(-3, -1))  # over B and n
    p = probabilities
    own = jnp.sum(p * same, axis=-1)
    table = {"entropy": mean(-jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=-1)), "own": mean(own)}
    table["sink"] = jnp.max(jnp.mean(p, axis=(-4, -2)), axis=-1)
    for name, axis in {"time": TIME, "row": ROW, "column": COLUMN}.items():
        far = np.abs(np.subtract.outer(positions[:, axis], positions[:, axis])) * same
        table[name] = mean(jnp.sum(p * far, axis=-1) / jnp.maximum(own, 1e-30))
    return table


def between_streams(streams: Streams, probabilities: Array) -> dict[tuple[str, str], Array]:
    """Who reads whom: the mass of attention from the tokens of one stream to those of another, mean over examples,
    heads and queries. Probabilities [..., B, h, n, n] -> {(reader, read): [...]}."""
    cuts = slices(streams)
    return {
        (reader, read): jnp.mean(jnp.sum(probabilities[..., at, of], axis=-1), axis=(-3, -2, -1))
        for reader, at in cuts.items()
        for read, of in cuts.items()
    }


def attention_maps(streams: Streams, probabilities: Array, reader: str, read: str) -> Array:
    """How much each token of one stream attends to each of another, of any blocks, examples and heads: [..., n, n] ->
    [..., tokens of the reader, tokens of the read]. The mean over heads is DAAM's map of a word (Tang et al. 2022)."""
    cuts = slices(streams)
    return probabilities[..., cuts[reader], cuts[read]]


def concept_maps(streams: Streams, attention_out: Array, stream: str, concepts: str) -> Array:
    """How much each token of a stream is one of each of the tokens of another, in shares: a softmax over products of
    attention outputs [..., n, D] (ConceptAttention, Helbling et al. 2025) -> [..., its tokens, concepts]."""
    cuts = slices(streams)
    here, there = attention_out[..., cuts[stream], :], attention_out[..., cuts[concepts], :]
    products = jnp.einsum("...nd,...kd->...nk", here, there)
    return jax.nn.softmax(products, axis=-1)


def slices(streams: Streams) -> dict[str, slice]:
    """Where the tokens of each stream are among all."""
    counts = token_counts(streams)
    ends = np.cumsum([*counts.values()]).tolist()
    return {name: slice(end - count, end) for (name, count), end in zip(counts.items(), ends, strict=True)}
