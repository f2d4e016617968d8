"""The denoiser: a diffusion transformer (DiT) over the tokens of all streams.

    embed every stream -> timestep embedding and conditioning -> positions -> blocks with adaLN-zero -> final layer

Tokens that share a noise level form a group: a stream, or a frame of one. Modulation is computed once a group and
gathered to tokens; with one group it is exactly DiT's, at DiT's cost. Layers are in layers.py, masks in layout.py.

Axes: B batch, n tokens (queries), N tokens (keys), D width, h heads, d head width, G groups, each at its own noise
level.
"""

import functools
from typing import Annotated, Any, Literal, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.stream import Arrays, Levels, Streams, check_inputs, drawable, valid_mask
from dit_jax.names import ConfigError
from dit_jax.network import layout
from dit_jax.network.layers import (
    BLOCKS,
    MLP,
    NORMS,
    Attention,
    Block,
    Experts,
    LevelEmbed,
    by_expert,
    modulate,
    tap,
    to_tokens,
    zeros,
)
from dit_jax.network.tokens import rotary, sincos
from dit_jax.parallel.mesh import ROWS, constrain
from dit_jax.schema import Range, called, check_fields

Target = tuple[str, int | Array]  # a stream, and which of its groups

# (width, depth, heads) of the published sizes.
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,  # keep matrix products, recompute the rest
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Uncertainty(nn.Module):
    """The logarithm of the loss to be expected of a stream at its level, [B]: a learned loss weight (EDM2).

    0 at initialisation, and at t = 0, where there is none. Within bounds, so that nothing learned by heart weighs
    without end."""

    width: int = 64
    most: float = 4.0

    @nn.compact
    def __call__(self, t: Array) -> Array:
        t = t.reshape(t.shape[0], -1)
        x = nn.silu(LevelEmbed(self.width, name="level")(1000.0 * t))
        u = self.most * jnp.tanh(nn.Dense(1, kernel_init=zeros, name="out")(x)[..., 0] / self.most)
        return jnp.mean(jnp.where(t > 0, u, 0.0), axis=1)


class DiTBlock(nn.Module):
    """A transformer block with adaLN-zero: gated attention and MLP, all gates zero at first, so it begins as the
    identity."""

    heads: int
    mlp_ratio: float
    block: Block
    dtype: Any
    experts: Experts = ()
    view: str = "all"
    frames: int = 1

    @nn.compact
    def __call__(
        self,
        x: Array,
        condition: Array,
        level: np.ndarray,
        rope: tuple[Array, Array] | None,
        mask: Array | None = None,
        offset: int | Array | None = None,
    ) -> tuple[Array, None]:
        """x [B, n, D]; condition [B, G, D], or [B, G, 6 D] where modulation is shared; level [n] of each token; rope,
        mask and offset as in Attention."""
        width = x.shape[-1]
        x, condition = constrain(x, ROWS, "context"), constrain(condition, ROWS)
        if self.block.modulation == "shared":
            condition = condition + self.param("modulation", zeros, (6 * width,))
        else:
            condition = nn.Dense(6 * width, kernel_init=zeros, dtype=self.dtype, name="modulation")(nn.silu(condition))
        modulation = tap(self, "modulation", to_tokens(condition, level).astype(x.dtype))
        chunks = jnp.split(modulation, 6, axis=-1)
        norm = NORMS[self.block.norm]

        shift, scale, gate = chunks[:3]
        attention = Attention(
            self.heads, self.block, self.dtype, self.experts, self.view, self.frames, name="attention"
        )
        attended = attention(modulate(norm(x), shift, scale), rope, mask, offset)
        x = x + tap(self, "attention_gate", gate) * tap(self, "attention_out", attended)

        shift, scale, gate = chunks[3:]
        mlp = by_expert(self.experts, lambda name: MLP(self.mlp_ratio, self.block, self.dtype, name=name), "mlp")
        x = x + tap(self, "mlp_gate", gate) * tap(self, "mlp_out", mlp(modulate(norm(x), shift, scale)))
        return constrain(tap(self, "residual", x), ROWS, "context"), None


class DiTPair(nn.Module):
    """Factorised attention: a block in which the tokens of each frame attend to each other (spatial), then one for the
    tokens of each place (temporal; Latte, Ma et al. 2024). F frames of P places have n (F + P) scores instead of n F P.
    """

    heads: int
    mlp_ratio: float
    block: Block
    dtype: Any
    frames: int
    experts: Experts = ()

    @nn.compact
    def __call__(self, x: Array, *others: Any) -> tuple[Array, None]:
        for view in ("frame", "place"):
            sizes = self.heads, self.mlp_ratio, self.block, self.dtype, self.experts
            x, _ = DiTBlock(*sizes, view, self.frames, name=view)(x, *others)
        return x, None


class DiT(nn.Module):
    """A diffusion transformer: predict(x, t), each stream's prediction: x0, noise, v ..., as its process says.

    x: {name: [B, *shape]}, t: {name: [B] or [B, G]} in [0, 1] -> {name: prediction} of every stream with a head.
    Parameters and the residual path are float32; `dtype` is that of matrix products. block: a Block, or a call of a row
    of BLOCKS, such as "modern" or "modern(norm='layer')". remat: what the backward pass computes again, a row of REMAT.
    unroll: layers a turn of the loop over them. weights: whether the losses of streams and levels count alike, or
    squared errors as the network learns to expect them (see `objective.total`): they become log-likelihoods, which
    cross entropies are as they stand. attention: to all tokens, or by turns to those of a frame and those of a place
    (factorised). experts: the same weights for all tokens, or for those of each stream their own.

    Raises ConfigError for a name that does not exist, for a number out of range, and for heads that do not divide the
    width; ValueError for streams that factorised attention does not suit, and when it is applied, while it is traced,
    for x and t of other names, shapes and types.
    """

    streams: Streams
    width: Annotated[int, Range(at_least=1)] = 384
    depth: Annotated[int, Range(at_least=1)] = 12
    heads: Annotated[int, Range(at_least=1)] = 6
    mlp_ratio: Annotated[float, Range(above=0)] = 4.0
    block: Block | str = "published"
    dtype: Annotated[Any, DTYPES] = jnp.float32
    remat: Annotated[str, REMAT] = "dots"
    unroll: Annotated[int, Range(at_least=1)] = 1
    weights: Literal["alike", "learned"] = "alike"
    attention: Literal["full", "factorised"] = "full"
    experts: Literal["none", "streams"] = "none"

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "block", called(self.block, BLOCKS, "block"))
        if self.width % self.heads:
            raise ConfigError(f"heads = {self.heads} does not divide width = {self.width}")
        if self.attention == "factorised":
            layout.frame_count(self.streams, self.depth)
        super().__post_init__()

    @property
    def _block(self) -> Block:  # which it is by now
        return cast(Block, self.block)

    def __hash__(self) -> int:  # so that a network can name a compiled program; a dict alone cannot
        return hash(tuple(self.streams.items()))

    def setup(self) -> None:
        squared = [name for name, stream in drawable(self.streams).items() if stream.process.is_continuous]
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
    def apply_with_cache(
        self, params: Any, x: dict[str, Array], t: dict[str, Array], cache: Any = None, target: Target | None = None
    ) -> tuple[dict[str, Array], Any]:
        """KV-cached evaluation: (predictions, cache of the keys and values of all tokens in every layer).

        Given a cache and a target, (stream, group), only the tokens of that group are run; keys and values of all other
        tokens come from the cache. Predictions are of that group only, and its slots in the new cache are its own.
        """
        variables = params if cache is None else {**params, "cache": cache}
        predictions, changed = self.apply(variables, x, t, target, mutable=["cache"])
        return predictions, changed["cache"]

    @nn.compact
    def __call__(self, x: Arrays, t: Levels, target: Target | None = None) -> Arrays:
        check_inputs(self.streams, x, t)
        if self.is_initializing():
            self.uncertainty(t)
        embedded = {
            name: stream.embed(self.width, self.dtype, name=f"{name}_embed")(x[name])
            for name, stream in self.streams.items()
        }
        counts = layout.token_counts(self.streams)
        times = {name: self._time_input(name, t[name]) for name in counts}
        level = layout.level_of_token(counts, {name: time.shape[1] for name, time in times.items()})
        condition = self._condition(times, embedded)

        tokens = jnp.concatenate([embedded[name] for name in counts], 1).astype(jnp.float32)
        tokens, rope = self._add_positions(tokens)
        tokens = constrain(tokens, ROWS, "context")
        valid = valid_mask(self.streams, x)
        tokens = self._blocks(tokens, condition, level, rope, layout.attention_mask(self.streams, valid), target)

        predictions = self._final_layer(tokens, condition, level)
        cut = {name: jnp.where(align(here, predictions[name]), predictions[name], 0.0) for name, here in valid.items()}
        return predictions | cut

    def _time_input(self, name: str, t: Array) -> Array:
        """What the timestep embedding is fed for the levels of a stream, [B, G]."""
        process: Any = self.streams[name].process
        return process.time_input(t).reshape(t.shape[0], -1)

    def _condition(self, times: dict[str, Array], embedded: dict[str, Array]) -> Array:
        """The conditioning vector of every noise level, [B, G, D]: its timestep embedding, and all streams that have no
        tokens, such as a class label."""
        condition = LevelEmbed(self.width, name="level_embed")(jnp.concatenate(list(times.values()), 1))
        if self.experts == "streams":
            row = sorted(times).index  # by name, so that streams in another order are the same network
            stream_of_level = np.repeat([row(name) for name in times], [time.shape[1] for time in times.values()])
            condition = condition + self.param("level_offset", zeros, (len(times), self.width))[stream_of_level]
        for name in self.streams:
            if name not in times:
                condition = condition + embedded[name][:, None]
        return constrain(condition, ROWS)

    def _add_positions(self, tokens: Array) -> tuple[Array, tuple[Array, Array] | None]:
        """(tokens, RoPE): positions are added to tokens, or rotate queries and keys in attention."""
        positions = np.concatenate([s.positions for s in self.streams.values() if s.positions is not None])
        if self._block.positions == "rotary":
            cos, sin = rotary(positions, self.width // self.heads)
            return tokens, (jnp.asarray(cos), jnp.asarray(sin))
        return tokens + sincos(positions, self.width), None

    def _blocks(
        self,
        tokens: Array,
        condition: Array,
        level: np.ndarray,
        rope: tuple[Array, Array] | None,
        mask: Array | None,
        target: Target | None,
    ) -> Array:
        """`depth` transformer blocks as one scan over stacked parameters: compile time does not grow with depth."""
        if self._block.modulation == "shared":
            shared = nn.Dense(6 * self.width, kernel_init=zeros, dtype=self.dtype, name="modulation")
            condition = shared(nn.silu(condition))
        layer: Any = DiTBlock
        depth = self.depth
        options: dict[str, Any] = dict(heads=self.heads, mlp_ratio=self.mlp_ratio, block=self._block, dtype=self.dtype)
        if self.experts == "streams":
            every = tuple(layout.token_counts(self.streams).items())
            options["experts"] = every if target is None else ((target[0], self._slice(target)[1]),)
        if self.attention == "factorised":
            layer, depth, options["frames"] = DiTPair, depth // 2, layout.frame_count(self.streams, depth)
        if REMAT[self.remat] is not None:  # without a loop, only a barrier keeps the second computation apart
            layer = nn.remat(layer, policy=REMAT[self.remat], prevent_cse=self.unroll >= depth)
        stack = nn.scan(
            layer,
            variable_axes={"params": 0, "cache": 0, "taps": 0, "edits": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast,) * 5,
            length=depth,
            unroll=self.unroll,
        )
        layers = stack(**options, name="blocks")
        if target is None:
            return layers(tokens, condition, level, rope, mask, None)[0]
        first, size = self._slice(target)
        cut = lambda rows, axis=0: jax.lax.dynamic_slice_in_dim(jnp.asarray(rows), first, size, axis)
        level, rope = jax.tree.map(cut, (level, rope))
        part, _ = layers(cut(tokens, axis=1), condition, level, rope, cut(mask, axis=-2), first)
        return jax.lax.dynamic_update_slice_in_dim(tokens, part, first, axis=1)

    def _slice(self, target: Target) -> tuple[int | Array, int]:
        return layout.token_slice(self.streams, *target)

    def _final_layer(self, tokens: Array, condition: Array, level: np.ndarray) -> dict[str, Array]:
        """Norm, modulation, and each stream's head: {name: prediction}."""
        final = nn.Dense(2 * self.width, kernel_init=zeros, dtype=self.dtype, name="final_modulation")
        shift, scale = jnp.split(to_tokens(final(nn.silu(condition)), level).astype(jnp.float32), 2, axis=-1)
        tokens = constrain(modulate(NORMS[self._block.norm](tokens), shift, scale), ROWS, "context")
        counts = layout.token_counts(self.streams)
        parts = dict(zip(counts, jnp.split(tokens, np.cumsum([*counts.values()])[:-1], axis=1), strict=True))
        heads = {
            name: cast(Any, stream.head)(self.width, self.dtype, name=f"{name}_head")
            for name, stream in drawable(self.streams).items()
        }
        return {name: constrain(head(parts[name]), ROWS).astype(jnp.float32) for name, head in heads.items()}


@functools.lru_cache(maxsize=32)
def parameter_shapes(model: DiT) -> Any:
    """Shapes and types of a network's parameters, as `init` would make them; nothing is computed."""
    return jax.eval_shape(model.init, jax.random.key(0))
