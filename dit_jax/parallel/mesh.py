"""Meshes, and the table that says how a state is laid out on them."""

import math
import re
from collections.abc import Sequence

import jax
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "context", "tensor")
ROWS = ("data", "fsdp")  # examples are split over both; fsdp splits parameters as well
BATCH = P(ROWS)

AnyMesh = Mesh | AbstractMesh  # of devices, or of sizes alone

# The first rule whose pattern is found in a parameter's path names an axis of the mesh for each of its dimensions. The
# optimizer's and the average's copies have the same paths, so they follow. Blocks are stacked: their first axis is
# depth.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"blocks/.*(qkv|in|modulation)/kernel", (None, "fsdp", "tensor")),
    (r"blocks/.*out/kernel", (None, "tensor", "fsdp")),
    (r"(_embed|_head|expected_[^/]*)/.*(kernel|embedding)$", (None, "fsdp")),
    (r"kernel$", ("fsdp", "tensor")),
    (r"", ()),
)


def make_mesh(data: int = -1, fsdp: int = 1, context: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over all devices; one axis may be -1 and takes what the others leave. One device is a mesh of 1.

    Raises ValueError if the axes do not multiply to the number of devices.
    """
    return mesh_of(jax.devices()[: jax.device_count()], data, fsdp, context, tensor)


def mesh_of(devices: Sequence, data: int = -1, fsdp: int = 1, context: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over these devices, which need not be here; see `make_mesh`."""
    sizes = mesh_sizes(len(devices), data, fsdp, context, tensor)
    # Chips of a torus may be split among axes in any way: 8 x 8 x 8 is a mesh of 32 x 16 as well.
    placed = create_device_mesh(tuple(sizes.values()), devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def mesh_sizes(count: int, data: int = -1, fsdp: int = 1, context: int = 1, tensor: int = 1) -> dict[str, int]:
    """{axis: size} of a mesh of so many devices. Raises ValueError as `make_mesh` does."""
    sizes = dict(zip(AXES, (data, fsdp, context, tensor), strict=True))
    free = [axis for axis, size in sizes.items() if size == -1]
    asked = ", ".join(f"parallel.{axis} = {size}" for axis, size in sizes.items())
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"{asked}: sizes are at least 1, and at most one is -1")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if count % fixed or (not free and fixed != count):
        raise ValueError(f"{asked}: does not fit {count} devices; set one of them to -1")
    for axis in free:
        sizes[axis] = count // fixed
    return sizes


def shardings(tree, mesh: AnyMesh, rules: Sequence = RULES):
    """The sharding of every leaf of a tree of arrays or ShapeDtypeStructs, by the rules.

    A dimension that its axis does not divide stays whole (see `check_division`).
    """

    def of(path, leaf) -> NamedSharding:
        pairs = zip(_axes(path, leaf, rules), leaf.shape, strict=False)
        return NamedSharding(
            mesh, P(*(axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in pairs))
        )

    return jax.tree_util.tree_map_with_path(of, tree)


def check_division(tree, mesh: AnyMesh, rules: Sequence = RULES, most: float = 0.1) -> dict[str, float]:
    """The share of a tree's values that an axis of the mesh leaves whole where a rule would split them, by axis.

    Raises ValueError for a share above `most`: each device of that axis would hold, and update, a copy.
    """
    leaves = [(leaf.shape, _axes(path, leaf, rules)) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]
    total, shares = sum(math.prod(shape) for shape, _ in leaves), {}

    def whole(axis: str, parts: int) -> float:
        meant = [shape for shape, axes in leaves if axis in axes and shape[axes.index(axis)] % parts]
        return sum(map(math.prod, meant)) / total

    for axis, parts in ((axis, parts) for axis, parts in mesh.shape.items() if parts > 1):
        shares[axis] = whole(axis, parts)
        if shares[axis] > most:
            fits = max(n for n in range(1, parts) if parts % n == 0 and whole(axis, n) <= most)
            raise ValueError(
                f"parallel.{axis} = {parts} leaves {shares[axis]:.0%} of the parameters whole on each of its devices, "
                f"because it does not divide their sizes; {fits} does"
            )
    return shares


def _axes(path, leaf, rules: Sequence) -> tuple[str | None, ...]:
    """The axis of the mesh that a rule names for each dimension of a leaf."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return next(axes for pattern, axes in rules if re.search(pattern, name)) if leaf.ndim else ()


def constrain(x: jax.Array, *axes: str | tuple[str, ...] | None) -> jax.Array:
    """with_sharding_constraint: dimension i of an activation is split over axes[i] of the mesh that is traced for, and
    x is left alone where there is none.

    Without it the partitioner may keep split weights where they are and move the activations of the whole batch.
    """
    if jax.sharding.get_abstract_mesh().axis_names != AXES:  # none, or pmap's
        return x
    return jax.lax.with_sharding_constraint(x, P(*axes))


def batch_devices(mesh: AnyMesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
