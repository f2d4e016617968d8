"""A run from its directory: the newest checkpoint knows its own config."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from dit_jax.config import build
from dit_jax.data.identity import with_names
from dit_jax.parallel.mesh import check_division, make_mesh
from dit_jax.parallel.modes import jit_mode
from dit_jax.run import Run
from dit_jax.training.checkpoint import Checkpoint, newest_good, read_arrays

# What only training reads: a run that was trained by values that are refused today can be drawn from all the same.
TRAINING = ("optimizer", "train")


def restore_run(workdir: str, fsdp: int = 1, step: int = -1) -> tuple[Run, Any, Mesh]:
    """(run, averaged parameters, mesh) of a run's newest checkpoint that is not damaged, or of that of a step: what
    samples are drawn with. Labels go by the names of the classes that it was trained on.

    The mesh is of all devices here; `fsdp` of them share each copy of the parameters. Raises CheckpointError if there
    is no checkpoint or it cannot be read, ValueError for an fsdp that does not fit.
    """
    mesh = make_mesh(fsdp=fsdp)

    def read(checkpoint: Checkpoint) -> tuple[Run, Any, Mesh]:
        config = checkpoint.meta["config"]
        drawing = {name: section for name, section in config.items() if name not in TRAINING}
        step = None if "source" in checkpoint.meta else checkpoint.meta["step"]  # published weights have none
        run = build(drawing)
        named = with_names(run.streams, checkpoint.meta.get("data"))
        run = dataclasses.replace(run, config=config, step=step, streams=named)
        abstract = jit_mode(mesh).abstract(run.model.init)
        check_division(abstract, mesh)
        return run, read_arrays(checkpoint, {"ema": abstract})["ema"], mesh

    return newest_good(workdir, read, None if step == -1 else step)
