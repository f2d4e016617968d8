"""Sample: python sample.py --workdir=runs/digits --num=64 --given=label=3 --guidance=1.5 --out=samples

Writes OUT/samples.png and OUT/samples.npz: the arrays, the pictures as `arr_0` (uint8 [num, height, width, 3], which is
what the ADM evaluation suite reads), and the protocol that drew them; what is heard, read or moves as files of its own,
OUT/STREAM/0.wav and so on. What is not said on the command line is as the run's `sample` section says.

--interpolate=A,B, two seeds or two image files, draws the way from one to the other instead, all with what is given
first, and also writes OUT/interpolation.gif, which runs there and back. --vae=FILE decodes what a run on latents draws.
"""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from dit_jax.command import run_command
from dit_jax.diffusion.grids import GRIDS
from dit_jax.diffusion.guidance import COMBINE
from dit_jax.diffusion.masked import REVEALS
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Streams
from dit_jax.evaluation.draw import between, draw, gather
from dit_jax.evaluation.sheet import sheet
from dit_jax.pretrained.vae import with_vae
from dit_jax.restore import restore_run
from dit_jax.training.metrics import progress

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "a directory that train.py has written")
OUT = flags.DEFINE_string("out", "samples", "where samples.png and samples.npz go")
FSDP = flags.DEFINE_integer("fsdp", 1, "devices that share one copy of the parameters")
VAE = flags.DEFINE_string("vae", None, "safetensors of the VAE that the run's latents are of: pictures are decoded")
INTERPOLATE = flags.DEFINE_string("interpolate", None, "A,B: from one to the other of two seeds, or of two image files")
INTERVAL = flags.DEFINE_list("interval", None, "LOW,HIGH: the levels at which guidance acts")
HOW = (
    flags.DEFINE_integer("num", None, "how many samples", lower_bound=1),
    flags.DEFINE_multi_string("given", None, "STREAM=VALUE: label=all, image=FILE, text=In*, clip=FILE:prefix=2"),
    flags.DEFINE_string("guidance", None, "scale, 1 for none; or one for each given stream: name=2,image=1.5"),
    flags.DEFINE_enum("combine", None, list(COMBINE), "how guidance combines two predictions"),
    flags.DEFINE_integer("channels", None, "how many channels are guided; 0 is all", lower_bound=0),
    flags.DEFINE_string("weak", None, "WORKDIR of a worse run, for autoguidance"),
    flags.DEFINE_integer("steps", None, "solver steps; of text in blocks, steps of each block", lower_bound=1),
    flags.DEFINE_enum("solver", None, list(SOLVERS), "how to move from level to level"),
    flags.DEFINE_enum("reveal", None, list(REVEALS), "which hidden tokens a step shows"),
    flags.DEFINE_enum("grid", None, list(GRIDS), "how the levels of the steps are spaced"),
    flags.DEFINE_float("shift", None, "of the levels, towards noise where it is above 1", lower_bound=1e-3),
    flags.DEFINE_list("first", None, "streams that are drawn before the others and then guide them: name"),
    flags.DEFINE_list("drawn", None, "streams to draw; default: all that are not given"),
    flags.DEFINE_string("rollout", None, "STREAM=LENGTH:OVERLAP: longer than it was trained, in windows: clip=32:2"),
    flags.DEFINE_integer("seed", None, "sample i of a seed is the same for every num, batch and number of devices"),
    flags.DEFINE_integer("batch", None, "samples drawn at a time", lower_bound=1),
)


@flags.validator("interval", "should be LOW,HIGH with 0 <= LOW <= HIGH <= 1")
def is_interval(words: list[str] | None) -> bool:
    try:
        low, high = map(float, words or ("0", "1"))
    except ValueError:
        return False
    return 0 <= low <= high <= 1


def main():
    run, params, mesh = restore_run(WORKDIR.value, FSDP.value)
    if VAE.value is not None:
        pictured = {name: with_vae(stream, VAE.value) for name, stream in run.streams.items() if len(stream.shape) == 3}
        run = dataclasses.replace(run, streams={**run.streams, **pictured})
    said = {flag.name: flag.value for flag in HOW if flag.value is not None}
    if INTERVAL.value is not None:
        said["interval"] = tuple(map(float, INTERVAL.value))
    how = dataclasses.replace(run.sample, **said)
    weak = start = None
    if how.weak:
        other, others, _ = restore_run(how.weak, FSDP.value)
        weak = other.model, others

    batches, done, begin = [], 0, time.monotonic()
    if INTERPOLATE.value is not None:
        start = between(run, params, mesh, how, INTERPOLATE.value, weak)
    with progress(how.num, 0, "sampling") as show:
        for batch in draw(run, params, mesh, how, weak, start):
            batches.append(batch)
            done += len(next(iter(batch.values())))
            show(done)
    seconds = time.monotonic() - begin
    sample = gather(batches)
    streams = {name: stream for name, stream in run.streams.items() if name in sample}

    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    protocol = {"workdir": WORKDIR.value, "interpolate": INTERPOLATE.value, **dataclasses.asdict(how)}
    protocol["guidance"] = how.scale()
    arrays = {**sample, **pictures(streams, sample)}
    np.savez(out / "samples.npz", **arrays, seed=how.seed, protocol=json.dumps(protocol))
    for name, stream in streams.items():
        if stream.view.save is not None:
            (out / name).mkdir(exist_ok=True)
            for i, example in enumerate(sample[name]):
                stream.view.save(example, out / name / str(i))
    picture = sheet(streams, sample)
    if picture is not None:
        Image.fromarray(picture).save(out / "samples.png")
        if start is not None:
            write_clip(out / "interpolation.gif", streams, sample)
    rate = f"{how.num} samples in {seconds:.1f} s, {how.num / seconds:.1f} a second with compilation"
    print(f"{rate}: {out / ('samples.npz' if picture is None else 'samples.png')}")


def pictures(streams: Streams, sample: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first stream that shows pictures, as {"arr_0": [num, height, width, 3]}; nothing if none does."""
    shown = (stream.view.show(sample[name]) for name, stream in streams.items() if stream.view.show is not None)
    return next(({"arr_0": p.repeat(3 // p.shape[-1], -1)} for p in shown if isinstance(p, np.ndarray)), {})


def write_clip(path: Path, streams: Streams, sample: dict[str, np.ndarray]):
    """Samples as the frames of a GIF that runs there and back, for ever."""
    ones = [{name: values[[i]] for name, values in sample.items()} for i in range(len(next(iter(sample.values()))))]
    there = [Image.fromarray(sheet(streams, one, columns=1, size=256)) for one in ones]
    there[0].save(path, save_all=True, append_images=there[1:] + there[-2:0:-1], duration=50, loop=0)


if __name__ == "__main__":
    run_command(main)
