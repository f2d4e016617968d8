"""Sample: python sample.py --workdir=runs/digits --num=64 --given=label=3 --guidance=1.5 --out=samples

Writes OUT/samples.png and OUT/samples.npz: the arrays, and the protocol that drew them. What is not said on the
command line is as the run's `sample` section says.
"""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from dit_jax.command import run_command
from dit_jax.config import restore_run
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.evaluation.draw import draw, gather
from dit_jax.evaluation.sheet import sheet
from dit_jax.training.metrics import progress

WORKDIR = flags.DEFINE_string("workdir", "runs/digits", "a directory that train.py has written")
OUT = flags.DEFINE_string("out", "samples", "where samples.png and samples.npz go")
FSDP = flags.DEFINE_integer("fsdp", 1, "devices that share one copy of the parameters")
HOW = (
    flags.DEFINE_integer("num", None, "how many samples", lower_bound=1),
    flags.DEFINE_multi_string("given", None, "STREAM=VALUE, such as label=3, label=0,2,5 or label=all"),
    flags.DEFINE_float("guidance", None, "classifier-free guidance; 1 is none"),
    flags.DEFINE_integer("steps", None, "solver steps", lower_bound=1),
    flags.DEFINE_enum("solver", None, list(SOLVERS), "how to move from level to level"),
    flags.DEFINE_integer("seed", None, "sample i of a seed is the same for every num, batch and number of devices"),
    flags.DEFINE_integer("batch", None, "samples drawn at a time", lower_bound=1),
)


def main():
    run, params, mesh = restore_run(WORKDIR.value, FSDP.value)
    said = {flag.name: flag.value for flag in HOW if flag.value is not None}
    how = dataclasses.replace(run.sample, **said)

    batches, done, begin = [], 0, time.monotonic()
    with progress(how.num, 0, "sampling") as show:
        for batch in draw(run, params, mesh, how):
            batches.append(batch)
            done += len(batch[next(iter(run.streams))])
            show(done)
    seconds = time.monotonic() - begin
    sample = gather(batches)

    out = Path(OUT.value)
    out.mkdir(parents=True, exist_ok=True)
    protocol = json.dumps({"workdir": WORKDIR.value, **dataclasses.asdict(how)})
    np.savez(out / "samples.npz", **sample, seed=how.seed, protocol=protocol)
    picture = sheet(run.streams, sample)
    if picture is not None:
        Image.fromarray(picture).save(out / "samples.png")
    rate = f"{how.num} samples in {seconds:.1f} s, {how.num / seconds:.1f} img/s with compilation"
    print(f"{rate}: {out / ('samples.npz' if picture is None else 'samples.png')}")


if __name__ == "__main__":
    run_command(main)
