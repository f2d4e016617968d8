"""Train: python -m dit_jax.train --config=digits --workdir=runs/digits [--config.train.steps=2000 ...]

The same command again goes on from the newest checkpoint. In a checkout, train.py is the same.

--config.SECTION.KEY=VALUE changes one entry of the config, which is digits where none is named. --dry_run prints all
sections with all keys, and trains nothing. What a key means is said where it is read: streams.NAME in dit_jax/streams,
model in dit_jax/network/dit.py, optimizer in dit_jax/training/optimizer.py, data, train, checkpoint, parallel and
sample in dit_jax/run.py.

    python -m dit_jax.train --config=digits --dry_run
    python -m dit_jax.train --config=digits --workdir=runs/wide --config.model.width=192 --config.train.steps=3000
    python -m dit_jax.train --config=fashion_mnist --workdir=runs/mine --config.data.name=/path/to/images \\
        --config.streams.image.shape='(32, 32, 3)' --config.streams.label.classes=10
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import jax

from dit_jax.command import run_command
from dit_jax.config import build, config_first, define_flag
from dit_jax.convert import published
from dit_jax.diffusion.gaussian import velocity
from dit_jax.network.dit import parameter_shapes
from dit_jax.parallel import hosts
from dit_jax.parallel.mesh import make_mesh
from dit_jax.planning.chips import GIB
from dit_jax.planning.estimate import estimate
from dit_jax.pretrained import weights
from dit_jax.restore import restore_run
from dit_jax.run import Run
from dit_jax.schema import Local
from dit_jax.training.loop import train
from dit_jax.training.placement import placement


def main(
    config: Annotated[Any, define_flag],
    workdir: Annotated[Local, "where checkpoints, metrics and samples go"] = "runs/digits",
    dry_run: Annotated[bool, "print the config, the mesh, and what each device has to hold and do; and stop"] = False,
    profile: Annotated[str, "START:STOP: trace these updates by JAX's profiler, into WORKDIR/profile"] = "",
    distributed: Annotated[str, hosts.FLAG] = "",
) -> None:
    """Train the run of a config in its directory; what is wrong with it is said before anything compiles."""
    run, traced = build(config), steps_of(profile)
    hosts.join(distributed)
    if dry_run:
        print(*summary(run), sep="\n")
        return
    try:
        is_finished = train(run, Path(workdir), initial_weights(run), traced)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise MemoryError(f"an update does not fit: {needs(run)}; python -m dit_jax.plan says what would") from error
    sys.exit(0 if is_finished else run.train.stopped_status)


def steps_of(profile: str) -> range:
    """'100:110' -> the ten updates after the first hundred; none for ''. Raises ValueError for anything else."""
    words = re.fullmatch(r"(\d+):(\d+)", profile or "0:0")
    if words is None or int(words[1]) > int(words[2]) or (profile and words[1] == words[2]):
        raise ValueError(f"--profile={profile} should be START:STOP, such as 100:110 for ten updates after a hundred")
    return range(int(words[1]), int(words[2]))


def summary(run: Run) -> Iterator[str]:
    """The config of a run, and what it would be on the devices that are here; nothing is compiled."""
    yield json.dumps(run.config, indent=2)
    yield f"parameters: {sum(leaf.size for leaf in jax.tree.leaves(parameter_shapes(run.model))):,}"
    yield f"mesh: {dict(placement(run)[0].shape)} on {jax.devices()[0].device_kind}"
    yield f"each device: {needs(run)}"


def needs(run: Run) -> str:
    """What an update needs of each device here, by what can be counted without compiling."""
    work = estimate(run, make_mesh(**run.parallel.axes()))
    return (
        f"{work.state / GIB:.3g} GiB of state, at least {work.temporaries / GIB:.3g} GiB of gradients and activations, "
        f"{work.operations:.3g} operations an update"
    )


def initial_weights(run: Run) -> Any:
    """The parameters that train.init names: the averaged ones of a run, or published ones in a file; None for none."""
    source = run.train.init
    if not source:
        return None
    if (Path(source).expanduser() / "checkpoints").is_dir():
        return restore_run(source)[1]
    process: Any = run.streams["image"].process if "image" in run.streams else None
    kind = "sit" if process is not None and process.predicts(velocity) else "dit"
    side = run.streams["image"].shape[0] if "image" in run.streams else None
    return published(weights.find(source), kind, heads=run.model.heads, side=side)[1]


def command() -> None:
    """The command line."""
    run_command(main, defaults=["--config=digits"], rewrite=config_first)


if __name__ == "__main__":
    command()
