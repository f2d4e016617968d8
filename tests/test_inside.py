"""Every panel on a model whose answer is known: hand-built networks, planted channels, exact denoisers, known maps."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.schedules import SCHEDULES
from dit_jax.inside.heads import attention_maps, between_streams, concept_maps, head_table
from dit_jax.inside.identity import linear_probe, nearest_probe, patched, probe_map, switched
from dit_jax.inside.jacobian import top_directions
from dit_jax.inside.noised import Study, estimate, noised, values_by_level
from dit_jax.inside.optimum import losses_and_optimum, optimal_denoiser, posterior
from dit_jax.inside.parts import (
    activation_map,
    block_ablation,
    channel_ablation,
    head_ablation,
    lens,
    lens_losses,
    over_median,
)
from dit_jax.network.layout import token_counts
from dit_jax.network.taps import tapped

DEPTH, HEADS, WIDTH, READER = 4, 2, 16, 2  # block 2 alone reads the label
LEVELS = (0.2, 0.5, 0.9)
STREAMS = {"image": dj.streams.image((2, 4, 1), patch=1), "label": dj.streams.label(3)}
MODEL = dj.DiT(STREAMS, width=WIDTH, depth=DEPTH, heads=HEADS)
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def filled(model, seed=0):
    """Parameters that are nowhere zero."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


def changed(params, **leaves):
    """Parameters, of which some are a function of what they were: their path with _ for each level, as a__b__c."""
    for path, change in leaves.items():
        keys = path.split("__")
        here = params["params"]
        for key in keys:
            here = here[key]
        value = change(here)
        for i in range(len(keys) - 1, -1, -1):
            parent = params["params"]
            for key in keys[:i]:
                parent = parent[key]
            value = {**parent, keys[i]: value}
        params = {"params": value}
    return params


def only_block(block):
    return lambda leaf: leaf * (jnp.arange(DEPTH) == block).reshape(-1, *(1,) * (leaf.ndim - 1))


def reader():
    """All blocks work, and modulation of block 2 alone depends on anything: on the label, and on no level."""
    zero = jnp.zeros_like
    return changed(
        filled(MODEL),
        level_embed__out__kernel=zero,
        level_embed__out__bias=zero,
        final_modulation__kernel=zero,
        blocks__modulation__kernel=only_block(READER),
    )


def idle_but(block):
    """All gates are 0 but those of one block."""
    return changed(
        filled(MODEL), blocks__modulation__kernel=only_block(block), blocks__modulation__bias=only_block(block)
    )


def batch(count=5, seed=0):
    rng = np.random.default_rng(seed)
    image = jnp.asarray(rng.normal(size=(count, 2, 4, 1)), jnp.float32)
    return {"image": image, "label": jnp.arange(count) % 3}


def study(params):
    return Study(MODEL, params, batch(), LEVELS)


class Denoiser(NamedTuple):
    """A function in the place of a network."""

    streams: dict
    predict: Callable

    def apply(self, params, x, t):
        return self.predict(x, t)


def mean_loss(params, level, model=MODEL):
    x, t, targets = noised(STREAMS, batch(), level)
    predictions = model.apply(params, x, t)
    return float(jnp.mean(STREAMS["image"].process.loss(predictions["image"], targets["image"], t["image"])))


def final_layer(p, x, level):
    """In NumPy, of the residual [5, 8, D]: norm, modulation by level and labels, head, patches."""
    dense = lambda x, layer: x @ layer["kernel"] + layer["bias"]
    angle = 1000.0 * level * 10000.0 ** -(np.arange(128) / 128)
    embedded = dense(np.concatenate([np.cos(angle), np.sin(angle)]), p["level_embed"]["in"])
    condition = dense(jax.nn.silu(embedded), p["level_embed"]["out"]) + p["label_embed"]["embedding"][batch()["label"]]
    shift, scale = np.split(dense(jax.nn.silu(condition), p["final_modulation"])[:, None], 2, axis=-1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return dense(x * (1 + scale) + shift, p["image_head"]["patches"]).reshape(5, 2, 4, 1)


# What panels look at --------------------------------------------------------------------------------------------------


def test_examples_are_noised_at_one_level_with_the_same_noise_and_conditions_stay():
    noise = []
    for level in LEVELS:
        x, t, targets = noised(STREAMS, batch(), level)
        np.testing.assert_array_equal(x["label"], batch()["label"])
        close(t["image"], np.full(5, level))
        close(t["label"], np.zeros(5))
        noise.append((x["image"] - (1 - level) * batch()["image"]) / level)
        close(targets["image"], batch()["image"])
    close(noise[0], noise[1], atol=1e-4)
    close(noise[0], noise[2], atol=1e-4)
    hidden = noised(STREAMS, batch(), 0.5, hidden=["label"])
    assert np.all(hidden.x["label"] == 3) and np.all(hidden.t["label"] == 1)


def test_an_estimate_is_the_clean_value_of_a_right_prediction():
    for prediction in ("x", "noise", "v", "velocity"):
        stream = dj.streams.image((2, 4, 1), patch=1, process=Gaussian(SCHEDULES["cosine"], prediction))
        x, t, targets = noised({"image": stream}, {"image": batch()["image"]}, 0.4)
        close(estimate(stream, x["image"], targets["image"], t["image"]), batch()["image"], atol=1e-4)
    text = dj.streams.text(4, 5)
    said, hidden = jnp.array([[0, 1, 2, 3]]), jnp.array([[0, 5, 2, 5]])
    logits = 9.0 * jax.nn.one_hot(jnp.array([[4, 1, 4, 3]]), 5)
    np.testing.assert_array_equal(estimate(text, hidden, logits, jnp.array([0.5])), said)


# Lens and ablation ----------------------------------------------------------------------------------------------------


def test_the_lens_is_the_final_layer_after_each_block():
    """In NumPy, of the residual that is tapped: norm, modulation, head, patches; the last is the prediction."""
    params, case = filled(MODEL), noised(STREAMS, batch(), 0.5)
    predictions, values = tapped(MODEL, params)(case.x, case.t, taps=["residual"])
    found, p = lens(study(params))["image"][LEVELS.index(0.5)], params["params"]
    close(found[-1], predictions["image"])

    level = [p["level_embed"][name] for name in ("in", "out")]
    angle = 500.0 * 10000.0 ** -(np.arange(128) / 128)
    embedded = np.concatenate([np.cos(angle), np.sin(angle)])
    dense = lambda x, layer: x @ layer["kernel"] + layer["bias"]
    condition = (
        dense(jax.nn.silu(dense(embedded, level[0])), level[1]) + p["label_embed"]["embedding"][batch()["label"]]
    )
    shift, scale = jnp.split(dense(jax.nn.silu(condition), p["final_modulation"])[:, None], 2, axis=-1)
    for block, x in enumerate(values["residual"]):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        wanted = dense(x * (1 + scale) + shift, p["image_head"]["patches"])
        close(found[block + 1], wanted.reshape(5, 2, 4, 1), atol=2e-3)


@pytest.mark.parametrize("last", range(DEPTH))
def test_blocks_that_are_the_identity_change_nothing_in_the_lens(last):
    params = idle_but(last)
    rows = np.asarray(lens_losses(study(params))["image"])
    assert rows.shape == (DEPTH + 1, len(LEVELS))
    close(rows[: last + 1], np.broadcast_to(rows[0], (last + 1, len(LEVELS))))
    close(rows[last + 1 :], np.broadcast_to(rows[-1], (DEPTH - last, len(LEVELS))))
    assert np.all(np.abs(rows[0] - rows[-1]) > 1e-3)
    close(rows[-1], [mean_loss(params, level) for level in LEVELS])


@pytest.mark.parametrize("block", [0, READER])
def test_ablation_costs_what_the_network_without_it_costs(block):
    """One block works: without any other nothing changes, and without a gate of it, what zeros in its parameters do."""
    params, part = idle_but(block), {"attention": slice(2 * WIDTH, 3 * WIDTH), "MLP": slice(5 * WIDTH, None)}
    for name, gate in part.items():
        closed = changed(
            params,
            blocks__modulation__kernel=lambda leaf, gate=gate: leaf.at[..., gate].set(0),
            blocks__modulation__bias=lambda leaf, gate=gate: leaf.at[..., gate].set(0),
        )
        wanted = np.zeros((DEPTH, len(LEVELS)))
        wanted[block] = [mean_loss(closed, level) - mean_loss(params, level) for level in LEVELS]
        close(block_ablation(study(params), name)["image"], wanted, atol=1e-4)
        assert np.all(wanted[block] != 0)


@pytest.mark.parametrize("head", range(HEADS))
def test_a_head_that_nobody_listens_to_is_worth_nothing(head):
    silent = jnp.ones((HEADS, WIDTH // HEADS, 1)).at[head].set(0).reshape(WIDTH, 1)
    params = changed(filled(MODEL), blocks__attention__out__kernel=lambda leaf: leaf.at[READER].multiply(silent))
    found = np.asarray(head_ablation(study(params), READER)["image"])
    assert found.shape == (HEADS, len(LEVELS))
    close(found[head], 0, atol=1e-5)
    assert np.all(np.abs(found[1 - head]) > 1e-4)


# The optimum ----------------------------------------------------------------------------------------------------------


def test_the_optimum_of_two_points_is_a_hyperbolic_tangent():
    """Of +-1, x*(z, t) = tanh(alpha z / sigma^2); and of given labels, the example that has the label."""
    streams = {"image": dj.streams.image((1, 1, 1), patch=1), "label": dj.streams.label(2)}
    data = {"image": jnp.array([1.0, -1.0]).reshape(2, 1, 1, 1), "label": jnp.array([0, 1])}
    z, t = jnp.linspace(-2, 2, 9).reshape(9, 1, 1, 1), jnp.full(9, 0.6)
    absent = {"image": z, "label": jnp.full(9, 2)}, {"image": t, "label": jnp.ones(9)}
    close(optimal_denoiser(streams, data)(*absent)["image"], np.tanh(0.4 * z / 0.36))
    given = {"image": z, "label": jnp.arange(9) % 2}, {"image": t, "label": jnp.zeros(9)}
    close(optimal_denoiser(streams, data)(*given)["image"].ravel(), 1.0 - 2 * (np.arange(9) % 2))


@pytest.mark.parametrize("schedule", ["rectified", "cosine"])
@pytest.mark.parametrize("prediction", ["x", "noise", "velocity"])
def test_the_optimal_denoiser_has_no_gap_and_no_denoiser_a_smaller_loss(schedule, prediction):
    stream = dj.streams.image((2, 4, 1), patch=1, process=Gaussian(SCHEDULES[schedule], prediction))
    streams, data = {"image": stream, "label": STREAMS["label"]}, batch(12)
    many = jax.tree.map(lambda leaf: jnp.tile(leaf, (40, *(1,) * (leaf.ndim - 1))), data)
    best = optimal_denoiser(streams, data)
    of = lambda predict: losses_and_optimum(Study(Denoiser(streams, predict), {}, many, LEVELS), data)
    found = of(best)
    close(found["network"]["image"], found["optimum"]["image"])
    close(found["distance"]["image"], 0, atol=1e-6)
    for scale in (0.9, 1.1):
        rows = of(lambda x, t, scale=scale: {"image": scale * best(x, t)["image"]})
        assert np.all(rows["network"]["image"] > rows["optimum"]["image"])
        gap = rows["network"]["image"] - rows["optimum"]["image"]  # orthogonal, but for the noise of 480 examples
        close(rows["distance"]["image"], gap, rtol=0.5, atol=0.05)


def test_clean_examples_are_known_and_pure_noise_tells_nothing():
    data = batch(6)
    for level, wanted in ((1e-3, np.eye(6)), (1.0, None)):
        x, t, _ = noised(STREAMS, data, level, hidden=["label"])
        found = posterior(STREAMS, data, x, t)
        close(found, np.full((6, 6), 1 / 6) if wanted is None else wanted)


# Massive activations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [(3,), (0, 11)])
def test_planted_channels_are_found_at_every_block_and_level(channels):
    channels = np.array(channels)
    params = changed(filled(MODEL), image_embed__patches__bias=lambda leaf: leaf.at[channels].add(500.0))
    found = np.asarray(activation_map(study(params)))
    assert found.shape == (len(LEVELS), DEPTH, WIDTH)
    top = np.sort(np.argsort(found, axis=-1)[..., -len(channels) :], axis=-1)
    assert np.all(top == channels)
    assert np.all(found[..., channels].min(-1) > 4 * np.delete(found, channels, axis=-1).max(-1))


def test_the_largest_over_the_median():
    residual = np.ones((2, 3, 5, 4), np.float32)
    residual[0, 1, 2, 3], residual[1] = -70.0, 2.0
    wanted = [[1, 1, 1, 70], [1, 1, 1, 1]]
    close(over_median(jnp.asarray(residual)), wanted)


def test_what_zeroing_costs_is_the_loss_without_the_channels():
    """In a network whose blocks do nothing, zeroing a channel is an embedding that does not have it."""
    params = changed(idle_but(0), blocks__modulation__kernel=jnp.zeros_like, blocks__modulation__bias=jnp.zeros_like)
    found = channel_ablation(study(params), [[], [4, 9]])["image"]
    close(found[0], 0, atol=1e-6)
    case = noised(STREAMS, batch(), LEVELS[1])
    residual = tapped(MODEL, params)(case.x, case.t, taps=["residual"])[1]["residual"][0]

    def loss(x):
        prediction = final_layer(params["params"], x, LEVELS[1])
        return np.mean(STREAMS["image"].process.loss(prediction, case.targets["image"], case.t["image"]))

    close(found[1, 1], loss(residual.at[..., jnp.array([4, 9])].set(0)) - loss(residual), rtol=2e-2, atol=1e-3)


# Heads ----------------------------------------------------------------------------------------------------------------


def test_the_table_of_heads_with_known_maps():
    """Tokens in 2 rows of 4: a head of all, of itself, of its left neighbour (around), of the other row, of token 5."""
    n, row, column = 8, *np.divmod(np.arange(8), 4)
    other = np.equal.outer(row, 1 - row) & np.equal.outer(column, column)
    left = np.equal.outer(row, row) & np.equal.outer(column, (column + 1) % 4)
    maps = [np.full((n, n), 1 / n), np.eye(n), left, other, np.eye(n)[[5] * n]]
    table = head_table(STREAMS, jnp.asarray(np.stack(maps, dtype=np.float32))[None, None].repeat(3, 1))
    close(table["entropy"], [[np.log(8), 0, 0, 0, 0]])
    close(table["own"], np.ones((1, 5)))
    close(table["sink"], [[1 / 8, 1 / 8, 1 / 8, 1 / 8, 1]])
    close(table["time"], np.zeros((1, 5)))
    close(table["row"], [[0.5, 0, 0, 1, 0.5]])
    close(table["column"], [[1.25, 0, 1.5, 0, 1]])


def test_who_reads_whom():
    """Two streams of 4 and 2 tokens; the second is read by the first alone, and reads its second token alone."""
    streams = {"image": dj.streams.image((2, 2, 1), 1), "words": dj.streams.text(2, 5), "label": STREAMS["label"]}
    p = np.zeros((2, 3, 1, 6, 6), np.float32)  # [depth, B, h, n, N]
    p[..., :4, 4:] = 0.25
    p[..., :4, :4] = 0.125
    p[..., 4:, 1] = 1.0
    p[1] = np.eye(6)
    found = between_streams(streams, jnp.asarray(p))
    wanted = {("image", "image"): 0.5, ("image", "words"): 0.5, ("words", "image"): 1.0, ("words", "words"): 0.0}
    for pair, mass in wanted.items():
        close(found[pair], [mass, float(pair[0] == pair[1])])
    close(attention_maps(streams, jnp.asarray(p), "words", "image")[0, 0, 0], [[0, 1, 0, 0]] * 2)
    table = head_table(streams, jnp.asarray(p))
    close(table["own"][0], [(4 * 0.5 + 2 * 0.0) / 6])


def test_concepts_are_where_attention_outputs_agree():
    streams = {"image": dj.streams.image((1, 3, 1), 1), "words": dj.streams.text(2, 5)}
    assert token_counts(streams) == {"image": 3, "words": 2}
    out = jnp.array([[9.0, 0], [0, 9], [5, 5], [9, 0], [0, 9]])
    close(concept_maps(streams, out, "image", "words"), [[1, 0], [0, 1], [0.5, 0.5]])


# Jacobian -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", LEVELS)
def test_the_basis_of_the_exact_gaussian_denoiser_is_that_of_its_covariance(level):
    rng, shape = np.random.default_rng(0), (3, 4, 1)
    basis = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    variances = 4.0 * 0.5 ** np.arange(12)
    covariance, alpha, sigma = (basis * variances) @ basis.T, 1 - level, level
    gain = alpha * covariance @ np.linalg.inv(alpha**2 * covariance + sigma**2 * np.eye(12))
    denoise = lambda z: (jnp.asarray(gain, jnp.float32) @ z.ravel()).reshape(shape)
    values, directions = jax.jit(lambda x: top_directions(denoise, x, 3, steps=200))(jnp.zeros(shape))
    close(values, alpha * variances[:3] / (alpha**2 * variances[:3] + sigma**2), rtol=1e-3)
    products = np.abs(np.asarray(directions).reshape(3, 12) @ basis[:, :3])
    close(products, np.eye(3), atol=0.05)


def test_the_basis_of_a_network_is_that_of_its_jacobian():
    params, case = filled(MODEL), noised(STREAMS, batch(), 0.5)

    def denoise(z):
        x = {"image": z[None], "label": case.x["label"][:1]}
        return MODEL.apply(params, x, jax.tree.map(lambda t: t[:1], case.t))["image"][0]

    x = case.x["image"][0]
    matrix = np.asarray(jax.jit(jax.jacobian(denoise))(x)).reshape(8, 8)
    values, directions = jax.jit(lambda x: top_directions(denoise, x, 2, steps=100))(x)
    _, wanted, right = np.linalg.svd(matrix)
    close(values, wanted[:2], rtol=1e-2)
    close(np.abs(np.sum(np.asarray(directions).reshape(2, 8) * right[:2], axis=1)), [1, 1], atol=1e-2)


# When identity is decided ---------------------------------------------------------------------------------------------


def test_the_block_that_reads_the_label_decides():
    """Patched from a run with other labels, the residual moves nothing before block 2 and all from it on; what the
    label tells that block does so there alone."""
    params, other = reader(), {"label": (batch()["label"] + 1) % 3}
    residual = patched(study(params), other)["image"]
    close(residual, np.tile(np.arange(DEPTH)[:, None] >= READER, len(LEVELS)), atol=1e-4)
    modulation = patched(study(params), other, "modulation")["image"]
    close(modulation, np.tile(np.arange(DEPTH)[:, None] == READER, len(LEVELS)), atol=1e-4)


def test_a_probe_tells_the_label_once_it_has_been_read():
    """Examples whose pixels know nothing of their label; the network is given it, and block 2 alone reads it."""
    train, test = batch(60, seed=1), batch(60, seed=2)
    for probe in (linear_probe, nearest_probe):
        found = probe_map(Study(MODEL, reader(), test, LEVELS[:2]), train, probe, hidden=())
        assert found.shape == (DEPTH, 2)
        assert np.all(found[:READER] < 0.6) and np.all(found[READER] > 0.9)
        blind = probe_map(Study(MODEL, reader(), test, LEVELS[:1]), train, probe)
        assert np.all(blind < 0.6)


def test_probes_on_points_of_known_classes():
    rng = np.random.default_rng(0)
    corners = np.array([[4.0, 0, 0], [0, 4, 0], [0, 0, 4], [0, 0, 0]])
    labels = np.arange(80) % 4
    train, test = (jnp.asarray(corners[labels] + 0.3 * rng.normal(size=(80, 3)), jnp.float32) for _ in range(2))
    for probe in (linear_probe, nearest_probe):
        assert probe(train, labels, test, labels) > 0.98
        assert probe(train, labels, test, (labels + 1) % 4) < 0.02
    ring = np.where(labels % 2, 1.0, 4.0)[:, None] * np.stack([np.cos(np.arange(80)), np.sin(np.arange(80))], 1)
    ring = jnp.asarray(ring, jnp.float32)
    assert nearest_probe(ring, labels % 2, ring, labels % 2) == 1.0  # a circle in a circle, which no line tells
    assert linear_probe(ring, labels % 2, ring, labels % 2) < 0.7


def test_a_condition_is_switched_at_its_level():
    echo = lambda x, t: {"image": x["label"]}
    predict = switched(echo, "label", 0.5, jnp.array([0, 1]), jnp.array([2, 2]))
    x = {"image": jnp.zeros((2, 1)), "label": jnp.array([9, 9])}
    for levels, wanted in (([0.6, 0.6], [0, 1]), ([0.5, 0.5], [2, 2]), ([0.4, 0.9], [2, 1])):
        np.testing.assert_array_equal(predict(x, {"image": jnp.array(levels), "label": jnp.zeros(2)})["image"], wanted)


def test_values_by_level_are_stacked():
    found = values_by_level(study(filled(MODEL)), "residual")
    assert found.shape == (len(LEVELS), DEPTH, 5, 8, WIDTH)
    case = noised(STREAMS, batch(), LEVELS[2])
    close(found[2], tapped(MODEL, filled(MODEL))(case.x, case.t, taps=["residual"])[1]["residual"], atol=1e-3)
