"""What the checks of training cost, beside an update: python benchmarks/checks.py

DiT-S/4 on latents of 32 x 32 x 4, batch 16, float32. Skipping updates that are not finite and looking at each example
are part of every update; a checkpoint computes checksums, which training waits for, and is read back in the background,
so their share is that of `checkpoint.every` updates.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dit_jax as dj
from dit_jax.data.pipeline import check_example
from dit_jax.network.dit import SIZES
from dit_jax.run import CheckpointOptions
from dit_jax.training import step as step_module
from dit_jax.training.checkpoint import ARRAYS, check_on_host, load
from dit_jax.training.fingerprint import survey
from dit_jax.training.optimizer import make_optimizer
from dit_jax.training.saving import Saver
from dit_jax.training.step import State, make_init, make_step

WIDTH, DEPTH, HEADS = SIZES["S"]
BATCH = 16


def unchecked(state, loss, grads, optimizer, trainable, ema, spike):
    """What `_updated` does, without skipping anything."""
    updates, opt = optimizer.update(grads, state.opt, state.params)
    params = optax.apply_updates(state.params, trainable(updates))
    keep = jnp.minimum(ema, (1 + state.step) / (10 + state.step))
    average = jax.tree.map(lambda old, new: old + (1 - keep) * (new - old), state.ema, params)
    return State(state.step + 1, params, average, opt), optax.tree.norm(grads), jnp.array(True)


def seconds(*functions: Callable[[], object], count: int = 12) -> list[float]:
    """The median time of each, taken in turns, so that what else the machine does meets them all."""
    found: list[list[float]] = [[] for _ in functions]
    for _ in range(count):
        for function, times in zip(functions, found, strict=True):
            begin = time.perf_counter()
            function()
            times.append(time.perf_counter() - begin)
    return [statistics.median(times[1:]) for times in found]


def main() -> None:
    streams = {"image": dj.streams.image((32, 32, 4), patch=4), "label": dj.streams.label(1000)}
    model, optimizer = dj.DiT(streams, width=WIDTH, depth=DEPTH, heads=HEADS), make_optimizer(1000)
    state = jax.jit(make_init(model, optimizer))(jax.random.key(0))
    update = make_step(model.apply, streams, optimizer, root=jax.random.key(1), batch_size=BATCH, ema=0.999)
    batch = {"image": jnp.zeros((BATCH, 32, 32, 4)), "label": jnp.zeros(BATCH, jnp.int32)}
    rows = jnp.arange(BATCH)

    checked = jax.jit(update).lower(state, batch, rows).compile()
    step_module._updated = unchecked
    plain = jax.jit(lambda *arguments: update(*arguments)).lower(state, batch, rows).compile()
    with_skips, without = seconds(*(lambda f=f: jax.block_until_ready(f(state, batch, rows)) for f in (checked, plain)))

    examples = [{name: np.asarray(values[i]) for name, values in batch.items()} for i in range(BATCH)]
    (looks,) = seconds(lambda: [check_example(streams, example) for example in examples])

    survey(state._asdict())  # compiles
    (checksums,) = seconds(lambda: survey(state._asdict()))
    with tempfile.TemporaryDirectory() as folder:
        with Saver(folder, 1) as saver:
            begin = time.perf_counter()
            saver.write(1, {name: getattr(state, name) for name in ARRAYS}, {"config": {}})
            blocking = time.perf_counter() - begin
            saver.wait()
            whole = time.perf_counter() - begin
        (read_back,) = seconds(lambda: check_on_host(load(Path(folder) / "checkpoints" / "1")), count=3)

    every, size = CheckpointOptions().every, sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 1e6
    print(f"an update: {with_skips:.3f} s; {without:.3f} s without skipping: {with_skips / without - 1:+.2%}")
    print(f"looking at {BATCH} examples: {looks * 1e6:.0f} us, {looks / with_skips:.3%} of an update")
    print(f"checksums of {size:.0f} MB: {checksums:.2f} s, {checksums / (every * with_skips):.3%} of {every} updates")
    print(f"read back: {read_back:.2f} s of one core in the background, {read_back / (every * with_skips):.3%} of them")
    print(f"a checkpoint: training waits for {blocking:.2f} of {whole:.2f} s")


if __name__ == "__main__":
    main()
