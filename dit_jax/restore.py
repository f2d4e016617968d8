"""A run from its directory: the newest checkpoint knows its own config."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from dit_jax.config import build
from dit_jax.parallel.mesh import check_division, make_mesh
from dit_jax.parallel.modes import jit_mode
from dit_jax.run import Run
from dit_jax.training.checkpoint import open_reader, read_meta, restore_ema

# What only training reads: a run that was trained by values that are refused today can be drawn from all the same.
TRAINING = ("optimizer", "train")


def restore_run(workdir: str, fsdp: int = 1) -> tuple[Run, Any, Mesh]:
    """(run, averaged parameters, mesh) of a run's newest checkpoint: what samples are drawn with.

    The mesh is of all devices here; `fsdp` of them share each copy of the parameters. Raises CheckpointError if there
    is no checkpoint or it cannot be read, ValueError for an fsdp that does not fit.
    """
    with open_reader(workdir) as reader:
        config, mesh = read_meta(reader)["config"], make_mesh(fsdp=fsdp)
        drawing = {name: section for name, section in config.items() if name not in TRAINING}
        run = dataclasses.replace(build(drawing), config=config)
        abstract = jit_mode(mesh).abstract(run.model.init)
        check_division(abstract, mesh)
        return run, restore_ema(reader, abstract), mesh
