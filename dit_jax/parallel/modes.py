"""Two ways to run one training step on many devices: jit over a mesh, or pmap.

A mode hides where arrays are. `create` makes a state in the plain form that checkpoints and samplers see; `adopt` turns
the plain form into what the compiled step takes, and `plain` turns it back.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dit_jax.parallel.mesh import BATCH, AnyMesh, batch_devices, shardings

AXIS = "devices"


class Mode(NamedTuple):
    axis: str | None  # the mapped axis that a step has to average over by itself
    parts: int  # into which a batch is split
    abstract: Callable[[Callable], Any]  # init -> the plain state's shapes, types and shardings
    create: Callable[[Callable, jax.Array], Any]  # init, key -> plain state
    adopt: Callable[[Any], Any]
    plain: Callable[[Any], Any]
    compile: Callable[[Callable], Callable]  # step(state, batch, rows) -> the same, compiled
    rows: Callable[[int], np.ndarray]  # which rows of a batch of this size the devices of this process hold
    put: Callable[[dict[str, np.ndarray]], dict]  # those rows of a batch, to these devices


def jit_mode(mesh: AnyMesh) -> Mode:
    """State laid out by the rules table, born sharded; XLA derives the communication."""
    batch = NamedSharding(mesh, BATCH)

    def abstract(init: Callable):
        shapes = jax.eval_shape(init, jax.random.key(0))
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings(shapes, mesh),
        )

    def create(init: Callable, key: jax.Array):
        return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, abstract(init)))(key)

    def compile(step: Callable):
        def placed(state, arrays, rows):
            layout = shardings(state, mesh)
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                state, metrics = step(jax.lax.with_sharding_constraint(state, layout), arrays, rows)
            everywhere = NamedSharding(mesh, P())
            return jax.lax.with_sharding_constraint((state, metrics), (layout, everywhere))

        return jax.jit(placed, donate_argnums=0)

    @functools.cache  # every update asks
    def rows(size: int) -> np.ndarray:
        mine = batch.addressable_devices_indices_map((size,)).values()
        return np.unique(np.concatenate([np.arange(size)[index or ()] for index in mine]))

    def put(arrays: dict[str, np.ndarray]) -> dict:
        parts = batch_devices(mesh)
        size = len(next(iter(arrays.values()))) * parts // len(rows(parts))
        place = np.searchsorted(rows(size), np.arange(size))

        def whole(array: np.ndarray) -> jax.Array:
            part: Any = lambda index: array[place[index[0]]]
            return jax.make_array_from_callback((size, *array.shape[1:]), batch, part)

        return {name: whole(array) for name, array in arrays.items()}

    same = lambda state: state
    return Mode(None, batch_devices(mesh), abstract, create, same, same, compile, rows, put)


def pmap_mode(mesh: AnyMesh) -> Mode:
    """A whole state on every device, and the step averages over them: data parallelism, written out."""
    if batch_devices(mesh) != mesh.shape["data"] or mesh.shape["data"] != mesh.size:
        raise ValueError("parallel.mode = 'pmap' splits data only: set parallel.fsdp, context and tensor to 1")
    everywhere, count = NamedSharding(mesh, P()), jax.local_device_count()

    def abstract(init: Callable):
        shapes = jax.eval_shape(init, jax.random.key(0))
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes)

    def adopt(state):
        own = jax.tree.map(lambda x: x.addressable_data(0), state)
        return jax.pmap(lambda _, state: state, in_axes=(0, None))(jnp.arange(count), own)

    def plain(state):
        def whole(x):
            own = x.addressable_data(0)[0]
            return jax.make_array_from_callback(own.shape, everywhere, lambda index: own)

        return jax.tree.map(whole, state)

    def rows(size: int) -> np.ndarray:
        share = size // jax.process_count()
        return np.arange(size)[jax.process_index() * share :][:share]

    def compile(step: Callable):
        mapped = jax.pmap(step, AXIS, donate_argnums=0)

        def placed(state, arrays, rows):
            state, metrics = mapped(state, arrays, rows)
            return state, jax.tree.map(lambda x: x.addressable_data(0)[0], metrics)

        return placed

    return Mode(
        axis=AXIS,
        parts=mesh.size,
        abstract=abstract,
        create=lambda init, key: jax.jit(init, out_shardings=everywhere)(key),
        adopt=adopt,
        plain=plain,
        compile=compile,
        rows=rows,
        put=lambda arrays: {name: x.reshape(count, -1, *x.shape[1:]) for name, x in arrays.items()},
    )


MODES = {"jit": jit_mode, "pmap": pmap_mode}
