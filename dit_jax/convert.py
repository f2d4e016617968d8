"""Weights of DiT and SiT, in and out: published ones, and checkpoints of their training.

python -m dit_jax.convert --checkpoint=DiT-XL-2-256x256.pt --workdir=runs/dit_xl2
python -m dit_jax.convert --checkpoint=SiT-XL-2-256.pt --kind=sit --workdir=runs/sit_xl2
python -m dit_jax.convert --checkpoint=0400000.pt --entry=model --workdir=runs/mine
python -m dit_jax.convert --workdir=runs/dit_xl2 --out=DIR

The first three write a directory that sample.py draws from. The fourth writes a run as diffusers'
DiTTransformer2DModel.

A checkpoint may hold several networks, under names such as ema, model, state_dict or model_ema, and have keys that
begin with module. or _orig_mod.: the averaged weights are read, or what --entry names. It may be in half or double
precision, in shards, or of a torch before 1.6. What it says of its own training is believed: the number of classes, and
that labels were never hidden, so that there is no null class.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from dit_jax.command import run_command
from dit_jax.config import build, default, stream
from dit_jax.names import choose
from dit_jax.pretrained import dit, shapes, weights
from dit_jax.restore import restore_run
from dit_jax.run import Run
from dit_jax.schema import Local
from dit_jax.training.saving import save_weights


class Kind(NamedTuple):
    """What the same network was trained for, and how its paper draws samples."""

    processes: dict[int, str]  # by the values that the network returns for each channel
    levels: str
    solver: str
    grid: str


KINDS = {
    "dit": Kind(
        {1: "gaussian(schedule='linear', prediction='noise', loss_in='noise', clock='timestep')", 2: "ddpm()"},
        levels="steps()",
        solver="ancestral",
        grid="timesteps",
    ),
    "sit": Kind(
        {n: f"gaussian(prediction='velocity', clock='one_minus_t', outputs={n})" for n in (1, 2)},
        levels="uniform()",
        solver="euler_maruyama",
        grid="long_last",
    ),
}
KINDS_TEXT = "which files do not say: dit, DDPM's noise and variance; sit, the velocity of straight paths"


def main(
    checkpoint: Annotated[
        str, "published weights, or a checkpoint: .pt, .safetensors, or a directory of diffusers with config.json"
    ] = "",
    workdir: Annotated[Local, "the run: written from a checkpoint, or read"] = "",
    out: Annotated[Local, "where a run goes in diffusers' layout"] = "",
    kind: Annotated[str, f"what the network of a checkpoint learned, {KINDS_TEXT} (default: dit)"] = "",
    entry: Annotated[str, "which of several networks in a checkpoint: ema, model ... (default: averaged weights)"] = "",
    heads: Annotated[int, "of attention, where width and depth are of no published size"] = 0,
    side: Annotated[int, "of latents, where a checkpoint has no table of positions that shows it"] = 0,
    classes: Annotated[
        int, "beside the null class, where a checkpoint does not say (default: all rows but the last)"
    ] = 0,
    dtype: Annotated[str, "of matrix products, float32 or bfloat16 (default: float32)"] = "",
) -> None:
    """Weights in, where there is a checkpoint; a run's weights out, where there is not."""
    if bool(checkpoint) == bool(out) or not workdir:
        raise ValueError("say --workdir and either --checkpoint, to read weights, or --out, to write them")
    known = {"heads": heads, "side": side, "classes": classes}
    flags: dict[str, Any] = {"kind": kind, "entry": entry, **known, "dtype": dtype}
    options = {name: value for name, value in flags.items() if value}
    if out and options:
        raise ValueError(f"--{next(iter(options))} goes with --checkpoint: a run knows what it is")
    print(bring_in(checkpoint, workdir, **options) if checkpoint else send_out(workdir, out))


def bring_in(
    checkpoint: str,
    workdir: str,
    kind: str = "dit",
    entry: str = "",
    heads: int | None = None,
    side: int | None = None,
    classes: int | None = None,
    dtype: str = "float32",
) -> str:
    """Write the weights of a checkpoint as a run to sample from, by the protocol of its paper; the arguments are the
    flags.

    Returns what was done. Raises ValueError and OSError that name the file and what is wrong with it.
    """
    file = weights.find(checkpoint)
    run, params = published(file, kind, entry, heads, side, classes, dtype)
    there, *_ = run.streams["image"].shape
    if side not in (None, there):
        raise ValueError(f"--side = {side}, and {file} is of latents of {there} x {there}")
    save_weights(workdir, params, run.config, str(file))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    process, labels = (run.config["streams"]["image"]["process"], run.config["streams"]["label"]["classes"])
    null = "no null class" if run.streams["label"].always_given else "a null class"
    return f"{count:,} parameters, {process}, classes: {labels} and {null}: python sample.py --workdir={workdir}"


def published(
    file: Path,
    kind: str,
    entry: str = "",
    heads: int | None = None,
    side: int | None = None,
    classes: int | None = None,
    dtype: str = "float32",
) -> tuple[Run, Any]:
    """The run that a file of weights would have come from, and its parameters. A table that it lacks is printed.

    heads, side, classes: what is known of it; otherwise as the file says, but a side only where its shapes do not.
    """
    tensors = weights.read(file, keys=dit.FIRST, entry=entry)
    try:
        for key, tensor in tensors.items():
            if not np.all(finite := np.isfinite(tensor)):
                count = f"{finite.size - np.count_nonzero(finite):,} of {finite.size:,} numbers"
                raise ValueError(f"{key} is not finite in {count}: training had diverged, take an earlier checkpoint")
        layout = dit.layout_of(tensors)
        known = shapes.said(weights.read_settings(file))
        known |= {"side": side} if side else {}
        known |= {"classes": classes, "dropout": None} if classes else {}
        sizes = shapes.sizes(layout, tensors, weights.read_config(file), heads, known)
        run = build(config_of(sizes, kind, dtype))
        params = dit.load(layout, tensors, run.model)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if layout is dit.ORIGINAL and dit.POSITIONS not in tensors:
        print(f"{file} has no {dit.POSITIONS}: the table of sines and cosines that DiT has is made anew")
    return run, params


def config_of(sizes: shapes.Sizes, kind: str, dtype: str):
    """The config of a published network."""
    config, what = default(), choose(KINDS, kind, "--kind")
    shape, process = (sizes.side, sizes.side, sizes.channels), what.processes[sizes.outputs]
    config.streams = {
        "image": stream("image", shape=shape, patch=sizes.patch, process=process, levels=what.levels),
        "label": stream("label", classes=sizes.classes, dropout_rate=float(sizes.dropout)),
    }
    config.model.width, config.model.depth, config.model.heads = sizes.width, sizes.depth, sizes.heads
    config.model.dtype = dtype
    config.data.name = "synthetic"
    config.sample.given = ("label=random",)
    config.sample.solver, config.sample.grid, config.sample.steps = what.solver, what.grid, 250
    config.sample.channels = 3  # guided of four, as published
    config.sample.guidance = 1.5 if sizes.dropout else 1.0
    return config


def send_out(workdir: str, out: str) -> str:
    """Write a run's averaged parameters as DiTTransformer2DModel.from_pretrained reads them.

    Returns what was done. Raises ValueError for a network that diffusers has no such model of.
    """
    run, params, _ = restore_run(workdir)
    config = dit.diffusers_config(run.model, params)
    tensors = dit.store(dit.DIFFUSERS, run.model, jax.tree.map(np.asarray, params))
    file = weights.write(Path(out).expanduser(), tensors, config)
    return f"{len(tensors)} arrays, {run.config['streams']['image']['process']}: {file}"


if __name__ == "__main__":
    run_command(main)
