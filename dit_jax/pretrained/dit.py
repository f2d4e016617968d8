"""Published weights of DiT and SiT for network/dit.py, and ours as published ones.

A table says where a layout keeps each of our layers, and one walk over it goes both ways: every parameter has one
source, every key has one use, and what is read has to write the very file that it came from.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from dit_jax.diffusion.gaussian import Gaussian, one_minus_t, velocity
from dit_jax.network.dit import DiT
from dit_jax.network.layers import PUBLISHED
from dit_jax.network.tokens import sincos

Layout = dict[str, tuple[str, ...]]

# Our layer -> the published ones, which lie side by side in it where there are several. {i} is the number of a block;
# where a layer is none of our blocks', each of theirs has a copy.
ORIGINAL: Layout = {  # facebookresearch/DiT and willisma/SiT
    "image_embed/patches": ("x_embedder.proj",),
    "level_embed/in": ("t_embedder.mlp.0",),
    "level_embed/out": ("t_embedder.mlp.2",),
    "label_embed": ("y_embedder.embedding_table",),
    "blocks/modulation": ("blocks.{i}.adaLN_modulation.1",),
    "blocks/attention/qkv": ("blocks.{i}.attn.qkv",),
    "blocks/attention/out": ("blocks.{i}.attn.proj",),
    "blocks/mlp/in": ("blocks.{i}.mlp.fc1",),
    "blocks/mlp/out": ("blocks.{i}.mlp.fc2",),
    "final_modulation": ("final_layer.adaLN_modulation.1",),
    "image_head/patches": ("final_layer.linear",),
}
DIFFUSERS: Layout = {  # DiTTransformer2DModel
    "image_embed/patches": ("pos_embed.proj",),
    "level_embed/in": ("transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_1",),
    "level_embed/out": ("transformer_blocks.{i}.norm1.emb.timestep_embedder.linear_2",),
    "label_embed": ("transformer_blocks.{i}.norm1.emb.class_embedder.embedding_table",),
    "blocks/modulation": ("transformer_blocks.{i}.norm1.linear",),
    "blocks/attention/qkv": tuple(f"transformer_blocks.{{i}}.attn1.to_{part}" for part in "qkv"),
    "blocks/attention/out": ("transformer_blocks.{i}.attn1.to_out.0",),
    "blocks/mlp/in": ("transformer_blocks.{i}.ff.net.0.proj",),
    "blocks/mlp/out": ("transformer_blocks.{i}.ff.net.2",),
    "final_modulation": ("proj_out_1",),
    "image_head/patches": ("proj_out_2",),
}
FIRST = {f"{layout['image_embed/patches'][0]}.weight": layout for layout in (ORIGINAL, DIFFUSERS)}  # by which key
POSITIONS = "pos_embed"  # the frozen table of sin-cos positions, [1, tokens, width], which is in ORIGINAL files only

TABLE = "embedding_table.weight"  # ends the keys of embeddings of labels in both

LEAVES = {"kernel": "weight", "embedding": "weight", "bias": "bias"}
# Published axes -> ours: PyTorch keeps (out, in).
AXES = {"kernel": "o i -> i o", "embedding": "n d -> n d", "bias": "o -> o"}
PATCHES = "d c p q -> (p q c) d"  # a convolution whose stride is its size is a matrix product of patches

# What diffusers' config.json has to say, where it does, for the network to be ours.
FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "norm_type": "ada_norm_zero",
}

# What networks derived from DiT have more, by a word in its keys.
EXTRAS = {
    "q_norm": "a norm of queries (QK norm)",
    "k_norm": "a norm of keys (QK norm)",
    "norm": "a norm with weights",
    "rope": "rotary positions",
    "freqs": "rotary positions",
    "w12": "SwiGLU",
    "w3": "SwiGLU",
    "cross_attn": "attention to another sequence, such as a text",
    "caption": "an embedding of texts",
    "lora": "a LoRA, which has to be merged into the weights",
    "projector": "a projector of REPA, which samplers do not use",
    "experts": "a mixture of experts",
}


def layout_of(tensors: dict[str, Any]) -> Layout:
    """The layout of a file, by how it calls the patch embedding. Raises ValueError."""
    for key, layout in FIRST.items():
        if key in tensors:
            return layout
    there = ", ".join(map(repr, itertools.islice(tensors, 3))) or "nothing"
    raise ValueError(f"this is no DiT: it has neither {' nor '.join(FIRST)}, but {there}, ...; give a DiT's or a SiT's")


def load(layout: Layout, tensors: dict[str, Any], model: DiT) -> Any:
    """The parameters of `model` from published ones, as float32 NumPy arrays.

    Raises ValueError that names the first key that is missing, of another shape or of no use; or says that the table of
    positions is not DiT's, or that the blocks' copies of the embeddings differ.
    """
    ours = jax.eval_shape(model.init, jax.random.key(0))
    wanted = jax.eval_shape(functools.partial(store, layout, model), ours)
    tensors = _completed(layout, tensors, model)
    for key, leaf in wanted.items():
        if key not in tensors:
            raise ValueError(f"{key} is missing, of shape {leaf.shape}")
        if tensors[key].shape != leaf.shape:
            raise ValueError(f"{key} has the shape {tensors[key].shape}, where {leaf.shape} belongs")
    if more := sorted(tensors.keys() - wanted.keys()):
        raise ValueError(_unexpected(more, tensors[more[0]].shape))

    params = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), ours)
    for path, leaf in _leaves(params):
        for key, place in _places(layout, path, leaf, model.depth):
            leaf[place] = _signed(model, path, rearrange(tensors[key], _axes(path)))

    for key, array in store(layout, model, params).items():
        if key == POSITIONS:
            if not np.allclose(tensors[key].astype(np.float32), array, rtol=_rounding(tensors[key]), atol=1e-5):
                raise ValueError(f"{key} is not DiT's table of sines and cosines: these positions were learned")
        elif not np.array_equal(tensors[key], array, equal_nan=True):
            raise ValueError(f"{key} differs from block to block: this network was trained with separate embeddings")
    return params


def _completed(layout: Layout, tensors: dict[str, Any], model: DiT) -> dict[str, Any]:
    """The same, with what a file may lack: the table of positions; and the null class where labels are never hidden,
    which nothing asks for, as 0."""
    found = {POSITIONS: _positions(model)} | tensors if layout is ORIGINAL else dict(tensors)
    label = model.streams["label"]
    for key in [key for key in found if key.endswith(TABLE) and label.always_given]:
        if len(found[key]) == label.process.vocabulary:
            found[key] = np.concatenate([found[key], np.zeros_like(found[key][:1])])
    return found


def store(layout: Layout, model: DiT, params: Any) -> dict[str, Any]:
    """Parameters of `model` under published keys. They are views as far as they can be, one for all copies."""
    found = {}
    for path, leaf in _leaves(params):
        theirs, _, ours = _axes(path).partition(" -> ")
        patch = {"p": _patch(model, params), "q": _patch(model, params)} if "(" in ours else {}
        for key, place in _places(layout, path, leaf, model.depth):
            found[key] = _signed(model, path, rearrange(leaf[place], f"{ours} -> {theirs}", **patch))
    if layout is ORIGINAL:
        found[POSITIONS] = _positions(model)
    return found


def _positions(model: DiT) -> np.ndarray:
    """DiT's frozen table of sines and cosines, [1, tokens, width]."""
    return np.asarray(sincos(np.asarray(model.streams["image"].positions), model.width))[None]


def _rounding(x: np.ndarray) -> float:
    """The machine epsilon of the coarsest type that holds every number of an array: what a file in half precision has
    been rounded by, also where it was made float32 again."""
    for dtype in (jnp.bfloat16, jnp.float16):
        if np.array_equal(x, x.astype(dtype)):
            return float(jnp.finfo(dtype).eps)
    return 0.0


def _unexpected(keys: list[str], shape: tuple[int, ...]) -> str:
    """That there are keys which DiT has not, the shape of the first, and what they are as far as that is known."""
    named = (next((what for word, what in EXTRAS.items() if word in key), "") for key in keys)
    kinds = ", ".join(filter(None, dict.fromkeys(named)))
    rest = f", with {len(keys) - 1} more" if len(keys) > 1 else ""
    known = f": {kinds}, which DiT as published has not" if kinds else ""
    return f"{keys[0]!r}, of shape {shape}, is no part of this network{rest}{known}"


def diffusers_config(model: DiT, params: Any) -> dict:
    """The config.json with which DiTTransformer2DModel is this network. Raises ValueError if it cannot be."""
    is_plain = model.block == PUBLISHED and model.mlp_ratio == 4 and model.experts == "none"
    if not is_plain or model.attention != "full" or model.streams.keys() != {"image", "label"}:
        raise ValueError(
            "this run is no DiT as published: that takes model.block='published', model.mlp_ratio=4 and the streams "
            "image and label"
        )
    height, side, channels = model.streams["image"].shape
    if height != side:
        raise ValueError(f"diffusers' DiT draws squares, and this run draws {height} x {side}")
    patch, flat = _patch(model, params), dict(_leaves(params))
    return {
        "_class_name": "DiTTransformer2DModel",
        **FIXED,
        "num_attention_heads": model.heads,
        "attention_head_dim": model.width // model.heads,
        "num_layers": model.depth,
        "in_channels": channels,
        "out_channels": len(flat["image_head/patches/bias"]) // patch**2,
        "sample_size": side,
        "patch_size": patch,
        "num_embeds_ada_norm": len(flat["label_embed/embedding"]) - 1,
        "norm_eps": 1e-6,  # DiT's, and not diffusers' default
    }


def _leaves(params: Any) -> Iterator[tuple[str, Any]]:
    """("blocks/mlp/in/kernel", array) of every parameter."""
    for path, leaf in jax.tree.leaves_with_path(params["params"]):
        yield "/".join(entry.key for entry in path), leaf


def _places(layout: Layout, path: str, leaf: Any, depth: int) -> Iterator[tuple[str, tuple]]:
    """Where a layout keeps a parameter: the keys, and the part of our array that each of them is."""
    layer, _, kind = path.rpartition("/")
    names = layout[layer]
    columns = leaf.shape[-1] // len(names)
    for block in range(depth if "{i}" in names[0] else 1):
        for part, name in enumerate(names):
            place = (..., slice(part * columns, (part + 1) * columns))
            own = (block, *place) if layer.startswith("blocks/") else place
            yield f"{name.format(i=block)}.{LEAVES[kind]}", own


def _axes(path: str) -> str:
    return PATCHES if path == "image_embed/patches/kernel" else AXES[path.rpartition("/")[2]]


def _signed(model: DiT, path: str, x: Any) -> Any:
    """SiT's time runs from noise to data, so its velocity is the opposite of ours."""
    process = model.streams["image"].process
    opposite = process.predicts(velocity) and cast(Gaussian, process).clock is one_minus_t
    return -x if opposite and path.startswith("image_head/") else x


def _patch(model: DiT, params: Any) -> int:
    """The side of a patch, which the first kernel [patch * patch * channels, width] tells."""
    kernel = params["params"]["image_embed"]["patches"]["kernel"]
    return math.isqrt(len(kernel) // model.streams["image"].shape[-1])
