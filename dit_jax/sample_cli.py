"""Sample: python -m dit_jax.sample --workdir=runs/digits --num=64 --given=label=3 --guidance=1.5 --out=samples

Writes OUT/samples.png and OUT/samples.npz: the arrays, the pictures as `arr_0` (uint8 [num, height, width, 3], which is
what the ADM evaluation suite reads), and the protocol that drew them; what is heard, read or moves as files of its own,
OUT/STREAM/0.wav and so on. What is not said on the command line is as the run's `sample` section says.

--interpolate=A,B, two seeds or two image files, draws the way from one to the other instead, all with what is given
first, and also writes OUT/interpolation.gif, which runs there and back. --vae=FILE decodes what a run on latents draws.
In a checkout, sample.py is the same.
"""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

from dit_jax.command import run_command
from dit_jax.pretrained.vae import with_vae
from dit_jax.progress import progress
from dit_jax.restore import restore_run
from dit_jax.run import Run, SampleOptions
from dit_jax.sampling.draw import draw, gather
from dit_jax.sampling.files import write_samples
from dit_jax.sampling.interpolate import interpolation_noise


def main(
    workdir: Annotated[str, "a directory that train.py has written"] = "runs/digits",
    out: Annotated[str, "where samples.png and samples.npz go"] = "samples",
    fsdp: Annotated[int, "devices that share one copy of the parameters"] = 1,
    vae: Annotated[str, "safetensors of the VAE that the run's latents are of: pictures are decoded"] = "",
    step: Annotated[int, "the checkpoint to draw from; -1 is the newest"] = -1,
    interpolate: Annotated[str, "A,B: from one to the other of two seeds, or of two image files"] = "",
    options: Annotated[dict[str, Any] | None, SampleOptions] = None,
) -> None:
    """Draw samples of a run and write them; options are those of SampleOptions that differ from the run's."""
    run, params, mesh = restore_run(workdir, fsdp, step)
    run = seen_through(run, vae)
    how = dataclasses.replace(run.sample, **(options or {}))
    weak = start = None
    if how.weak:
        other, others, _ = restore_run(how.weak, fsdp)
        weak = other.model, others

    batches, done, begin = [], 0, time.monotonic()
    if interpolate:
        start = interpolation_noise(run, params, mesh, how, interpolate, weak)
    with progress(how.num, 0, "sampling") as show:
        for batch in draw(run, params, mesh, how, weak, start):
            batches.append(batch)
            done += len(next(iter(batch.values())))
            show(done)
    seconds = time.monotonic() - begin

    protocol = {"workdir": workdir, "interpolate": interpolate or None, **dataclasses.asdict(how)}
    protocol["guidance"] = how.scale()
    written = write_samples(Path(out), run.streams, gather(iter(batches)), protocol, is_path=bool(interpolate))
    print(f"{how.num} samples in {seconds:.1f} s, {how.num / seconds:.1f} a second with compilation: {written}")


def seen_through(run: Run, vae: str) -> Run:
    """The run with its latents decoded by the VAE in a file, if there is one."""
    if not vae:
        return run
    pictured = {name: with_vae(stream, vae) for name, stream in run.streams.items() if len(stream.shape) == 3}
    return dataclasses.replace(run, streams={**run.streams, **pictured})


def command() -> None:
    """The command line."""
    run_command(main)
