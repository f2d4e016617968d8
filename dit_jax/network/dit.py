"""The denoiser: one transformer over the tokens of all streams.

Two blocks share this file. PUBLISHED is DiT as published (Peebles & Xie 2023): layer norm, GELU, sin-cos positions, one
modulation network a block. MODERN is what has replaced each of these since: RMS norm, SwiGLU, rotary positions,
normalised queries and keys, one modulation network for all blocks with a learned offset in each, no biases. Any of
these choices can be exchanged with `dataclasses.replace`; what attends to what, and whose weights are whose, are two
more, which are open to both.

Tokens that share a noise level form a group: a stream, or a frame of one. Modulation is computed once a group and
gathered to tokens; with one group it is exactly DiT's, at DiT's cost.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jax import Array

from dit_jax.diffusion.derivatives import forward_mode
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.stream import Stream, Streams, order, present, steps_in_time
from dit_jax.names import choose
from dit_jax.network.tokens import rotary, rotate, sincos
from dit_jax.parallel.mesh import ROWS, constrain

Now = tuple[str, int | Array]  # a stream, and which of its groups

xavier = nn.initializers.xavier_uniform()
zeros = nn.initializers.zeros

CHOICES = {
    "norm": ("layer", "rms"),
    "mlp": ("gelu", "swiglu"),
    "positions": ("sincos", "rotary"),
    "modulation": ("own", "shared"),  # a modulation network in each block, or one for all
    "qk_norm": ("none", "rms", "layer"),
    "attention": ("full", "factorised"),  # to all tokens, or to those of a frame and those of a place by turns
    "experts": ("none", "streams"),  # the same weights for all tokens, or for those of each stream their own
}


@dataclasses.dataclass(frozen=True)
class Block:
    """What a block is made of, each by a name from CHOICES; `bias` is that of its matrix products."""

    norm: str = "layer"
    mlp: str = "gelu"
    positions: str = "sincos"
    modulation: str = "own"
    qk_norm: str = "none"
    attention: str = "full"
    experts: str = "none"
    bias: bool = True

    def __post_init__(self):
        for name, choices in CHOICES.items():
            choose(dict.fromkeys(choices), getattr(self, name), name)


PUBLISHED = Block()
MODERN = Block(norm="rms", mlp="swiglu", positions="rotary", modulation="shared", qk_norm="rms", bias=False)
BLOCKS = {"published": PUBLISHED, "modern": MODERN}

# (width, depth, heads) of the published sizes.
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}

WEIGHTS = dict.fromkeys(("alike", "learned"))

REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,  # keep matrix products, recompute the rest
    "full": jax.checkpoint_policies.nothing_saveable,
}


def layer_norm(x: Array) -> Array:
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


def rms_norm(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + 1e-6)


NORMS = {"layer": layer_norm, "rms": rms_norm, "none": lambda x: x}


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    return x * (1 + scale) + shift


def dense(layer, features: int, name: str) -> nn.Dense:
    """A matrix product of a layer, as its block and its dtype say."""
    how = {"use_bias": layer.block.bias, "kernel_init": xavier, "dtype": layer.dtype, "dot_general": by_row}
    return nn.Dense(features, **how, name=name)


def by_row(x: Array, kernel: Array, *_, precision: Any = None) -> Array:
    """[..., D] times [D, E], as one product of all rows: its gradient on CPU takes half the time."""
    if jax.sharding.get_abstract_mesh().shape.get("context", 1) > 1:  # rows of split tokens are not rows of a product
        return jnp.matmul(x, kernel, precision=precision)
    y = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel, precision=precision)
    return y.reshape(*x.shape[:-1], -1)


def attend(q: Array, k: Array, v: Array, seen: Array | None) -> Array:
    """What queries [B, n, heads, d] get from keys and values [B, N, heads, d], softmax in float32: [B, n, heads, d].

    The exponentials are divided by their sum after the product with the values, where there is less to divide. A kernel
    of cuDNN, where there is one, never holds the scores at all.
    """
    if seen is None and has_kernel(q) and not forward_mode():
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if seen is not None:
        scores = jnp.where(seen, scores, -jnp.inf)
    shares = jnp.exp(scores - jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True)))
    total = jnp.sum(shares, axis=-1)[..., None].swapaxes(1, 2)
    y = jnp.einsum("bhqk,bkhd->bqhd", shares.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return (y / total).astype(v.dtype)


def has_kernel(q: Array) -> bool:
    """Whether cuDNN has one for attention of these queries: in bfloat16, on NVIDIA GPUs since Ampere."""
    device: Any = jax.devices()[0]
    suits = q.dtype == jnp.bfloat16 and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128
    return suits and device.device_kind.startswith("NVIDIA") and float(device.compute_capability) >= 8


class LevelEmbed(nn.Module):
    """Times [B, G] -> [B, G, width]: sines and cosines of them, then two layers (DiT's timestep embedder)."""

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


class Uncertainty(nn.Module):
    """What loss is to be expected of a stream at its level, [B], as a logarithm; 0 at initialisation, and at t = 0,
    where there is none. Within bounds, so that nothing learned by heart weighs without end."""

    width: int = 64
    most: float = 4.0

    @nn.compact
    def __call__(self, t: Array) -> Array:
        t = t.reshape(len(t), -1)
        x = nn.silu(LevelEmbed(self.width, name="level")(1000.0 * t))
        u = self.most * jnp.tanh(nn.Dense(1, kernel_init=zeros, name="out")(x)[..., 0] / self.most)
        return jnp.mean(jnp.where(t > 0, u, 0.0), axis=1)


Parts = tuple[tuple[str, int], ...]  # the streams whose tokens have weights of their own, and how many tokens


def expert(parts: Parts, layer: Callable[[str], Callable], name: str) -> Callable[[Array], Array]:
    """layer(name) for all tokens [B, n, D], or layer("STREAM_name") for those of each part.

    They meet in attention alone (MM-DiT, Esser et al. 2024; mixture of transformers, Liang et al. 2024).
    """
    if not parts:
        return layer(name)
    own, ends = [layer(f"{stream}_{name}") for stream, _ in parts], np.cumsum([count for _, count in parts])[:-1]
    split = lambda x: zip(own, jnp.split(x, ends, axis=1), strict=True)
    return lambda x: jnp.concatenate([apply(tokens) for apply, tokens in split(x)], axis=1)


# Which of the tokens [B, g p, heads, d] of g frames attend to each other, as the rows that they are made.
VIEWS = {"all": "b (g p) h d", "frame": "(b g) p h d", "place": "(b p) g h d"}


class Attention(nn.Module):
    heads: int
    block: Block
    dtype: Any
    parts: Parts = ()
    view: str = "all"
    frames: int = 1

    @nn.compact
    def __call__(self, x: Array, turn: tuple[Array, Array] | None, seen: Array | None, now: Array | None) -> Array:
        width = x.shape[-1]
        q, k, v = jnp.split(expert(self.parts, lambda name: dense(self, 3 * width, name), "qkv")(x), 3, axis=-1)
        q, k, v = (y.reshape(*y.shape[:-1], self.heads, width // self.heads) for y in (q, k, v))
        norm = NORMS[self.block.qk_norm]
        q, k = (norm(y.astype(jnp.float32)).astype(y.dtype) for y in (q, k))
        if turn is not None:
            q, k = rotate(q, *turn), rotate(k, *turn)
        if now is not None:
            old: Any = self.get_variable("cache", "keys_values")
            k, v = (jax.lax.dynamic_update_slice_in_dim(*pair, now, axis=1) for pair in zip(old, (k, v), strict=True))
        if self.is_mutable_collection("cache"):
            self.put_variable("cache", "keys_values", (k, v))
        q = constrain(q, ROWS, "context", "tensor")
        k, v = (constrain(y, ROWS, None, "tensor") for y in (k, v))  # of all tokens, wherever they are
        every, view = VIEWS["all"], VIEWS[self.view]
        q, k, v = (rearrange(y, f"{every} -> {view}", g=self.frames) for y in (q, k, v))
        y = rearrange(attend(q, k, v, seen), f"{view} -> {every}", g=self.frames, b=len(x))
        return expert(self.parts, lambda name: dense(self, width, name), "out")(y.reshape(x.shape))


class MLP(nn.Module):
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


class DiTBlock(nn.Module):
    """Gated attention and MLP; all gates start at zero, so a new block is the identity (adaLN-zero)."""

    heads: int
    mlp_ratio: float
    block: Block
    dtype: Any
    parts: Parts = ()
    view: str = "all"
    frames: int = 1

    @nn.compact
    def __call__(self, x: Array, condition: Array, group, turn, seen=None, now=None) -> tuple[Array, None]:
        """x [B, n, D]; condition [B, G, D], or [B, G, 6 D] where modulation is shared; group [n] of each token; seen
        [n, N], what each attends to, or None for all; now: which of all N tokens is the first here, if not all are."""
        width = x.shape[-1]
        x, condition = constrain(x, ROWS, "context"), constrain(condition, ROWS)
        if self.block.modulation == "shared":
            condition = condition + self.param("modulation", zeros, (6 * width,))
        else:
            condition = nn.Dense(6 * width, kernel_init=zeros, dtype=self.dtype, name="modulation")(nn.silu(condition))
        chunks = jnp.split(to_tokens(condition, group).astype(x.dtype), 6, axis=-1)
        norm = NORMS[self.block.norm]
        shift, scale, gate = chunks[:3]
        attention = Attention(self.heads, self.block, self.dtype, self.parts, self.view, self.frames, name="attention")
        x = x + gate * attention(modulate(norm(x), shift, scale), turn, seen, now)
        shift, scale, gate = chunks[3:]
        mlp = expert(self.parts, lambda name: MLP(self.mlp_ratio, self.block, self.dtype, name=name), "mlp")
        x = x + gate * mlp(modulate(norm(x), shift, scale))
        return constrain(x, ROWS, "context"), None


class DiTPair(nn.Module):
    """A block in which the tokens of each frame attend to each other, then one for the tokens of each place (Latte, Ma
    et al. 2024): with F frames of P places, n (F + P) scores instead of n F P."""

    heads: int
    mlp_ratio: float
    block: Block
    dtype: Any
    frames: int
    parts: Parts = ()

    @nn.compact
    def __call__(self, x: Array, *others) -> tuple[Array, None]:
        for view in ("frame", "place"):
            sizes = self.heads, self.mlp_ratio, self.block, self.dtype, self.parts
            x, _ = DiTBlock(*sizes, view, self.frames, name=view)(x, *others)
        return x, None


def to_tokens(condition: Array, group: np.ndarray) -> Array:
    """[B, G, D] -> [B, n, D], or [B, 1, D] where there is one group: broadcasting is cheaper than gathering."""
    return condition if condition.shape[1] == 1 else condition[:, group]


class DiT(nn.Module):
    """predict(x, t): what every stream with a head should become clean by.

    x: {name: [B, *shape]}, t: {name: [B] or [B, G]} -> {name: prediction}. Parameters and the residual path are
    float32; `dtype` is that of matrix products. weights: whether the losses of streams and levels count alike, or
    squared errors as the network learns to expect them (see `objective.total`): they become log-likelihoods, which
    cross entropies are as they stand.
    """

    streams: Streams
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    block: Any = PUBLISHED  # a Block, or the name of one in BLOCKS
    dtype: Any = jnp.float32
    remat: str = "dots"
    unroll: int = 1
    weights: str = "alike"

    def __post_init__(self):
        if isinstance(self.block, str):
            object.__setattr__(self, "block", choose(BLOCKS, self.block, "block"))
        choose(REMAT, self.remat, "remat")
        choose(WEIGHTS, self.weights, "weights")
        super().__post_init__()

    def __hash__(self) -> int:  # so that a network can name a compiled program; a dict alone cannot
        return hash(tuple(self.streams.items()))

    def setup(self):
        squared = [k for k, s in self.streams.items() if s.head is not None and isinstance(s.process, Gaussian)]
        self.expected = {name: Uncertainty() for name in squared if self.weights == "learned"}

    def uncertainty(self, t: dict[str, Array]) -> dict[str, Array]:
        """The logarithm of the loss that is to be expected at levels t, {name: [B]}, where losses are weighted."""
        return {name: expect(t[name]) for name, expect in self.expected.items()}

    @nn.nowrap
    def init(self, key: Array) -> Any:  # type: ignore[override]
        """Parameters, as a plain dict of float32 arrays."""
        x = {name: jnp.zeros((1, *stream.shape), stream.process.dtype) for name, stream in self.streams.items()}
        return super().init(key, x, {name: jnp.ones(1) for name in x}, mutable="params")

    @nn.nowrap
    def recall(
        self, params: Any, x: dict[str, Array], t: dict[str, Array], cache: Any = None, now: Now | None = None
    ) -> tuple[dict[str, Array], Any]:
        """(predictions, cache), where the cache holds the keys and values of all tokens in every layer.

        Given a cache and now = (stream, group), only the tokens of that group are computed, and attend to all others as
        they were when they were: predictions are of that group only, and the new cache is the old one but for it.
        """
        variables = params if cache is None else {**params, "cache": cache}
        predictions, changed = self.apply(variables, x, t, now, mutable=["cache"])
        return predictions, changed["cache"]

    @nn.compact
    def __call__(self, x: dict[str, Array], t: dict[str, Array], now: Now | None = None) -> dict[str, Array]:
        if self.is_initializing():
            self.uncertainty(t)
        embedded = {
            name: stream.embed(self.width, self.dtype, name=f"{name}_embed")(x[name])
            for name, stream in self.streams.items()
        }
        spatial = {name: stream.positions for name, stream in self.streams.items() if stream.positions is not None}
        told = {}
        for name in spatial:
            process: Any = self.streams[name].process
            told[name] = process.told(t[name]).reshape(len(t[name]), -1)
        group, ends = groups(spatial, told)

        condition = LevelEmbed(self.width, name="level_embed")(jnp.concatenate(list(told.values()), 1))
        if self.block.experts == "streams":
            row = sorted(told).index  # by name, so that streams in another order are the same network
            whose = np.repeat([row(name) for name in told], [levels.shape[1] for levels in told.values()])
            condition = condition + self.param("level_offset", zeros, (len(told), self.width))[whose]
        for name in self.streams:
            if name not in spatial:
                condition = condition + embedded[name][:, None]
        condition = constrain(condition, ROWS)
        tokens = jnp.concatenate([embedded[name] for name in spatial], 1).astype(jnp.float32)
        position = np.concatenate(list(spatial.values()))
        tokens, turn = self._place(tokens, position)
        tokens = constrain(tokens, ROWS, "context")
        heard = present(self.streams, x)
        tokens = self._blocks(tokens, condition, group, turn, sight(self.streams, heard), now)

        final = nn.Dense(2 * self.width, kernel_init=zeros, dtype=self.dtype, name="final_modulation")
        shift, scale = jnp.split(to_tokens(final(nn.silu(condition)), group).astype(jnp.float32), 2, axis=-1)
        tokens = constrain(modulate(NORMS[self.block.norm](tokens), shift, scale), ROWS, "context")
        parts = dict(zip(spatial, jnp.split(tokens, ends[:-1], axis=1), strict=True))
        said = {
            name: constrain(stream.head(self.width, self.dtype, name=f"{name}_head")(parts[name]), ROWS).astype(
                jnp.float32
            )
            for name, stream in self.streams.items()
            if stream.head is not None
        }
        return said | {name: jnp.where(align(here, said[name]), said[name], 0.0) for name, here in heard.items()}

    def _place(self, tokens: Array, position: np.ndarray) -> tuple[Array, tuple[Array, Array] | None]:
        """Tokens that know where they are: by an added embedding, or by the turn that attention gives them."""
        if self.block.positions == "rotary":
            cos, sin = rotary(position, self.width // self.heads)
            return tokens, (jnp.asarray(cos), jnp.asarray(sin))
        return tokens + sincos(position, self.width), None

    def _blocks(self, tokens: Array, condition: Array, group, turn, seen: Array | None, now: Now | None) -> Array:
        """`depth` blocks as one scan over stacked parameters: compile time does not grow with depth."""
        if self.block.modulation == "shared":
            shared = nn.Dense(6 * self.width, kernel_init=zeros, dtype=self.dtype, name="modulation")
            condition = shared(nn.silu(condition))
        layer: Any = DiTBlock
        depth = self.depth
        made_of: dict[str, Any] = dict(heads=self.heads, mlp_ratio=self.mlp_ratio, block=self.block, dtype=self.dtype)
        if self.block.experts == "streams":
            every = tuple(lengths(self.streams).items())
            made_of["parts"] = every if now is None else ((now[0], place(self.streams, *now)[1]),)
        if self.block.attention == "factorised":
            layer, depth, made_of["frames"] = DiTPair, depth // 2, frames(self.streams, depth)
        if REMAT[self.remat] is not None:
            layer = nn.remat(layer, policy=REMAT[self.remat], prevent_cse=self.unroll >= depth)
        stack = nn.scan(
            layer,
            variable_axes={"params": 0, "cache": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast,) * 5,
            length=depth,
            unroll=self.unroll,
        )
        layers = stack(**made_of, name="blocks")
        if now is None:
            return layers(tokens, condition, group, turn, seen, None)[0]
        first, size = place(self.streams, *now)
        cut = lambda rows, axis=0: jax.lax.dynamic_slice_in_dim(jnp.asarray(rows), first, size, axis)
        group, turn = jax.tree.map(cut, (group, turn))
        part, _ = layers(cut(tokens, axis=1), condition, group, turn, cut(seen, axis=-2), first)
        return jax.lax.dynamic_update_slice_in_dim(tokens, part, first, axis=1)


def groups(spatial: dict[str, np.ndarray], told: dict[str, Array]) -> tuple[np.ndarray, np.ndarray]:
    """Which noise level each token has, [n], and where each stream's tokens end, [streams]."""
    group, first = [], 0
    for name, position in spatial.items():
        count = told[name].shape[1]
        group.append(first + np.repeat(np.arange(count), len(position) // count))
        first += count
    return np.concatenate(group), np.cumsum([len(position) for position in spatial.values()])


def frames(streams: Streams, depth: int) -> int:
    """How many that factorised attention goes by. Raises ValueError where it has nothing to factorise."""
    if ended := [stream.ends for stream in streams.values() if stream.ends]:
        raise ValueError(f"factorised attention takes no duration, and there is one of {ended[0]}")
    counts = {name: stream.groups for name, stream in streams.items() if stream.positions is not None}
    if len(counts) != 1 or max(counts.values()) == 1:
        raise ValueError(f"factorised attention is for one stream with frames alone, not for {', '.join(counts)}")
    if depth % 2:
        raise ValueError(f"depth = {depth} should be even: factorised attention takes blocks by twos")
    return max(counts.values())


def lengths(streams: Streams) -> dict[str, int]:
    """How many tokens each stream has, of those that have any."""
    return {name: len(stream.positions) for name, stream in streams.items() if stream.positions is not None}


def place(streams: Streams, name: str, group: int | Array) -> tuple[int | Array, int]:
    """(which of all tokens is the first of a stream's group, how many the group has)."""
    counts = lengths(streams)
    before = list(counts.values())[: list(counts).index(name)]
    size = counts[name] // streams[name].groups
    return sum(before) + group * size, size


def sight(streams: Streams, heard: dict[str, Array]) -> Array | None:
    """Which tokens [n] see which [N], [n, N] or, where durations tell what is heard, [B, 1, 1 or n, N]; None where all
    see all."""
    seen = jnp.asarray(before(streams)) if any(stream.copies for stream in streams.values()) else None
    if heard:
        every, batch = lengths(streams).items(), len(next(iter(heard.values())))
        begun = [
            heard[name][:, begins(streams[name])] if name in heard else jnp.ones((batch, n), bool) for name, n in every
        ]
        audible = jnp.concatenate(begun, axis=1)[:, None, None]
        seen = audible if seen is None else seen & audible
    return seen


def begins(stream: Stream) -> np.ndarray:
    """The value along time, the first axis of an example, with which each token [n] begins."""
    tokens, steps = len(cast(np.ndarray, stream.positions)), steps_in_time(stream)
    return np.repeat(np.arange(steps) * (stream.shape[0] // steps), tokens // steps)


def before(streams: Streams) -> np.ndarray:
    """Which tokens [n] see which [n] where a stream has a past.

    Tokens of one stream's group, or drawn at once, see each other. What comes later sees them too if they are clean by
    then, as a past is and all that is drawn before any block; a noised block is seen by none but itself.
    """
    turns, spatial = order(streams), {k: s.positions for k, s in streams.items() if s.positions is not None}
    turn = np.concatenate([np.repeat(turns[k], len(p) // turns[k].size) for k, p in spatial.items()])
    copy = np.concatenate([np.full(len(p), bool(streams[k].copies)) for k, p in spatial.items()])
    together = np.equal.outer(turn, turn) & np.equal.outer(copy, copy)
    return together | (np.greater.outer(turn, turn) & (copy | (turn == 0)))
