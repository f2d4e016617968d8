"""Published weights of DiT and SiT, in and out.

python -m dit_jax.convert --checkpoint=DiT-XL-2-256x256.pt --workdir=runs/dit_xl2
python -m dit_jax.convert --checkpoint=SiT-XL-2-256.pt --kind=sit --workdir=runs/sit_xl2
python -m dit_jax.convert --workdir=runs/dit_xl2 --out=DIR

The first two write a directory that sample.py draws from. The third writes a run as diffusers' DiTTransformer2DModel.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from dit_jax.command import run_command
from dit_jax.config import build, default, stream
from dit_jax.names import choose
from dit_jax.pretrained import dit, weights
from dit_jax.restore import restore_run
from dit_jax.run import Run
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
        str, "published weights: .pt, .safetensors, or a directory of diffusers with config.json"
    ] = "",
    workdir: Annotated[str, "the run: written from a checkpoint, or read"] = "",
    out: Annotated[str, "where a run goes in diffusers' layout"] = "",
    kind: Annotated[str, f"what the network of a checkpoint learned, {KINDS_TEXT} (default: dit)"] = "",
    heads: Annotated[int, "of attention, where width and depth are of no published size"] = 0,
    dtype: Annotated[str, "of matrix products, float32 or bfloat16 (default: float32)"] = "",
) -> None:
    """Published weights in, where there is a checkpoint; a run's weights out, where there is not."""
    if bool(checkpoint) == bool(out) or not workdir:
        raise ValueError("say --workdir and either --checkpoint, to read weights, or --out, to write them")
    flags: dict[str, Any] = {"kind": kind, "heads": heads, "dtype": dtype}
    options = {name: value for name, value in flags.items() if value}
    if out and options:
        raise ValueError(f"--{next(iter(options))} goes with --checkpoint: a run knows what it is")
    print(bring_in(checkpoint, workdir, **options) if checkpoint else send_out(workdir, out))


def bring_in(checkpoint: str, workdir: str, kind: str = "dit", heads: int | None = None, dtype: str = "float32") -> str:
    """Write published weights as a run to sample from, by the protocol of its paper; the arguments are the flags.

    Returns what was done. Raises ValueError and OSError that name the file and what is wrong with it.
    """
    file = weights.find(checkpoint)
    run, params = published(file, kind, heads, dtype)
    for path, leaf in jax.tree.leaves_with_path(params):
        if not np.all(np.isfinite(leaf)):
            raise ValueError(
                f"{file}: {jax.tree_util.keystr(path, simple=True, separator='/')} is not finite everywhere"
            )
    save_weights(workdir, params, run.config, str(file))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return f"{count:,} parameters, {run.config['streams']['image']['process']}: python sample.py --workdir={workdir}"


def published(file: Path, kind: str, heads: int | None, dtype: str) -> tuple[Run, Any]:
    """The run that a file of published weights would have come from, and its parameters."""
    tensors = weights.read(file)
    try:
        layout = dit.layout_of(tensors)
        run = build(config_of(dit.sizes(layout, tensors, weights.read_config(file), heads), kind, dtype))
        return run, dit.load(layout, tensors, run.model)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def config_of(sizes: dit.Sizes, kind: str, dtype: str):
    """The config of a published network."""
    config, what = default(), choose(KINDS, kind, "--kind")
    shape, process = (sizes.side, sizes.side, sizes.channels), what.processes[sizes.outputs]
    config.streams = {
        "image": stream("image", shape=shape, patch=sizes.patch, process=process, levels=what.levels),
        "label": stream("label", classes=sizes.classes),
    }
    config.model.width, config.model.depth, config.model.heads = sizes.width, sizes.depth, sizes.heads
    config.model.dtype = dtype
    config.data.name = "synthetic"
    config.sample.given = ("label=random",)
    config.sample.solver, config.sample.grid, config.sample.steps = what.solver, what.grid, 250
    config.sample.guidance, config.sample.channels = 1.5, 3  # on three of four channels, as published
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
