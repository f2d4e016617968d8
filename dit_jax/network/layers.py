"""Layers of a transformer: norms, projections, attention with rotary positions and a KV cache, MLP, timestep embedding.

What a block is made of is a `Block`. PUBLISHED is DiT as published (Peebles & Xie 2023): layer norm, GELU, sin-cos
positions, one modulation network a block. MODERN is what has replaced each of these since: RMS norm, SwiGLU, rotary
positions, normalised queries and keys, one modulation network for all blocks with a learned offset in each, no biases.

Axes: B batch, n tokens (queries), N tokens (keys), D width, h heads, d head width, G groups, each at its own noise
level.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from dit_jax.diffusion.derivatives import forward_mode
from dit_jax.network.tokens import rotate
from dit_jax.parallel.mesh import ROWS, constrain
from dit_jax.schema import check_fields

xavier = nn.initializers.xavier_uniform()
zeros = nn.initializers.zeros

Norm = Literal["layer", "rms"]
Feedforward = Literal["gelu", "swiglu"]
Positions = Literal["sincos", "rotary"]
Modulation = Literal["own", "shared"]  # a modulation network in each block, or one for all
QKNorm = Literal["none", "rms"]


@dataclasses.dataclass(frozen=True)
class Block:
    """What a transformer block is made of; `bias` is that of its matrix products. By default it is DiT's.

    Raises ConfigError for a name that does not exist.
    """

    norm: Norm = "layer"
    mlp: Feedforward = "gelu"
    positions: Positions = "sincos"
    modulation: Modulation = "own"
    qk_norm: QKNorm = "none"
    bias: bool = True

    def __post_init__(self) -> None:
        check_fields(self)


def modern(
    norm: Norm = "rms",
    mlp: Feedforward = "swiglu",
    positions: Positions = "rotary",
    modulation: Modulation = "shared",
    qk_norm: QKNorm = "rms",
    bias: bool = False,
) -> Block:
    """A block of what has replaced each of DiT's choices since."""
    return Block(norm, mlp, positions, modulation, qk_norm, bias)


PUBLISHED, MODERN = Block(), modern()
BLOCKS: dict[str, Callable[..., Block]] = {"published": Block, "modern": modern}  # as configs name and call them


def layer_norm(x: Array) -> Array:
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


def rms_norm(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


NORMS = {"layer": layer_norm, "rms": rms_norm, "none": lambda x: x}


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    """adaLN: a normalised x, scaled and shifted by what the conditioning says."""
    return x * (1 + scale) + shift


def to_tokens(condition: Array, level: np.ndarray) -> Array:
    """Conditioning [B, G, D] of each token's noise level [n] -> [B, n, D], or [B, 1, D] where there is one level:
    broadcasting is cheaper than gathering."""
    return condition if condition.shape[1] == 1 else condition[:, level]


def dense(layer: Any, features: int, name: str) -> nn.Dense:
    """A linear projection of a layer, as its block and its dtype say."""
    options = {"use_bias": layer.block.bias, "kernel_init": xavier, "dtype": layer.dtype, "dot_general": by_row}
    return nn.Dense(features, **options, name=name)


def by_row(x: Array, kernel: Array, *_: Any, precision: Any = None) -> Array:
    """[..., D] times [D, E], as one product of all rows: its gradient on CPU takes half the time."""
    if jax.sharding.get_abstract_mesh().shape.get("context", 1) > 1:  # rows of split tokens are not rows of a product
        return jnp.matmul(x, kernel, precision=precision)
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, precision=precision)
    return y.reshape(*x.shape[:-1], -1)


def tap(layer: nn.Module, name: str, value: Array) -> Array:
    """A value under a name: another one where the variables have an edit of it, a pair (scale, offset), and kept where
    they ask for it. taps.py has the names, and is what asks; nobody else pays."""
    if layer.has_variable("edits", name):
        edit: Any = layer.get_variable("edits", name)
        scale, offset = edit
        value = (scale * value + offset).astype(value.dtype)
    if layer.has_variable("taps", name):
        layer.put_variable("taps", name, value)
    return value


def is_asked_for(layer: nn.Module, name: str) -> bool:
    """Whether variables edit or keep this value."""
    return layer.has_variable("edits", name) or layer.has_variable("taps", name)


def attention_scores(q: Array, k: Array, mask: Array | None) -> Array:
    """Scaled dot products in float32, -inf where masked: q [B, n, h, d], k [B, N, h, d] -> [B, h, n, N]."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    return scores if mask is None else jnp.where(mask, scores, -jnp.inf)


def dot_product_attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """Scaled dot-product attention with a softmax in float32: q [B, n, h, d], k and v [B, N, h, d] -> [B, n, h, d].

    mask: see `layout.attention_mask`. The exponentials are divided by their sum after the product with the values,
    where there is less to divide. A kernel of cuDNN, where there is one, never holds the scores at all.
    """
    if mask is None and has_kernel(q) and not forward_mode():
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    scores = attention_scores(q, k, mask)
    weights = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(weights, axis=-1)[..., None].swapaxes(1, 2)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (y / total).astype(v.dtype)


def has_kernel(q: Array) -> bool:
    """Whether cuDNN has a fused kernel for attention of these queries: in bfloat16, on NVIDIA GPUs since Ampere."""
    device: Any = jax.devices()[0]
    suits = q.dtype == jnp.bfloat16 and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return suits and device.device_kind.startswith("NVIDIA") and float(device.compute_capability) >= 8


class LevelEmbed(nn.Module):
    """Timestep embedding, DiT's: sines and cosines of times [B, G], then two layers -> [B, G, width]."""

    width: int
    frequencies: int = 256

    @nn.compact
    def __call__(self, t: Array) -> Array:
        half = self.frequencies // 2
        angle = t[..., None] * jnp.exp(-math.log(10000.0) * jnp.arange(half) / half)
        x = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
        init = nn.initializers.normal(0.02)
        x = nn.silu(nn.Dense(self.width, kernel_init=init, name="in")(x))
        return nn.Dense(self.width, kernel_init=init, name="out")(x)


Experts = tuple[tuple[str, int], ...]  # the streams whose tokens have weights of their own, and how many tokens


def by_expert(experts: Experts, layer: Callable[[str], Callable], name: str) -> Callable[[Array], Array]:
    """layer(name) for all tokens [B, n, D], or layer("STREAM_name") for those of each expert.

    They meet in attention alone (MM-DiT, Esser et al. 2024; mixture of transformers, Liang et al. 2024).
    """
    if not experts:
        return layer(name)
    own, ends = [layer(f"{stream}_{name}") for stream, _ in experts], np.cumsum([count for _, count in experts])[:-1]
    split = lambda x: zip(own, jnp.split(x, ends, axis=1), strict=True)
    return lambda x: jnp.concatenate([apply(tokens) for apply, tokens in split(x)], axis=1)


# Which of the tokens [B, g p, h, d] of g frames attend to each other, as the rows that they are made: all of a clip's,
# those of a frame (spatial attention), or those of a place (temporal attention).
VIEWS = {"all": "b (g p) h d", "frame": "(b g) p h d", "place": "(b p) g h d"}


def view_mask(view: str, frames: int, n: int) -> Array:
    """Attention mask [n, n] of a view: True for tokens that are in one row of it."""
    rows = rearrange(np.arange(n)[None, :, None, None], f"{VIEWS['all']} -> {VIEWS[view]}", g=frames)[..., 0, 0]
    row = np.argsort(rows.ravel()) // rows.shape[1]
    return jnp.asarray(np.equal.outer(row, row))


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions and, where variables have a collection "cache", a KV cache."""

    heads: int
    block: Block
    dtype: Any
    experts: Experts = ()
    view: str = "all"
    frames: int = 1

    @nn.compact
    def __call__(
        self, x: Array, rope: tuple[Array, Array] | None, mask: Array | None, offset: int | Array | None
    ) -> Array:
        """x [B, n, D] -> [B, n, D]. rope: (cos, sin), each [n, d / 2]. offset: which of all N tokens is the first of x,
        whose keys and values take their slots in the cache; None where x holds all of them."""
        width = x.shape[-1]
        q, k, v = jnp.split(by_expert(self.experts, lambda name: dense(self, 3 * width, name), "qkv")(x), 3, axis=-1)
        q, k, v = (y.reshape(*y.shape[:-1], self.heads, width // self.heads) for y in (q, k, v))
        norm = NORMS[self.block.qk_norm]
        q, k = (norm(y.astype(jnp.float32)).astype(y.dtype) for y in (q, k))
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        if offset is not None:
            cached: Any = self.get_variable("cache", "keys_values")
            k = jax.lax.dynamic_update_slice_in_dim(cached[0], k, offset, axis=1)
            v = jax.lax.dynamic_update_slice_in_dim(cached[1], v, offset, axis=1)
        if self.is_mutable_collection("cache"):
            self.put_variable("cache", "keys_values", (k, v))
        q = constrain(q, ROWS, "context", "tensor")
        k, v = (constrain(y, ROWS, None, "tensor") for y in (k, v))  # of all tokens, wherever they are
        if is_asked_for(self, "probabilities"):  # which the kernel never holds, of all tokens whatever the view
            mask = mask if self.view == "all" else view_mask(self.view, self.frames, x.shape[1])
            probabilities = tap(self, "probabilities", nn.softmax(attention_scores(q, k, mask)))
            y = jnp.einsum("bhqk,bkhd->bqhd", probabilities.astype(v.dtype), v)
        else:
            every, view = VIEWS["all"], VIEWS[self.view]
            q, k, v = (rearrange(y, f"{every} -> {view}", g=self.frames) for y in (q, k, v))
            y = rearrange(dot_product_attention(q, k, v, mask), f"{view} -> {every}", g=self.frames, b=x.shape[0])
        y = tap(self, "heads", y)
        return by_expert(self.experts, lambda name: dense(self, width, name), "out")(y.reshape(x.shape))


class MLP(nn.Module):
    """The feed-forward part of a block: GELU, or SwiGLU."""

    ratio: float
    block: Block
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        if self.block.mlp == "swiglu":  # two thirds of the hidden width: three matrices cost what two did
            hidden = -(-round(self.ratio * width * 2 / 3) // 64) * 64  # vector units like whole tiles
            gate, value = jnp.split(dense(self, 2 * hidden, "in")(x), 2, axis=-1)
            return dense(self, width, "out")(nn.silu(gate) * value)
        return dense(self, width, "out")(nn.gelu(dense(self, round(self.ratio * width), "in")(x), approximate=True))
