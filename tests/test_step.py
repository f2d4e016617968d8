"""An update is a function of the state and the batch alone: how it is spread over time and devices does not matter."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dit_jax as dj
from dit_jax.network.layers import MODERN
from dit_jax.parallel.mesh import make_mesh
from dit_jax.parallel.modes import MODES
from dit_jax.training.step import BINS, make_init, make_step

STREAMS = {"image": dj.streams.image((8, 8, 1), patch=4), "label": dj.streams.label(10)}
MODEL = dj.DiT(STREAMS, width=48, depth=2, heads=2, block=MODERN)
OPTIMIZER = optax.sgd(0.5)  # linear in the gradient: differences show, and are not blown up where gradients are tiny
BATCH = 16


def batch(step: int = 0) -> dict[str, np.ndarray]:
    """Images of one grey level each, which is something to learn."""
    rng = np.random.default_rng(step)
    return {
        "image": np.full((BATCH, 8, 8, 1), rng.uniform(-1, 1, (BATCH, 1, 1, 1)), np.float32),
        "label": rng.integers(0, 10, BATCH).astype(np.int32),
    }


def run(mode: str = "jit", axes: dict | None = None, accumulation: int = 1, steps: int = 4, optimizer=OPTIMIZER):
    """Losses and final state of a few updates."""
    mode = MODES[mode](make_mesh(**(axes or {})))
    step = mode.compile(
        make_step(
            MODEL.apply,
            STREAMS,
            optimizer,
            root=jax.random.key(1),
            batch_size=BATCH,
            ema=0.9,
            accumulation=accumulation,
            axis=mode.axis,
        )
    )
    state = mode.adopt(mode.create(make_init(MODEL, optimizer), jax.random.key(0)))
    rows, metrics = mode.put({"rows": np.arange(BATCH)})["rows"], []
    for i in range(steps):
        state, measured = step(state, mode.put(batch(i)), rows)
        metrics.append(jax.device_get(measured))
    return metrics, jax.device_get(mode.plain(state))


@pytest.fixture(scope="module")
def reference():
    return run(axes={"data": 8})


def same(ours, theirs, tolerance: float = 2e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), ours, theirs)


def alone(steps: int):
    """(metrics, state) after each update on one device, without a mesh: the step function, jitted as it is."""
    step = jax.jit(make_step(MODEL.apply, STREAMS, OPTIMIZER, root=jax.random.key(1), batch_size=BATCH, ema=0.9))
    state = make_init(MODEL, OPTIMIZER)(jax.random.key(0))
    for i in range(steps):
        state, metrics = step(state, batch(i), jnp.arange(BATCH))
        yield jax.device_get((metrics, state))


def test_one_device_gives_what_eight_give(reference):
    metrics, states = zip(*alone(4), strict=True)
    same(list(metrics), reference[0])
    same(states[-1], reference[1])


@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"fsdp": 2}])
def test_every_mesh_gives_the_same(axes, reference):
    metrics, state = run(axes=axes)
    same(metrics, reference[0])
    same(state, reference[1])


def test_pmap_gives_the_same(reference):
    metrics, state = run("pmap")
    same([m["loss"] for m in metrics], [m["loss"] for m in reference[0]])
    same([m["grad_norm"] for m in metrics], [m["grad_norm"] for m in reference[0]])
    same(state, reference[1])


@pytest.mark.parametrize(("mode", "axes"), [("jit", {"data": 8}), ("pmap", {})])
def test_accumulation_is_one_big_batch(mode, axes, reference):
    metrics, state = run(mode, axes, accumulation=2)
    same([m["loss"] for m in metrics], [m["loss"] for m in reference[0]])
    same(state, reference[1])


def test_the_state_is_born_in_pieces():
    mesh = make_mesh(fsdp=8)
    state = MODES["jit"](mesh).create(make_init(MODEL, optax.adam(1e-3)), jax.random.key(0))
    for tree in (state.params, state.ema, state.opt[0].mu):
        kernel = tree["params"]["blocks"]["attention"]["qkv"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == (2, 48 // 8, 144)


def test_initial_parameters_do_not_depend_on_the_mesh():
    states = [MODES["jit"](make_mesh(**axes)).create(MODEL.init, jax.random.key(0)) for axes in ({}, {"fsdp": 8})]
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, states))


def test_the_average_follows_the_parameters_with_its_decay():
    """By hand, over three updates of one parameter."""
    leaf = lambda tree: np.asarray(tree["params"]["image_head"]["patches"]["kernel"], np.float64)
    average = leaf(MODEL.init(jax.random.key(0)))
    for done, (_, state) in enumerate(alone(3)):
        keep = min(0.9, (1 + done) / (10 + done))
        average = keep * average + (1 - keep) * leaf(state.params)
        np.testing.assert_allclose(leaf(state.ema), average, atol=1e-7)


def test_losses_by_level_add_up_to_the_loss(reference):
    for metrics in reference[0]:
        sums, counts = metrics["by_level"]["image"]
        assert counts.shape == (BINS,) and counts.sum() == BATCH
        np.testing.assert_allclose(sums.sum() / BATCH, metrics["loss"], rtol=1e-5)


def test_an_update_depends_on_the_step_it_is():
    """The same parameters and batch see other levels and other noise at another step, and the same at the same one."""
    told = []

    def network(params, x, t):
        jax.debug.callback(lambda t, z: told.append((np.asarray(t), np.asarray(z))), t["image"], x["image"])
        return {"image": x["image"] * params["scale"]}

    start = make_init(types.SimpleNamespace(init=lambda key: {"scale": jnp.ones(())}), OPTIMIZER)(jax.random.key(0))
    step = jax.jit(make_step(network, STREAMS, OPTIMIZER, root=jax.random.key(1), batch_size=BATCH, ema=0.9))

    def seen(count: int) -> tuple[np.ndarray, np.ndarray]:
        """Levels and noise of the update after so many."""
        state = start._replace(step=jnp.asarray(count, jnp.int32))
        jax.block_until_ready(step(state, batch(), jnp.arange(BATCH)))
        jax.effects_barrier()
        t, z = told[-1]
        alpha, sigma = (np.asarray(part).reshape(BATCH, 1, 1, 1) for part in STREAMS["image"].process.schedule(t))
        return t, (z - alpha * batch()["image"]) / sigma

    first, second, again = seen(0), seen(1), seen(0)
    for a, b, repeated in zip(first, second, again, strict=True):
        np.testing.assert_array_equal(a, repeated)
        assert np.mean(np.isclose(a, b, atol=1e-4)) < 0.1


def test_training_lowers_the_loss():
    losses = [float(m["loss"]) for m in run(axes={"data": 8}, steps=60, optimizer=optax.adam(3e-3))[0]]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
