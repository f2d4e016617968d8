"""Meshes, and the table that says how a state is laid out on them."""

import math
import re
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "context", "tensor")
BATCH = P(("data", "fsdp"))  # examples are split over both; fsdp splits parameters as well

# The first rule whose pattern is found in a parameter's path names an axis of the mesh for each of its dimensions. The
# optimizer's and the average's copies have the same paths, so they follow. Blocks are stacked: their first axis is
# depth.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"blocks/.*(qkv|in|modulation)/kernel", (None, "fsdp", "tensor")),
    (r"blocks/.*out/kernel", (None, "tensor", "fsdp")),
    (r"(kernel|embedding)$", ("fsdp", "tensor")),
    (r"", ()),
)


def make_mesh(data: int = -1, fsdp: int = 1, context: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over all devices; one axis may be -1 and takes what the others leave. One device is a mesh of 1.

    Raises ValueError if the axes do not multiply to the number of devices.
    """
    sizes = dict(zip(AXES, (data, fsdp, context, tensor), strict=True))
    count, free = jax.device_count(), [axis for axis, size in sizes.items() if size == -1]
    asked = ", ".join(f"parallel.{axis} = {size}" for axis, size in sizes.items())
    for axis, size in (("context", context), ("tensor", tensor)):
        if size != 1:
            raise ValueError(f"parallel.{axis} = {size}: nothing is split along it yet; set it to 1")
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"{asked}: sizes are at least 1, and at most one is -1")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    if count % fixed or (not free and fixed != count):
        raise ValueError(f"{asked}: does not fit {count} devices; set one of them to -1")
    for axis in free:
        sizes[axis] = count // fixed
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def shardings(tree, mesh: Mesh, rules: Sequence = RULES):
    """The sharding of every leaf of a tree of arrays or ShapeDtypeStructs, by the rules.

    A dimension that its axis does not divide stays whole.
    """

    def of(path, leaf) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        axes = next(axes for pattern, axes in rules if re.search(pattern, name)) if leaf.ndim else ()
        fits = [
            axis and (axis if size % mesh.shape[axis] == 0 else None)
            for axis, size in zip(axes, leaf.shape, strict=False)
        ]
        return NamedSharding(mesh, P(*fits))

    return jax.tree_util.tree_map_with_path(of, tree)


def batch_devices(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return mesh.shape["data"] * mesh.shape["fsdp"]
