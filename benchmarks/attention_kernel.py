"""Attention in cuDNN's kernel against the same in its scores, on an NVIDIA GPU: how far apart, and which is faster.

    PYTHONPATH=. python benchmarks/attention_kernel.py

How far apart values and gradients are, in bfloat16, relative to their norm, for heads of 64 and of 72; then the time of
an update of SiT-B/2, batch 256, in a loop over its layers or unrolled, keeping all activations, those of matrix
products or none, which share of the GPU's peak that uses, and the memory that its temporaries take.
"""

import itertools
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from dit_jax.config import build
from dit_jax.configs import imagenet256
from dit_jax.network import layers
from dit_jax.network.dit import REMAT
from dit_jax.training.flops import PEAK, matmul_flops
from dit_jax.training.step import make_init, make_step

UPDATES = 20


def apart(size: int) -> list[float]:
    """Of the output and the gradients by queries, keys and values: |kernel - scores| / |scores|."""
    q, k, v, g = (jax.random.normal(jax.random.key(i), (4, 256, 8, size), jnp.bfloat16) for i in range(4))
    pulled = []
    for seen in None, jnp.ones((256, 256), bool):
        out, pull = jax.vjp(lambda q, k, v, seen=seen: layers.dot_product_attention(q, k, v, seen), q, k, v)
        pulled.append([np.asarray(y, np.float64) for y in (out, *pull(g))])
    return [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(*pulled, strict=True)]


def update(unroll: int, remat: str) -> tuple[float, int, int]:
    """(seconds of an update, operations in its matrix products, bytes of its temporaries)."""
    config = imagenet256.get_config("sit_b2")
    config.model.update(unroll=unroll, remat=remat)
    run, rows = build(config), jnp.arange(config.data.batch_size)
    batch = {"image": jax.random.normal(jax.random.key(1), (len(rows), 32, 32, 4)), "label": rows}
    key = jax.random.key(0)
    step = make_step(run.model.apply, run.streams, run.optimizer, root=key, batch_size=len(rows), ema=0.999)
    state = jax.jit(make_init(run.model, run.optimizer))(key)
    step = jax.jit(step, donate_argnums=0).lower(state, batch, rows).compile()
    flops = 3 * matmul_flops(run.model.apply, state.params, batch, {name: jnp.ones(len(rows)) for name in batch})
    for turn in range(UPDATES + 3):
        if turn == 3:  # the first are for compiling and warming up
            jax.block_until_ready(state)
            start = time.perf_counter()
        state, _ = step(state, batch, rows)
    jax.block_until_ready(state)
    return (time.perf_counter() - start) / UPDATES, flops, step.memory_analysis().temp_size_in_bytes


if __name__ == "__main__":
    device = jax.devices()[0].device_kind
    if not layers.has_kernel(jnp.zeros((1, 1, 1, 64), jnp.bfloat16)):
        sys.exit(f"error: cuDNN has no kernel for {device}; this needs an NVIDIA GPU since Ampere")
    peak = PEAK.get(device, float("nan"))
    print(f"{device}, jax {jax.__version__}")
    for size in 64, 72:
        print(f"heads of {size}: " + ", ".join(f"{difference:.1e}" for difference in apart(size)) + " apart")
    has_kernel = layers.has_kernel
    ways = [("kernel", *way) for way in itertools.product((1, 12), REMAT)]
    for name, unroll, remat in [*ways, ("scores", 1, "dots"), ("scores", 12, "dots")]:
        layers.has_kernel = has_kernel if name == "kernel" else lambda q: False
        seconds, flops, held = update(unroll, remat)
        speed = f"{1000 * seconds:.1f} ms, {flops / seconds / peak:.1%} of the peak, {held / 2**30:.2f} GiB"
        print(f"{name}, unroll {unroll}, remat {remat}: {speed}", flush=True)
