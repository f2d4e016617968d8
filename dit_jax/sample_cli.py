r"""Sample: python -m dit_jax.sample --workdir=runs/digits --num=64 --given=label=3 --guidance=1.5 --out=samples

Writes OUT/samples.png and OUT/samples.npz: the arrays, the pictures as `arr_0` (uint8 [num, height, width, 3], which is
what the ADM evaluation suite reads), and the protocol that drew them; what is heard, read or moves as files of its own,
OUT/STREAM/0.wav and so on. The first texts are printed. What is not said on the command line is as the run's `sample`
section says.

Samples are written as they are drawn: a command that was killed, or stopped by Ctrl-C or a full disk, goes on when it
is repeated, also with a larger --num or another --batch. OUT/protocol.json has all else that decides them; with another
protocol --out is refused, unless --overwrite. Several processes, each with devices of its own and the same --out, draw
a part each: --part=0,4 and so on; process 0 merges all.

--given=image=a.png,b.png are two files, which samples take in turn; so it is with clips and sounds. A name that exists
is taken whole, with its commas. --given=text=In* is a text with a gap, *, and --given=text=@FILE is what a file says,
without a byte-order mark and one newline at the end. A backslash takes these signs as they are: \* anywhere in a text,
\@ in front of one, and \:prefix= in any value.

--given=label=none is the null class, which classifier-free guidance calls unconditional: the stream is absent. It mixes
with others, as in label=3,none. --given= draws without what the run's `sample` section gives.

--interpolate=A,B, two seeds or two image files, draws the way from one to the other instead, all with what is given
first, and also writes OUT/interpolation.gif, which runs there and back. --vae=FILE decodes what a run on latents draws.
In a checkout, sample.py is the same.
"""

import contextlib
import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from dit_jax.command import run_command
from dit_jax.parallel import hosts
from dit_jax.pretrained.vae import with_vae
from dit_jax.progress import progress
from dit_jax.restore import restore_run
from dit_jax.run import Run, SampleOptions
from dit_jax.sampling.draw import Network, check_drawn, draw
from dit_jax.sampling.files import write_pictures, write_samples
from dit_jax.sampling.interpolate import check_interpolation, interpolation_noise
from dit_jax.sampling.plan import Plan, check_all_given, make_plan
from dit_jax.sampling.protocol import check_writable, claim, digest
from dit_jax.sampling.shards import first_samples, merge, missing
from dit_jax.sampling.sheet import texts, title_of
from dit_jax.schema import Local

# Options that decide nothing of sample i: where it is drawn, how many others are, and what training does.
FREE = ("every", "num", "batch")
PRINTED = 4  # samples whose text is printed

Sample = dict[str, np.ndarray]


def main(
    workdir: Annotated[Local, "a directory that train.py has written"] = "runs/digits",
    out: Annotated[Local, "where samples.png and samples.npz go"] = "samples",
    fsdp: Annotated[int, "devices that share one copy of the parameters"] = 1,
    vae: Annotated[Local, "safetensors of the VAE that the run's latents are of: pictures are decoded"] = "",
    step: Annotated[int, "the checkpoint to draw from; -1 is the newest"] = -1,
    interpolate: Annotated[str, "A,B: from one to the other of two seeds, or of two image files"] = "",
    overwrite: Annotated[bool, "replace what --out has of another protocol"] = False,
    part: Annotated[str, "INDEX,COUNT: this process of several; process 0 merges what all draw"] = "0,1",
    distributed: Annotated[str, hosts.FLAG] = "",
    options: Annotated[dict[str, Any] | None, SampleOptions] = None,
) -> None:
    """Draw samples of a run and write them; options are those of SampleOptions that differ from the run's."""
    folder, (index, count) = Path(out), process_of(part)
    hosts.join(distributed)
    if hosts.is_first():
        check_writable(folder)
    run, params, mesh = restore_run(workdir, fsdp, step)
    run = seen_through(run, vae)
    how = dataclasses.replace(run.sample, **(options or {}))
    weak = weak_network(how, fsdp)
    plan = make_plan(run.streams, how)
    check_all_given(run.streams, plan)
    if interpolate:
        check_interpolation(run.streams, how, interpolate, plan.given)
    said = {"workdir": workdir, "step": run.step, "vae": vae or None, "interpolate": interpolate or None}
    decided = said | deciding(how, plan, params, weak, bool(interpolate))
    if hosts.is_first():
        claim(folder, decided, run.streams, how.num, overwrite, index)

    def batches(rows: list[range]) -> Iterator[tuple[int, Sample]]:
        start = interpolation_noise(run, params, mesh, how, interpolate, weak) if interpolate and rows else None
        for some in rows:
            first = some.start
            for batch in draw(run, params, mesh, how, weak, start, rows=some):
                check_drawn(run.streams, batch, plan.order.drawn, first)
                yield first, batch
                first += len(next(iter(batch.values())))

    begin, own = time.monotonic(), range(how.num * index // count, how.num * (index + 1) // count)
    with stoppable(folder, own), hosts.together("samples are written"):
        drawn = write_missing(folder, run, own, batches)
        seconds = time.monotonic() - begin
        rate = f"in {seconds:.1f} s, {drawn / seconds:.1f} a second with compilation"
        number = f"{drawn} samples" if drawn == len(own) else f"{len(own)} samples, {drawn} of them"
        if index > 0 or not hosts.is_first():
            return print(f"{number} {rate}: process 0 writes them to {folder}")
        if count > 1:
            wait_for(folder, how.num)
        about = said | dataclasses.asdict(how) | {"guidance": how.scale()}
        whole = merge(folder, how.num, {"seed": how.seed, "protocol": json.dumps(about)})
        written = write_pictures(whole, run.streams, bool(interpolate), title_of(workdir, run.step, how))
        print(f"{number} {rate}: {written}")
        for text in texts(run.streams, first_samples(whole, PRINTED), plan.order.could_be_drawn):
            print(text)


def weak_network(how: SampleOptions, fsdp: int) -> Network | None:
    """The network that options name for autoguidance, if they do."""
    if not how.weak:
        return None
    run, params, _ = restore_run(how.weak, fsdp)
    return run.model, params


@contextlib.contextmanager
def stoppable(folder: Path, own: range) -> Iterator[None]:
    """Ctrl-C ends the process with status 130, and says how many samples are there."""
    try:
        yield
    except KeyboardInterrupt:
        done = len(own) - sum(map(len, missing(folder, own)))
        print(f"stopped: {folder} has {done} of {len(own)} samples, and the same command goes on", file=sys.stderr)
        sys.exit(130)


def write_missing(
    folder: Path, run: Run, own: range, batches: Callable[[list[range]], Iterator[tuple[int, Sample]]]
) -> int:
    """Draw and write those samples that the folder does not have yet, and return how many."""
    left = [range(*ends) for ends in hosts.from_first([(some.start, some.stop) for some in missing(folder, own)])]
    done = there = len(own) - sum(map(len, left))
    with progress(len(own), there, "sampling") as show:
        if left:
            show(done, doing="compiling")
        for first, batch in batches(left):
            if hosts.is_first():
                write_samples(folder, run.streams, batch, first)
            done += len(next(iter(batch.values())))
            show(done)
    return done - there


def wait_for(folder: Path, num: int) -> None:
    """Until other processes have drawn what is left."""
    while left := missing(folder, range(num)):
        print(f"waiting for other processes, which draw {sum(map(len, left))} samples", flush=True)
        time.sleep(5)


def deciding(how: SampleOptions, plan: Plan, params: Any, weak: Network | None, is_path: bool) -> dict[str, Any]:
    """All that decides the samples of a run, besides what the command line says: options, weights, and values that are
    given, which a file may have changed. is_path: then so does their number."""
    options = {name: value for name, value in dataclasses.asdict(how).items() if name not in FREE}
    options |= {"num": how.num} if is_path else {}
    return {
        **options,
        "guidance": how.scale(),
        "weights": digest((params, weak[1] if weak else ())),
        "values": digest((plan.given, plan.known)),
    }


def process_of(part: str) -> tuple[int, int]:
    """'INDEX,COUNT' -> which process this is, of how many. Raises ValueError for anything else."""
    words = re.fullmatch(r"(\d+),(\d+)", part)
    if words is None or not int(words[1]) < int(words[2]):
        raise ValueError(f"--part={part} should be INDEX,COUNT with INDEX = 0 ... COUNT - 1, such as 0,4")
    return int(words[1]), int(words[2])


def seen_through(run: Run, vae: str) -> Run:
    """The run with its latents decoded by the VAE in a file, if there is one."""
    if not vae:
        return run
    pictured = {name: with_vae(stream, vae) for name, stream in run.streams.items() if len(stream.shape) == 3}
    return dataclasses.replace(run, streams={**run.streams, **pictured})


def command() -> None:
    """The command line."""
    run_command(main)
