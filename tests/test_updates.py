"""What an update is made of, in numbers that can be written down: rule, rate, clipping, place, and what is said."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import dit_jax as dj
from dit_jax.config import build, default, restore_run, stream
from dit_jax.diffusion.objective import losses_at
from dit_jax.parallel.mesh import BATCH, batch_devices, make_mesh, shardings
from dit_jax.parallel.modes import MODES
from dit_jax.training import checkpoint, loop
from dit_jax.training.flops import matmul_flops
from dit_jax.training.metrics import Meter
from dit_jax.training.optimizer import make_optimizer
from dit_jax.training.step import BINS, State, make_init, make_step

pytestmark = pytest.mark.usefixtures("quick")

RNG = np.random.default_rng(0)
MATRIX = {"blocks": {"kernel": RNG.standard_normal((2, 8, 6)).astype(np.float32)}}


def updates(optimizer, params, grads):
    """What is added to the parameters, update after update."""
    state = optimizer.init(params)
    for gradient in grads:
        update, state = optimizer.update(gradient, state, params)
        yield jax.device_get(update)


def rates(steps: int, **how) -> np.ndarray:
    """The learning rate of every update: Adam's step is its size, where the gradient is always the same."""
    optimizer = make_optimizer(steps, b1=0.0, b2=0.0, clip=1e9, **how)
    return np.array([-float(u["x"]) for u in updates(optimizer, {"x": jnp.zeros(())}, [{"x": jnp.ones(())}] * steps)])


def test_the_rate_rises_over_the_warm_up_and_the_first_update_has_its_share():
    np.testing.assert_allclose(rates(6, learning_rate=0.8, warmup=4), [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], rtol=1e-5)


def test_the_rate_falls_to_zero_over_all_that_follows_the_warm_up():
    found = rates(6, learning_rate=0.8, warmup=2, decay="linear")
    np.testing.assert_allclose(found, [0.4, 0.8, 0.8, 0.6, 0.4, 0.2], rtol=1e-5)


@pytest.mark.parametrize(("decay", "half"), [("linear", 0.5), ("cosine", 0.5), ("constant", 1.0)])
def test_a_short_decay_is_the_end_of_a_run(decay, half):
    found = rates(8, learning_rate=0.8, decay=decay, decay_steps=2)
    np.testing.assert_allclose(found, 0.8 * np.array([1, 1, 1, 1, 1, 1, 1, half]), rtol=1e-5)


def test_adam_is_its_equations():
    b1, b2, rate = 0.8, 0.6, 0.1
    grads = [np.array([1.0, -2.0]), np.array([0.5, 3.0]), np.array([-4.0, 0.1])]
    optimizer = make_optimizer(3, learning_rate=rate, b1=b1, b2=b2, clip=1e9)
    found = updates(optimizer, jnp.zeros(2), [jnp.asarray(g, jnp.float32) for g in grads])
    m = v = np.zeros(2)
    for n, (g, update) in enumerate(zip(grads, found, strict=True), start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        np.testing.assert_allclose(update, -rate * (m / (1 - b1**n)) / np.sqrt(v / (1 - b2**n)), rtol=1e-5)


@pytest.mark.parametrize(("scale", "same"), [(10.0, True), (0.1, False)])
def test_gradients_are_clipped_to_their_norm_over_all_parameters(scale, same):
    """The second update remembers the first: how large that counts shows whether it was clipped."""
    one, other = {"a": jnp.ones(4), "b": jnp.ones(5)}, {"a": -jnp.ones(4), "b": jnp.ones(5)}  # both of norm 3
    optimizer = make_optimizer(2, learning_rate=1.0, clip=2.0)
    large = jax.tree.map(lambda x: scale * x, one)
    reference, found = (list(updates(optimizer, other, [first, other]))[1] for first in (one, large))
    close = all(np.allclose(a, b, rtol=1e-4) for a, b in zip(*map(jax.tree.leaves, (reference, found)), strict=True))
    assert close == same


def test_muon_makes_matrices_of_blocks_orthogonal_and_leaves_all_else_to_adam():
    """Their updates have Adam's size: 0.2 of the rate at the root of the mean square (arXiv 2502.16982)."""
    params = {**MATRIX, "head": {"kernel": jnp.ones((8, 6))}}
    grads = jax.tree.map(lambda x: jnp.asarray(RNG.standard_normal(x.shape), jnp.float32), params)
    muon = next(updates(make_optimizer(1, name="muon", learning_rate=0.5, clip=1e9), params, [grads]))
    sizes = np.abs(muon["head"]["kernel"])  # of Adam's first update, all alike
    np.testing.assert_allclose(sizes, np.full_like(sizes, sizes[0, 0]), rtol=1e-4)
    for update in muon["blocks"]["kernel"]:
        values = np.linalg.svd(update, compute_uv=False)
        assert values.max() < 2.5 * values.min()
        assert 0.07 < np.sqrt(np.mean(update**2)) < 0.13


@pytest.mark.parametrize(("name", "decaying"), [("adamw", ("blocks", "head")), ("muon", ("blocks",))])
def test_weights_decay_at_the_rate(name, decaying):
    params = {**MATRIX, "head": {"kernel": jnp.full((8, 6), 3.0)}}
    grads = jax.tree.map(lambda x: jnp.ones_like(jnp.asarray(x)), params)
    plain, decayed = (
        next(updates(make_optimizer(1, name=name, learning_rate=0.5, weight_decay=w), params, [grads]))
        for w in (0.0, 0.1)
    )
    for path in decaying:
        wanted = -0.5 * 0.1 * np.asarray(params[path]["kernel"])
        np.testing.assert_allclose(decayed[path]["kernel"] - plain[path]["kernel"], wanted, atol=1e-5)


# One update of a network that is a number. ---------------------------------------------------------------------------

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


# What is said of it. -------------------------------------------------------------------------------------------------


def test_the_meter_means_what_it_says(monkeypatch):
    """Three updates, of which the first compiles; then two seconds for the other two."""
    clock = iter([100.0, 102.0, 102.0, 106.0, 106.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    meter = Meter(batch_size=16, flops=300, peak=1200.0)
    by_level = {"image": (np.array([6.0, 0.0]), np.array([3.0, 0.0]))}
    for loss in (1.0, 2.0, 6.0):
        meter.add({"loss": loss, "grad_norm": 2 * loss, "by_level": by_level})
    values = meter.means()
    assert (values["loss"], values["grad_norm"]) == (3.0, 6.0)
    assert values["steps_per_second"] == 1.0 and values["examples_per_second"] == 16.0
    assert values["flops_per_second"] == 300.0 and values["mfu"] == 0.25
    assert {name: value for name, value in values.items() if "/" in name} == {"loss/image/t0.0-0.5": 2.0}
    meter.add({"loss": 5.0, "grad_norm": 0.0, "by_level": by_level})
    again = meter.means()
    assert again["loss"] == 5.0 and again["steps_per_second"] == 0.25


# Where it is. --------------------------------------------------------------------------------------------------------


def test_the_rules_split_every_matrix_once_along_each_axis_and_no_vector():
    """Tensor splits what is between two products, whose sum is the only thing that devices have to tell each other."""
    model = dj.DiT(IMAGE, width=16, depth=2, heads=2)
    mesh = make_mesh(fsdp=8)
    tree = shardings(jax.eval_shape(model.init, jax.random.key(0)), mesh)
    specs = {jax.tree_util.keystr(k, simple=True, separator="/"): s.spec for k, s in jax.tree.leaves_with_path(tree)}
    blocks = {name.partition("blocks/")[2]: tuple(spec) for name, spec in specs.items() if "blocks/" in name}
    assert blocks["attention/qkv/kernel"] == blocks["mlp/in/kernel"] == (None, "fsdp", "tensor")
    assert blocks["attention/out/kernel"] == blocks["mlp/out/kernel"] == (None, "tensor", "fsdp")
    assert specs["params/image_embed/patches/kernel"] == P("fsdp", "tensor")
    assert all(not any(spec) for name, spec in specs.items() if name.endswith("bias"))


def test_what_an_axis_does_not_divide_stays_whole():
    mesh = make_mesh(fsdp=8)
    found = shardings({"kernel": jnp.zeros((12, 16)), "embedding": jnp.zeros((16, 12))}, mesh)
    assert tuple(found["kernel"].spec) == (None, "tensor") and tuple(found["embedding"].spec) == ("fsdp", "tensor")


@pytest.mark.parametrize("axes", [{}, {"fsdp": 8}, {"fsdp": 2}])
def test_examples_are_split_over_all_devices(axes):
    mesh = make_mesh(**axes)
    placed = MODES["jit"](mesh).put({"x": np.arange(16.0)})["x"]
    assert batch_devices(mesh) == 8 and tuple(BATCH) == (("data", "fsdp"),)
    assert len({str(shard.index) for shard in placed.addressable_shards}) == 8


def test_processes_load_the_batch_between_them(monkeypatch):
    run = configured()
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    rows = []
    for index in range(4):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        rows += list(range(8))[loop._rows(run)]
    assert rows == list(range(8))


def configured(**model):
    config = default()
    config.streams = {"image": stream("image", shape=(8, 8, 1), patch=4)}
    config.model.update(width=16, depth=1, heads=2, **model)
    config.data.update(name="synthetic", batch_size=8)
    return build(config)


def test_an_update_counts_as_three_forward_passes():
    run = configured()
    x, t = {"image": jnp.zeros((8, 8, 8, 1))}, {"image": jnp.zeros(8)}
    params = jax.eval_shape(run.model.init, jax.random.key(0))
    assert loop._flops(run) == 3 * matmul_flops(run.model.apply, params, x, t)


# What is kept of it. -------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path):
    """A run, and a checkpoint of it whose parameters are 1 and their averages 2."""
    run, mode = configured(), MODES["jit"](make_mesh())
    state = mode.create(make_init(run.model, run.optimizer), jax.random.key(0))
    state = state._replace(params=jax.tree.map(jnp.ones_like, state.params), step=jnp.asarray(5, jnp.int32))
    state = state._replace(ema=jax.tree.map(lambda x: 2 * x, state.params))
    with checkpoint.open_manager(tmp_path, keep=1) as manager:
        checkpoint.save(manager, 5, state, run.config)
    return run, mode, tmp_path


def test_samples_are_drawn_with_the_averages(kept):
    _, params, _ = restore_run(str(kept[2]))
    assert all(np.all(leaf == 2) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("change", "accepted"), [("newer", True), ("older", False)])
def test_options_that_are_newer_than_a_checkpoint_are_no_other_network(kept, change, accepted):
    run, mode, workdir = kept
    config = {**run.config, "model": dict(run.config["model"])}
    if change == "newer":
        config["model"]["later"] = 1
    else:
        del config["model"]["unroll"]
    with checkpoint.open_manager(workdir, keep=1) as manager:
        abstract = mode.abstract(make_init(run.model, run.optimizer))
        if accepted:
            step, state = checkpoint.restore(manager, abstract, config)
            assert step == state.step == 5
        else:
            with pytest.raises(checkpoint.CheckpointError, match="another network"):
                checkpoint.restore(manager, abstract, config)
