"""Update rules, against closed forms and plain optax: what is configured is what happens to every parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import dit_jax as dj
from dit_jax.network.layers import BLOCKS
from dit_jax.training.optimizer import OPTIMIZERS, decays, make_optimizer

PARAMS = {"x": {"kernel": jnp.asarray([[1.0, -2.0], [3.0, 0.5]]), "bias": jnp.asarray([0.1, -0.2])}}
GRADIENT = jax.tree.map(lambda x: 0.01 * x + 0.02, PARAMS)


def updates(optimizer, gradients, params=PARAMS):
    """The update of every step."""
    state, found = jax.jit(optimizer.init)(params), []
    step = jax.jit(optimizer.update)
    for gradient in gradients:
        update, state = step(gradient, state, params)
        found.append(update)
    return found


def rates(steps: int, **options) -> np.ndarray:
    """The learning rate of every update, seen in Adam's first-order steps: of a constant gradient each is the rate."""
    optimizer = make_optimizer(steps, clip=float("inf"), b1=0.0, b2=0.0, **options)
    one = {"x": jnp.ones(1)}
    return np.array([-float(update["x"][0]) for update in updates(optimizer, [one] * steps, one)])


def network(block: str, experts: str = "none"):
    """Parameters of a small network with every kind of leaf there is."""
    speech, streams = dj.streams.audio(8, patch=4), {"image": dj.streams.image((4, 4, 1), patch=2)}
    streams |= {"text": dj.streams.text(4), "speech": speech, "label": dj.streams.label(3), "span": dj.streams.span()}
    streams["duration"] = dj.streams.duration(speech)
    model = dj.DiT(streams, width=12, depth=2, heads=2, block=block, experts=experts, weights="learned")
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(model.init, jax.random.key(0)))


@pytest.mark.parametrize("experts", ["none", pytest.param("streams", marks=pytest.mark.heavy)])
@pytest.mark.parametrize("block", BLOCKS)
def test_kernels_and_embeddings_decay_and_biases_and_offsets_never(block, experts):
    """Whatever their rank: leaves of scanned layers have an axis more. Seen in an update whose gradient is zero."""
    params = network(block, experts)
    optimizer = make_optimizer(10, learning_rate=0.1, weight_decay=0.5)
    (update,) = updates(optimizer, [jax.tree.map(jnp.zeros_like, params)], params)
    names = set()
    for path, change in jax.tree_util.tree_leaves_with_path(update):
        name = path[-1].key
        names.add(name)
        wanted = {"kernel": -0.05, "embedding": -0.05}.get(name, 0.0)
        np.testing.assert_allclose(change, wanted, rtol=1e-6, err_msg=jax.tree_util.keystr(path))
    assert {"kernel", "embedding", "bias"} <= names
    assert ("modulation" in names) == (block == "modern") and ("level_offset" in names) == (experts == "streams")
    assert jax.tree.structure(decays(params)) == jax.tree.structure(params)


def test_muon_decays_the_matrices_that_it_orthogonalises():
    params = network("modern")
    optimizer = make_optimizer(10, name="muon", learning_rate=0.1, weight_decay=0.5)
    (update,) = updates(optimizer, [jax.tree.map(jnp.zeros_like, params)], params)
    for path, change in jax.tree_util.tree_leaves_with_path(update):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        hidden = "blocks/" in name and name.endswith("kernel")
        np.testing.assert_allclose(change, -0.05 if hidden else 0.0, atol=1e-7, err_msg=name)


def test_adamw_is_optax_adamw():
    """With the betas and the decay in their places, over three updates of different gradients."""
    optimizer = make_optimizer(
        3, learning_rate=0.1, clip=float("inf"), weight_decay=0.3, b1=0.7, b2=0.6, decay="constant"
    )
    plain = optax.adamw(0.1, b1=0.7, b2=0.6, weight_decay=0.3, mask={"x": {"kernel": True, "bias": False}})
    gradients = [jax.tree.map(lambda g, k=k: g * (1 - 3 * k), GRADIENT) for k in (1.0, 0.2, -0.5)]
    for ours, theirs in zip(updates(optimizer, gradients), updates(plain, gradients), strict=True):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


def test_muon_orthogonalises_matrices_of_blocks_and_is_nadam_for_all_else():
    params = network("published")
    rng = np.random.default_rng(0)
    gradients = [jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params) for _ in range(3)]
    optimizer = make_optimizer(3, name="muon", learning_rate=0.1, clip=float("inf"), weight_decay=0.3, b1=0.7, b2=0.6)
    adam = updates(optax.nadam(0.1, b1=0.7, b2=0.6), gradients, params)
    for step, update in enumerate(updates(optimizer, gradients, params)):
        kernel = lambda tree: tree["params"]["blocks"]["mlp"]["in"]["kernel"][1]
        for path, change in jax.tree_util.tree_leaves_with_path(update):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            if not ("blocks/" in name and name.endswith("kernel")):
                theirs = dict(jax.tree_util.tree_leaves_with_path(adam[step]))[path]
                np.testing.assert_allclose(change, theirs, rtol=2e-4, atol=1e-6, err_msg=name)
        moved = kernel(update) + 0.1 * 0.3 * kernel(params)
        singular = np.linalg.svd(moved, compute_uv=False) / (0.1 * 0.2 * np.sqrt(48))
        assert np.all((singular > 0.5) & (singular < 1.5)), "five steps of Newton-Schulz leave about 0.7 to 1.2"


@pytest.mark.parametrize("clip", [0.01, 1.0, 1e6, float("inf")])
def test_gradients_are_clipped_to_their_global_norm(clip):
    """Seen in AdamW's momentum after an update, which is (1 - b1) times the clipped gradient."""
    optimizer = make_optimizer(1, clip=clip, b1=0.9)
    state = optimizer.update(GRADIENT, optimizer.init(PARAMS), PARAMS)[1]
    norm = float(np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(GRADIENT))))
    (mu,) = [part.mu for part in jax.tree.leaves(state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(part, "mu")]
    wanted = jax.tree.map(lambda g: 0.1 * g * min(1.0, clip / norm), GRADIENT)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), mu, wanted)


def test_the_rate_warms_up_stays_and_decays_over_the_last_updates():
    steps = np.arange(10)
    np.testing.assert_allclose(rates(10, learning_rate=0.5), np.full(10, 0.5), rtol=1e-5)
    warm = rates(10, learning_rate=0.5, warmup=4)
    np.testing.assert_allclose(warm, 0.5 * np.minimum((steps + 1) / 4, 1), rtol=1e-5)
    linear = rates(10, learning_rate=0.5, warmup=2, decay="linear", decay_steps=4)
    np.testing.assert_allclose(
        linear, 0.5 * np.minimum((steps + 1) / 2, 1) * np.minimum((10 - steps) / 4, 1), rtol=1e-5
    )
    cosine = rates(10, learning_rate=0.5, decay="cosine")
    np.testing.assert_allclose(cosine, 0.5 * (1 + np.cos(np.pi * steps / 10)) / 2, rtol=1e-4)
    after = rates(10, learning_rate=0.5, warmup=2, decay="linear")
    np.testing.assert_allclose(after[2:], 0.5 * (10 - steps[2:]) / 8, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, "clip = 0.0 should be above 0, or inf"),
        ({"clip": float("nan")}, "clip = nan should be above 0"),
        ({"learning_rate": -1.0}, "learning_rate = -1.0 should be at least 0"),
        ({"learning_rate": float("inf")}, "learning_rate = inf should be at least 0"),
        ({"b1": 1.5}, "b1 = 1.5 should be at least 0 and below 1"),
        ({"b2": -0.1}, "b2 = -0.1 should be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1 should be at least 0"),
        ({"warmup": 11}, "warmup = 11 should be 0 ... 10, the updates of the run"),
        ({"warmup": -1}, "warmup = -1 should be at least 0"),
        ({"warmup": 4, "decay_steps": 7}, "decay_steps = 7 should be 0 ... 6, the updates after warm-up"),
        ({"name": "adam"}, "name = 'adam' does not exist"),
        ({"decay": "liner"}, "decay = 'liner' does not exist"),
    ],
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_cannot_be_meant_is_an_error(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(10, **{"name": name} | options)
