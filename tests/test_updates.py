"""One update of a network that is a number: whose noise it has, and what it says of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dit_jax as dj
from dit_jax.diffusion.objective import losses_at
from dit_jax.parallel.mesh import BATCH, batch_devices, make_mesh
from dit_jax.parallel.modes import MODES
from dit_jax.training.step import BINS, State, make_step

RNG = np.random.default_rng(0)
IMAGE = {"image": dj.streams.image((8, 8, 1), patch=4, levels=lambda u: jnp.ones_like(u))}
BATCH_OF_8 = {"image": np.asarray(RNG.standard_normal((8, 8, 8, 1)), np.float32)}


def say(params, x, t):
    return {"image": params["a"] * x["image"]}


def stepped(mode=None, axis=None, streams=IMAGE, optimizer=None, count: int = 1):
    """Metrics of updates on one and the same batch."""
    optimizer = optimizer or optax.sgd(0.0)
    step = make_step(say, streams, optimizer, root=jax.random.key(0), batch_size=8, ema=0.9, axis=axis)
    state = State(
        jnp.zeros((), jnp.int32), {"a": jnp.ones(())}, {"a": jnp.ones(())}, optimizer.init({"a": jnp.ones(())})
    )
    if mode is None:
        step, batch, rows = jax.jit(step), BATCH_OF_8, jnp.arange(8)
    else:
        step, batch, rows = mode.compile(step), mode.put(BATCH_OF_8), mode.put({"rows": np.arange(8)})["rows"]
        state = mode.adopt(state)
    for _ in range(count):
        state, metrics = step(state, batch, rows)
        yield jax.device_get(metrics)


def test_every_update_has_noise_of_its_own():
    """The batch is the same, and at a rate of 0 the parameters are."""
    first, second = stepped(count=2)
    assert first["loss"] != second["loss"]


def test_the_norm_is_that_of_the_gradient_before_it_is_clipped():
    plain, small = (next(stepped(optimizer=rule))["grad_norm"] for rule in (optax.sgd(1.0), optax.sgd(1e-3)))
    assert plain == small > 0


def test_noise_alone_is_in_the_last_bin():
    sums, counts = next(stepped())["by_level"]["image"]
    np.testing.assert_array_equal(counts, [0] * (BINS - 1) + [8])
    assert sums[-1] > 0


def test_losses_by_level_are_those_of_all_devices():
    """A share of the sums and of the counts alike: what is said of them is their ratio."""
    streams = {"image": dj.streams.image((8, 8, 1), patch=4, levels=lambda u: u)}
    (sums, counts), (shared, shares) = (
        next(stepped(mode, mode and mode.axis, streams))["by_level"]["image"]
        for mode in (None, MODES["pmap"](make_mesh()))
    )
    assert np.count_nonzero(counts) > 3
    np.testing.assert_allclose(shares / shares.sum(), counts / counts.sum(), rtol=1e-6)
    np.testing.assert_allclose(shared / shares.sum(), sums / counts.sum(), rtol=1e-5)


def test_a_streams_noise_is_its_own():
    """Two streams that hold the same at the same level are not noised alike."""
    streams = {name: IMAGE["image"] for name in ("one", "other")}
    keys = jax.vmap(jax.random.key)(jnp.arange(8))
    batch, t, heard = dict.fromkeys(streams, BATCH_OF_8["image"]), dict.fromkeys(streams, jnp.full(8, 0.5)), {}
    losses_at(lambda x, t: heard.update(x) or x, streams, keys, batch, t)
    assert np.abs(heard["one"] - heard["other"]).max(axis=(1, 2, 3)).min() > 0


@pytest.mark.parametrize("axes", [{}, {"fsdp": 8}, {"fsdp": 2}])
def test_examples_are_split_over_all_devices(axes):
    mesh = make_mesh(**axes)
    placed = MODES["jit"](mesh).put({"x": np.arange(16.0)})["x"]
    assert batch_devices(mesh) == 8 and tuple(BATCH) == (("data", "fsdp"),)
    assert len({str(shard.index) for shard in placed.addressable_shards}) == 8
