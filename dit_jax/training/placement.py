"""Where a run lies: its mesh, checked against what is to be split, and its mode."""

import jax

from dit_jax.network.dit import parameter_shapes
from dit_jax.network.layout import token_counts
from dit_jax.parallel.mesh import AnyMesh, check_division, make_mesh
from dit_jax.parallel.modes import MODES, Mode
from dit_jax.run import Run


def placement(run: Run) -> tuple[jax.sharding.Mesh, Mode]:
    """The mesh of a run and its mode, on the devices there are; prints what stays whole on each. Raises ValueError,
    naming the option, for a mesh that does not suit the run."""
    mesh = make_mesh(**run.parallel.axes())
    for sentence in checked_mesh(run, mesh):
        print(sentence)
    return mesh, MODES[run.parallel.mode](mesh)


def checked_mesh(run: Run, mesh: AnyMesh) -> list[str]:
    """What is to be said of a run on a mesh. Raises ValueError, naming the option, for a mesh that does not suit it."""
    mode = MODES[run.parallel.mode](mesh)
    parts = mode.parts * run.train.accumulation
    if run.data.batch_size % parts:
        raise ValueError(
            f"data.batch_size = {run.data.batch_size} is not divisible by {parts}: "
            f"{mode.parts} devices x train.accumulation = {run.train.accumulation}"
        )
    tokens = sum(token_counts(run.streams).values())
    for axis, name, size in (("tensor", "model.heads", run.model.heads), ("context", "the number of tokens", tokens)):
        if size % mesh.shape[axis]:
            raise ValueError(f"parallel.{axis} = {mesh.shape[axis]} does not divide {name} = {size}")
    return [
        f"parallel.{axis} = {mesh.shape[axis]}: {share:.1%} of the parameters stay whole on each device"
        for axis, share in check_division(parameter_shapes(run.model), mesh).items()
        if share
    ]
