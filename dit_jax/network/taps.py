"""Activations of a network by name: read by taps, changed by edits, as a pure function returns and takes them.

Both are collections of variables beside the parameters, which blocks look for (`layers.tap`). Where there is none, the
program is the one without them. So an edited network is parameters like any other: samplers, guidance and likelihoods
take `edited(model, params, edits)` where they take params.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax import Array

from dit_jax.diffusion.stream import Arrays, Levels
from dit_jax.names import check_names
from dit_jax.network.dit import DiT

# What can be read and changed in every block, and its axes; m is n, or 1 where all tokens are at one level.
TAPS = {
    "modulation": "B m 6D",
    "attention_gate": "B m D",
    "attention_out": "B n D",
    "mlp_gate": "B m D",
    "mlp_out": "B n D",
    "residual": "B n D",  # after the block
    "heads": "B n h d",  # the output of each head, before their projection
    "probabilities": "B h n N",  # of attention, which is then computed without a fused kernel
}
IN_ATTENTION = ("heads", "probabilities")


class Edit(NamedTuple):
    """value -> scale * value + offset: both are broadcast against the value as a tap returns it, [depth, B, ...].

    block: the only one that is edited, a number that may be traced; None for all. Edit(0.0, block=2) is an ablation,
    Edit(0.0, other, block=2) a replacement.
    """

    scale: Any = 1.0
    offset: Any = 0.0
    block: Any = None


Edits = Mapping[str, Edit]


def tapped(model: DiT, params: Any) -> Callable[..., tuple[Arrays, Arrays]]:
    """look(x, t, taps=(), edits={}) -> (predictions, {name: [depth, B, ...]} of the names in taps).

    taps, and the keys of edits, are rows of TAPS. Raises ValueError for a name or a block that does not exist, and for
    an edit that does not fit its value.
    """

    def look(x: Arrays, t: Levels, taps: Iterable[str] = (), edits: Mapping[str, Edit] = {}) -> tuple[Arrays, Arrays]:
        check_names(taps := [*taps], TAPS, "taps: the value")
        asked = {path: jnp.zeros(model.depth // len(paths)) for paths in map(paths_of, taps) for path in paths}
        variables = {**edited(model, params, edits), "taps": unflatten_dict(asked)}
        predictions, changed = model.apply(variables, x, t, mutable=["taps"])
        values = flatten_dict(changed.get("taps", {}))
        in_turns = {name: jnp.stack([values[path] for path in paths_of(name)], axis=1) for name in taps}
        return predictions, {name: v.reshape(model.depth, *v.shape[2:]) for name, v in in_turns.items()}

    paths_of = lambda name: _paths(model, name)
    return look


def edited(model: DiT, params: Any, edits: Edits) -> Any:
    """The parameters with edits beside them, for whatever evaluates the network. Raises ValueError as `tapped` does."""
    check_names(edits, TAPS, "edits: the value")
    variables: dict[tuple[str, ...], Any] = {}
    for name, edit in edits.items():
        line, paths = _by_block(model, name, edit), _paths(model, name)
        variables |= {path: tuple(side[i :: len(paths)] for side in line) for i, path in enumerate(paths)}
    return {**params, "edits": unflatten_dict(variables)} if edits else params


def _by_block(model: DiT, name: str, edit: Edit) -> tuple[Array, Array]:
    """(scale, offset) with the axis of blocks in front, 1 and 0 in blocks that are not edited."""
    axes, blocks = TAPS[name].split(), jnp.arange(model.depth)
    if isinstance(edit.block, int) and not 0 <= edit.block < model.depth:
        raise ValueError(f"edits: {name} of block {edit.block}, where blocks are 0 ... {model.depth - 1}")

    def of(side: Any, neutral: float) -> Array:
        side = jnp.asarray(side, jnp.float32)
        missing = 1 + len(axes) - side.ndim
        if missing < 0 or (missing == 0 and len(side) not in (1, model.depth)):
            raise ValueError(f"edits: {name} has the axes {model.depth} {' '.join(axes)}, and an edit {side.shape}")
        side = side.reshape((1,) * missing + side.shape)
        side = jnp.broadcast_to(side, (model.depth, *side.shape[1:]))
        here = blocks.reshape(-1, *(1,) * len(axes)) == edit.block
        return side if edit.block is None else jnp.where(here, side, neutral)

    return of(edit.scale, 1.0), of(edit.offset, 0.0)


def _paths(model: DiT, name: str) -> list[tuple[str, ...]]:
    """Of the variables that hold a value: of one stack of blocks, or of two whose blocks take turns."""
    stacks = [("blocks", "frame"), ("blocks", "place")] if model.attention == "factorised" else [("blocks",)]
    return [(*stack, *("attention",) * (name in IN_ATTENTION), name) for stack in stacks]
