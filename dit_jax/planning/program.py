"""The real update, and the real sampler, compiled by TPU's own compiler for chips that are not here."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from dit_jax.parallel.mesh import BATCH, mesh_of
from dit_jax.parallel.modes import jit_mode
from dit_jax.planning import hlo
from dit_jax.planning.chips import Topology
from dit_jax.planning.estimate import abstract_batch, abstract_state, on_chip
from dit_jax.planning.roofline import Sent, Work
from dit_jax.run import Run
from dit_jax.sampling.draw import compiled_sampler
from dit_jax.sampling.plan import make_plan
from dit_jax.training.flops import flops, matmul_flops
from dit_jax.training.update import make_update

# How chips of a kind are named where a TPU host says which it has, for so many of them.
ACCELERATORS = {"v4": ("v4", 2), "v5e": ("v5litepod", 1), "v5p": ("v5p", 2), "v6e": ("v6e", 1)}


class Program(NamedTuple):
    """A compiled program: its work for each chip, and the bytes that a chip holds while it runs."""

    work: Work
    peak: float


class TooLargeError(ValueError):
    """A program that does not fit the memory of a chip; its message is what the compiler says of it."""


def described_mesh(run: Run, topology: Topology) -> Mesh:
    """The mesh of a run on a TPU topology. Raises ValueError for one that does not exist, or where the compiler is
    missing."""
    return mesh_of(described_devices(topology), **run.parallel.axes())


def described_devices(topology: Topology) -> Sequence[jax.Device]:
    """The chips of a TPU topology as its compiler describes them; no TPU is needed."""
    from jax.experimental import topologies  # what it needs is not installed everywhere

    name, cores = ACCELERATORS[topology.kind]
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",  # do not ask whether this machine is a TPU host
        "TPU_ACCELERATOR_TYPE": f"{name}-{cores * topology.number}",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a second plan may run beside this one
    }
    shape = "x".join(map(str, topology.shape))
    whole = {"chip_config_name": "megacore"} if topology.kind == "v4" else {}  # two cores of a chip are one device
    try:
        return topologies.get_topology_desc(f"{topology.kind}:{shape}", "tpu", **whole).devices
    except Exception as error:  # of any kind, as the compiler is a plugin
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"--topology={topology.kind}:{shape} cannot be described ({reason}); the TPU compiler is installed by "
            "pip install libtpu, and a shape has to be one that there is, such as v5e:4x4 or v5p:2x2x2"
        ) from None


def training(run: Run, mesh: Mesh) -> Program:
    """The update of a run, compiled. Raises TooLargeError."""
    state, (batch, rows) = abstract_state(run, mesh), abstract_batch(run, mesh)
    mode = jit_mode(mesh)
    update = make_update(run, jax.random.key(0), mode)
    jitted: Any = mode.compile(update)
    compiled = _compile(jitted.lower(state, batch, rows))
    return _program(compiled, mesh, on_chip(state), flops(run) / mesh.size)


def sampling(run: Run, mesh: Mesh) -> Program:
    """The sampler of a run, which draws sample.batch samples, compiled. Raises TooLargeError."""
    options, spread = run.sample, NamedSharding(mesh, BATCH)
    plan = make_plan(run.streams, options)
    params = jit_mode(mesh).abstract(run.model.init)
    sampler: Any = compiled_sampler(run, (run.model,), mesh, options, plan.order)
    taken = plan.take(np.arange(options.batch))
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread), taken)
    w = jax.tree.map(np.float32, options.excess())
    arguments: Any = ((params,), jax.random.key(0), w, *placed)
    compiled = _compile(sampler.lower(*arguments))
    return _program(compiled, mesh, on_chip(params), matmul_flops(sampler, *arguments) / mesh.size)


def _compile(lowered: Any) -> Any:
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise TooLargeError(str(error)) from None


def _program(compiled: Any, mesh: Mesh, state: int, model: float) -> Program:
    memory, counts = compiled.memory_analysis(), hlo.count(compiled.as_text(), mesh.size)
    sent: dict[tuple[str, tuple[str, ...]], float] = {}
    for moved in counts.moved:
        key = moved.kind, axes_of(moved.group, mesh)
        sent[key] = sent.get(key, 0.0) + moved.bytes
    work = Work(
        operations=counts.flops,
        model=model,
        state=state,
        temporaries=memory.temp_size_in_bytes,
        traffic=counts.memory,
        sent=[Sent(*key, size) for key, size in sent.items() if key[1]],
    )
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return Program(work, peak - memory.alias_size_in_bytes)


def axes_of(group: Sequence[int], mesh: Mesh) -> tuple[str, ...]:
    """The axes of a mesh along which the chips of a group differ."""
    places = np.unravel_index(np.asarray(group), tuple(mesh.shape.values()))
    return tuple(axis for axis, where in zip(mesh.shape, places, strict=True) if len(np.unique(where)) > 1)
