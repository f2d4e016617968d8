"""How large the network in a file is: read off shapes, diffusers' config.json, and what its training says of it."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dit_jax.network.dit import SIZES
from dit_jax.pretrained.dit import FIXED, ORIGINAL, POSITIONS, Layout

LARGEST = 256  # patches along a side; config.json may say anything
DROPOUT = 0.1  # of labels, where a file does not say

# What shapes do not show, by the names that the arguments of training have for it.
SAID = {
    "num_classes": "classes",
    "class_dropout_prob": "dropout",
    "cfg_prob": "dropout",
    "num_heads": "heads",
    "input_size": "side",
}
PIXELS = "image_size"  # along a side, eight times as many as latents


class Sizes(NamedTuple):
    """What a file holds: latents [side, side, channels] in patches, values predicted for each channel, and how often
    labels were hidden in training, 0 for never: then there need be no null class."""

    side: int
    channels: int
    patch: int
    outputs: int
    classes: int
    width: int
    depth: int
    heads: int
    dropout: float = DROPOUT


def said(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the arguments of a network's training say of it that shapes do not: classes, dropout, heads and side, as far
    as they are there."""
    found = {ours: settings[name] for name, ours in SAID.items() if type(settings.get(name)) in (int, float)}
    if "side" not in found and type(settings.get(PIXELS)) is int:
        found["side"] = settings[PIXELS] // 8
    return {name: value for name, value in found.items() if type(value) is int or name == "dropout"}


def sizes(
    layout: Layout,
    tensors: dict[str, Any],
    config: dict,
    heads: int | None = None,
    known: Mapping[str, Any] = {},
) -> Sizes:
    """Read sizes off shapes, diffusers' config.json, {} where there is none, and what else is known: see `said`.

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
    table = f"{label.format(i=0)}.weight"
    classes, dropout = _classes(table, shape(table, 2)[0], known)
    (values,) = shape(f"{head}.bias", 1)
    before = block.partition("{i}")[0]
    depth = len({key.removeprefix(before).partition(".")[0] for key in tensors if key.startswith(before)})
    outputs = {n * patch**2 * channels: n for n in (1, 2)}
    if min(width, channels, patch, classes, depth) < 1 or values not in outputs:
        raise ValueError(
            f"this is no DiT: of {patch} x {patch} patches of {channels} channels it makes {values} values, in {depth} "
            f"blocks of width {width} for {classes} classes"
        )
    if layout is ORIGINAL and POSITIONS in tensors:
        side = patch * math.isqrt(shape(POSITIONS, 3)[1])
    elif layout is ORIGINAL:
        otherwise = f"{POSITIONS} is missing, which shows how large latents are: say --side, 32 for 256 pixels"
        side = _whole(dict(known), "side", otherwise)
    else:
        otherwise = "nothing says sample_size: put the published config.json beside the weights"
        side = _whole(config, "sample_size", otherwise)
    if side % patch or not 0 < side // patch <= LARGEST:
        raise ValueError(f"latents of {side} x {side} are not 1 to {LARGEST} patches of {patch} wide")
    if heads is None:
        published = {size[:2]: size[2] for size in SIZES.values()}.get((width, depth))
        config = {"num_attention_heads": known.get("heads", published)} | config
        otherwise = f"width {width} and depth {depth} are no published size, so say it with --heads"
        heads = _whole(config, "num_attention_heads", f"nothing says num_attention_heads: {otherwise}")
    return Sizes(side, channels, patch, outputs[values], classes, width, depth, heads, dropout)


def _classes(key: str, rows: int, known: Mapping[str, Any]) -> tuple[int, float]:
    """(classes, label dropout) of a table with so many rows. The last is the null class, unless labels were never
    hidden, which a table of one row shows too. Raises ValueError for what does not go together."""
    dropout = known.get("dropout")
    classes = known.get("classes", rows if dropout == 0 or rows == 1 else rows - 1)
    if (rows == classes and not dropout) or (rows == 1 and classes in (0, 1)):
        return rows, 0.0
    if rows != classes + 1:
        what = f"{classes} classes" + ("" if dropout is None else f" and a label dropout of {dropout}")
        raise ValueError(
            f"{key} has {rows} rows, which do not go with {what}: with a null class it is one row more; say --classes"
        )
    return classes, DROPOUT if dropout is None else dropout


def _whole(config: dict, name: str, otherwise: str) -> int:
    """A positive integer of config.json. Raises ValueError, with what to do if it is not there."""
    if config.get(name) is None:
        raise ValueError(otherwise)
    if type(config[name]) is not int or config[name] < 1:
        raise ValueError(f"config.json has {name} = {config[name]!r}, which should be a positive integer")
    return config[name]
