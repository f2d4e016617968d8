"""How many floating-point operations a function does, counted in its jaxpr, and what devices can do at most."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dit_jax.network.dit import DiT, parameter_shapes
from dit_jax.run import Run

# Dense bf16 operations a second of one device, from the vendors' data sheets. Names are those of
# `jax.Device.device_kind`.
PEAK = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}

# Products of queries and keys, [B, n, heads, d] and [B, N, heads, d], in the kernels that attention may be.
ATTENTION = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}


def flops(run: Run) -> int:
    """Operations in the matrix products of an update; three forward passes' worth, by the convention of MFU."""
    return 3 * run.data.batch_size * forward_flops(run.model)


@functools.lru_cache(maxsize=64)
def forward_flops(model: DiT) -> int:
    """Operations in the matrix products of a forward pass of one example."""
    x = {name: jax.ShapeDtypeStruct((1, *s.shape), s.process.dtype) for name, s in model.streams.items()}
    levels = {name: jax.ShapeDtypeStruct((1,), jnp.float32) for name in x}
    return matmul_flops(model.apply, parameter_shapes(model), x, levels)


def peak(mesh: jax.sharding.Mesh) -> float | None:
    """Operations a second that the whole mesh could do, where the data sheet is known."""
    one = PEAK.get(mesh.devices.flat[0].device_kind)
    return one and one * mesh.size


def matmul_flops(function: Callable, *arguments) -> int:
    """Operations in the matrix products of function(*arguments), 2 for a multiply-add; loops count every turn.

    Arguments may be `jax.ShapeDtypeStruct`s. Recomputed products (remat) count as often as they run.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * int(np.prod(out)) * int(np.prod([left[axis] for axis in contracted]))
        if products := ATTENTION.get(equation.primitive.name, 0):
            queries, keys = (variable.aval.shape for variable in equation.invars[:2])
            total += products * 2 * int(np.prod(queries)) * keys[1]
        turns = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += turns * sum(_count(inner) for inner in _inner(equation.params))
    return total


def _inner(params: dict):
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item
