"""Published weights of DiT and SiT for network/dit.py, and ours as published ones.

A table says where a layout keeps each of our layers, and one walk over it goes both ways: every parameter has one
source, every key has one use, and what is read has to write the very file that it came from.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from einops import rearrange

from dit_jax.diffusion.gaussian import Gaussian, one_minus_t, velocity
from dit_jax.network.dit import SIZES, DiT
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
POSITIONS = "pos_embed"  # the frozen table of sin-cos positions, [1, tokens, width], which is in ORIGINAL files only

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
LARGEST = 256  # patches along a side; config.json may say anything


class Sizes(NamedTuple):
    """What a file holds: latents [side, side, channels] in patches, and values predicted for each channel."""

    side: int
    channels: int
    patch: int
    outputs: int
    classes: int
    width: int
    depth: int
    heads: int


def layout_of(tensors: dict[str, Any]) -> Layout:
    """The layout of a file, by how it calls the patch embedding. Raises ValueError."""
    first = {f"{layout['image_embed/patches'][0]}.weight": layout for layout in (ORIGINAL, DIFFUSERS)}
    for key, layout in first.items():
        if key in tensors:
            return layout
    there = ", ".join(map(repr, itertools.islice(tensors, 3))) or "nothing"
    raise ValueError(f"this is no DiT: it has neither {' nor '.join(first)}, but {there}, ...; give a DiT's or a SiT's")


def sizes(layout: Layout, tensors: dict[str, Any], config: dict, heads: int | None = None) -> Sizes:
    """Read sizes off shapes, and off diffusers' config.json, {} where there is none.

    heads: of attention, which shapes do not show; None: as the config says, or as published for this width and depth.

    Raises ValueError for what cannot be a DiT, or does not say how large it is.
    """

    def shape(key: str, rank: int) -> tuple[int, ...]:
        if key not in tensors:
            raise ValueError(f"{key} is missing")
        if len(tensors[key].shape) != rank:
            raise ValueError(f"{key} has the shape {tensors[key].shape}, and should have {rank} axes")
        return tensors[key].shape

    for name, wanted in FIXED.items():
        if config.get(name, wanted) != wanted:
            raise ValueError(f"config.json has {name} = {config[name]!r}, and a DiT has {wanted!r}")
    embed, label, head, block = (
        layout[layer][0] for layer in ("image_embed/patches", "label_embed", "image_head/patches", "blocks/modulation")
    )
    width, channels, patch, _ = shape(f"{embed}.weight", 4)
    classes = shape(f"{label.format(i=0)}.weight", 2)[0] - 1
    (values,) = shape(f"{head}.bias", 1)
    before = block.partition("{i}")[0]
    depth = len({key.removeprefix(before).partition(".")[0] for key in tensors if key.startswith(before)})
    outputs = {n * patch**2 * channels: n for n in (1, 2)}
    if min(width, channels, patch, classes, depth) < 1 or values not in outputs:
        raise ValueError(
            f"this is no DiT: of {patch} x {patch} patches of {channels} channels it makes {values} values, in {depth} "
            f"blocks of width {width} for {classes} classes"
        )
    if layout is ORIGINAL:
        side = patch * math.isqrt(shape(POSITIONS, 3)[1])
    else:
        side = _whole(config, "sample_size", "put the published config.json beside the weights")
    if side % patch or not 0 < side // patch <= LARGEST:
        raise ValueError(f"latents of {side} x {side} are not 1 to {LARGEST} patches of {patch} wide")
    if heads is None:
        known = {size[:2]: {"num_attention_heads": size[2]} for size in SIZES.values()}
        otherwise = f"width {width} and depth {depth} are no published size, so say it with --heads"
        heads = _whole(known.get((width, depth), {}) | config, "num_attention_heads", otherwise)
    return Sizes(side, channels, patch, outputs[values], classes, width, depth, heads)


def load(layout: Layout, tensors: dict[str, Any], model: DiT) -> Any:
    """The parameters of `model` from published ones, as float32 NumPy arrays.

    Raises ValueError that names the first key that is missing, of another shape or of no use; or says that the table of
    positions is not DiT's, or that the blocks' copies of the embeddings differ.
    """
    ours = jax.eval_shape(model.init, jax.random.key(0))
    wanted = jax.eval_shape(functools.partial(store, layout, model), ours)
    for key, leaf in wanted.items():
        if key not in tensors:
            raise ValueError(f"{key} is missing, of shape {leaf.shape}")
        if tensors[key].shape != leaf.shape:
            raise ValueError(f"{key} has the shape {tensors[key].shape}, where {leaf.shape} belongs")
    for key in sorted(tensors.keys() - wanted.keys()):
        raise ValueError(f"{key!r}, of shape {tensors[key].shape}, is no part of this network")

    params = jax.tree.map(lambda leaf: np.empty(leaf.shape, np.float32), ours)
    for path, leaf in _leaves(params):
        for key, place in _places(layout, path, leaf, model.depth):
            leaf[place] = _signed(model, path, rearrange(tensors[key], _axes(path)))

    for key, array in store(layout, model, params).items():
        if key == POSITIONS:
            if not np.allclose(tensors[key], array, rtol=0, atol=1e-5):
                raise ValueError(f"{key} is not DiT's table of sines and cosines: these positions were learned")
        elif not np.array_equal(tensors[key], array, equal_nan=True):
            raise ValueError(f"{key} differs from block to block: this network was trained with separate embeddings")
    return params


def store(layout: Layout, model: DiT, params: Any) -> dict[str, Any]:
    """Parameters of `model` under published keys. They are views as far as they can be, one for all copies."""
    found = {}
    for path, leaf in _leaves(params):
        theirs, _, ours = _axes(path).partition(" -> ")
        patch = {"p": _patch(model, params), "q": _patch(model, params)} if "(" in ours else {}
        for key, place in _places(layout, path, leaf, model.depth):
            found[key] = _signed(model, path, rearrange(leaf[place], f"{ours} -> {theirs}", **patch))
    if layout is ORIGINAL:
        found[POSITIONS] = sincos(np.asarray(model.streams["image"].positions), model.width)[None]
    return found


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


def _whole(config: dict, name: str, otherwise: str) -> int:
    """A positive integer of config.json. Raises ValueError, with what to do if it is not there."""
    if name not in config:
        raise ValueError(f"nothing says {name}: {otherwise}")
    if type(config[name]) is not int or config[name] < 1:
        raise ValueError(f"config.json has {name} = {config[name]!r}, which should be a positive integer")
    return config[name]
