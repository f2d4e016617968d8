"""What an update needs of each chip, without compiling it: bytes that are kept, operations, and bytes that are sent.

Operations are those of the traced update, exactly. Bytes of the state follow from its shardings, exactly, and those of
saved activations from what the backward pass of the traced loss keeps. What is sent is what data parallelism
(all-reduce of gradients) and fully sharded parameters (all-gather, reduce-scatter) send. Temporaries and memory traffic
are what there is at least: a compiler needs more.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, NamedSharding

from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.objective import OBJECTIVES, total
from dit_jax.diffusion.stream import in_data
from dit_jax.network.dit import DiT, parameter_shapes
from dit_jax.parallel.mesh import AXES, BATCH, AnyMesh, batch_devices, mesh_sizes, shardings
from dit_jax.planning.roofline import Sent, Work
from dit_jax.run import Run
from dit_jax.training.flops import flops, matmul_flops
from dit_jax.training.optimizer import Optimizer
from dit_jax.training.step import State, make_init

FEW = 2  # examples that are traced; what each needs does not depend on how many there are


def abstract_mesh(run: Run, count: int) -> AbstractMesh:
    """The mesh of a run on so many chips, none of which is here. Raises ValueError if its axes do not fit."""
    sizes = mesh_sizes(count, **run.parallel.axes())
    return AbstractMesh(tuple(sizes.values()), AXES, (AxisType.Auto,) * len(AXES))


def abstract_state(run: Run, mesh: AnyMesh) -> State:
    """Shapes, types and shardings of the state of a run."""
    shapes = _state_shapes(run.model, run.optimizer, run.train.spike)
    return _placed(shapes, shardings(shapes, mesh))


def abstract_batch(run: Run, mesh: AnyMesh) -> tuple[dict[str, Any], Any]:
    """(batch, rows) of an update, as shapes, types and shardings."""
    n, sharding = run.data.batch_size, NamedSharding(mesh, BATCH)
    batch = {**_examples(run.model, n), "": jax.ShapeDtypeStruct((n,), jnp.int32)}
    placed = _placed(batch, dict.fromkeys(batch, sharding))
    return placed, placed.pop("")


def estimate(run: Run, mesh: AnyMesh) -> Work:
    """The work of an update for each chip of a mesh."""
    state, examples = abstract_state(run, mesh), run.data.batch_size / mesh.size
    kept, gradients = on_chip(state), on_chip(state.params)
    products, saved_bytes = _of_an_example(run.model, run.train.objective)
    saved = saved_bytes * run.data.batch_size / batch_devices(mesh)
    return Work(
        operations=products * examples + _of_an_update(run.model, run.optimizer) / mesh.size,
        model=flops(run) / mesh.size,
        state=kept,
        temporaries=gradients + saved / run.train.accumulation,
        traffic=2 * kept + 2 * gradients + 2 * saved,
        sent=sent(run, state.params, mesh),
    )


def on_chip(tree: Any) -> int:
    """Bytes of a tree of ShapeDtypeStructs that one chip holds."""
    return sum(_part(leaf) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def sent(run: Run, params: Any, mesh: AnyMesh) -> list[Sent]:
    """Collectives of an update. Kernels and their gradients are sent in the type of matrix products, all else in
    float32."""
    width, leaves = jnp.dtype(run.model.dtype).itemsize, jax.tree.leaves(params)
    bytes_of = lambda leaf: leaf.size * (width if leaf.ndim > 1 else 4)
    split = sum(bytes_of(leaf) for leaf in leaves if _part(leaf) < leaf.size)
    whole = sum(bytes_of(leaf) for leaf in leaves if _part(leaf) == leaf.size)
    found, times = [], run.train.accumulation
    if mesh.shape["fsdp"] > 1:
        found += [Sent("all-gather", ("fsdp",), 2 * times * split), Sent("reduce-scatter", ("fsdp",), times * split)]
    over = tuple(axis for axis in ("data", "fsdp") if mesh.shape[axis] > 1)
    if mesh.shape["data"] > 1:
        found.append(Sent("all-reduce", ("data",), split / mesh.shape["fsdp"]))
    if over:
        found.append(Sent("all-reduce", over, whole))
    return found


@functools.lru_cache(maxsize=64)
def _of_an_example(model: DiT, objective: str) -> tuple[float, float]:
    """(operations in the matrix products of the gradient, bytes that the forward pass keeps for the backward pass) for
    each example, by the remat policy of the network."""

    def loss(params: Any, batch: Any, t: Any) -> Any:
        keys = example_keys(jax.random.key(0), jnp.arange(len(next(iter(batch.values())))))
        predict: Any = lambda x, t: model.apply(params, x, t)
        return jnp.mean(total(OBJECTIVES[objective](predict, model.streams, keys, batch, t)))

    def saved(n: int) -> int:
        backward = lambda params, *rest: jax.vjp(lambda params: loss(params, *rest), params)[1]
        kept = jax.eval_shape(backward, parameter_shapes(model), _examples(model, n), _levels(model, n))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))

    operations = matmul_flops(jax.grad(loss), parameter_shapes(model), _examples(model, FEW), _levels(model, FEW))
    # What does not grow with the batch, such as parameters, is in both.
    return operations / FEW, (saved(2 * FEW) - saved(FEW)) / FEW


@functools.lru_cache(maxsize=64)
def _state_shapes(model: DiT, optimizer: Optimizer, spike: float) -> State:
    return jax.eval_shape(make_init(model, optimizer, spike), jax.random.key(0))


@functools.lru_cache(maxsize=64)
def _of_an_update(model: DiT, optimizer: Optimizer) -> int:
    """Operations in the matrix products of an optimizer, such as Muon's."""
    params = parameter_shapes(model)
    return matmul_flops(optimizer.update, params, jax.eval_shape(optimizer.init, params), params)


def _examples(model: DiT, n: int) -> dict[str, Any]:
    streams = in_data(model.streams)
    return {name: jax.ShapeDtypeStruct((n, *stream.shape), stream.process.dtype) for name, stream in streams.items()}


def _levels(model: DiT, n: int) -> dict[str, Any]:
    return {name: jax.ShapeDtypeStruct((n,), jnp.float32) for name in model.streams}


def _placed(shapes: Any, places: Any) -> Any:
    place = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    return jax.tree.map(place, shapes, places)


def _part(leaf: Any) -> int:
    """How many values of an array one chip holds."""
    return math.prod(leaf.sharding.shard_shape(leaf.shape))
