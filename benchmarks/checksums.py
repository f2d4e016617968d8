"""What the checksums of a checkpoint cost, beside an update: python benchmarks/checksums.py

DiT-S/4 on latents of 32 x 32 x 4, batch 16, float32. A checkpoint computes them once, so its share of training is that
of `checkpoint.every` updates.
"""

import statistics
import time

import jax
import jax.numpy as jnp

import dit_jax as dj
from dit_jax.network.dit import SIZES
from dit_jax.run import CheckpointOptions
from dit_jax.training.fingerprint import survey
from dit_jax.training.optimizer import make_optimizer
from dit_jax.training.step import make_init, make_step

WIDTH, DEPTH, HEADS = SIZES["S"]


def seconds(function, count: int = 9) -> float:
    found = []
    for _ in range(count):
        begin = time.perf_counter()
        function()
        found.append(time.perf_counter() - begin)
    return statistics.median(found[1:])


def main() -> None:
    streams = {"image": dj.streams.image((32, 32, 4), patch=4), "label": dj.streams.label(1000)}
    model, optimizer = dj.DiT(streams, width=WIDTH, depth=DEPTH, heads=HEADS), make_optimizer(1000)
    state = jax.jit(make_init(model, optimizer))(jax.random.key(0))
    step = jax.jit(make_step(model.apply, streams, optimizer, root=jax.random.key(1), batch_size=16, ema=0.999))
    batch = {"image": jnp.zeros((16, 32, 32, 4)), "label": jnp.zeros(16, jnp.int32)}
    update = seconds(lambda: jax.block_until_ready(step(state, batch, jnp.arange(16))))
    begin = time.perf_counter()
    survey(state._asdict())
    first = time.perf_counter() - begin
    checksums, every = seconds(lambda: survey(state._asdict())), CheckpointOptions().every
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    print(f"an update {update:.3f} s; checksums of {size:.0f} MB {checksums:.3f} s, the first time {first:.1f} s")
    print(f"of {every} updates: {checksums / (every * update):.4%}, or 2 % of {checksums / update / 0.02:.0f} updates")


if __name__ == "__main__":
    main()
