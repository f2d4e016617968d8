"""Blocks: text that is drawn one block after another, each by diffusion, given those before it."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import dit_jax as dj
from dit_jax.config import build
from dit_jax.configs import text_kjv_blocks
from dit_jax.diffusion import joint_levels, levels
from dit_jax.diffusion.blockwise import sample_with_cache
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.grids import level_rows
from dit_jax.diffusion.guidance import classifier_free
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.masked import Masked, confident
from dit_jax.diffusion.objective import losses_at
from dit_jax.diffusion.sampler import sample_rows
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream, revealing
from dit_jax.evaluation import text as evaluation
from dit_jax.names import ConfigError
from dit_jax.network.layers import MODERN, PUBLISHED
from dit_jax.parallel.mesh import make_mesh
from dit_jax.streams import image, label, past, text, video
from dit_jax.training.flops import matmul_flops

KEY = jax.random.key(0)
exact = pytest.mark.usefixtures("exact")
every_block = pytest.mark.parametrize("block", [PUBLISHED, MODERN], ids=["published", "modern"])


def in_blocks(stream):
    return {"text": stream, "past": past(stream)}


# A chain of four tokens, each 0 or 1, and its exact conditionals -----------------------------------------------------

CHAINS = np.array(list(itertools.product(range(2), repeat=4)))
STICK = np.array([[0.85, 0.15], [0.3, 0.7]])
LAW = np.array([[0.6, 0.4][c[0]] * STICK[c[0], c[1]] * STICK[c[1], c[2]] * STICK[c[2], c[3]] for c in CHAINS])


def chain(blocks):
    return revealing(in_blocks(text(4, 2, blocks=blocks)), confident)


def conditionals(blocks):
    """log p(token | the blocks before its own, what is visible of its own)."""
    block = np.arange(4) * blocks // 4

    def predict(x, t):
        def law(place):
            before, own = block < block[place], block == block[place]
            seen = jnp.where(before[None], x["past"], jnp.where(own[None], x["text"], 2))[:, None]
            weight = jnp.where(jnp.all((seen == 2) | (seen == CHAINS[None]), axis=2), LAW[None], 0.0)
            return jnp.stack([jnp.sum(weight[:, CHAINS[:, place] == value], axis=1) for value in (0, 1)], axis=1)

        return {"text": jnp.log(jnp.stack([law(place) for place in range(4)], axis=1) + 1e-300)}

    return predict


@exact
def test_blocks_of_one_token_at_full_noise_cost_the_autoregressive_likelihood():
    t = {"text": jnp.ones((16, 4)), "past": jnp.zeros(16)}
    cost = losses_at(conditionals(4), chain(4), example_keys(KEY, jnp.arange(16)), {"text": jnp.asarray(CHAINS)}, t)
    np.testing.assert_allclose(4 * cost["text"], -np.log(LAW), rtol=1e-6)  # logits are in float32


@exact
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_training_estimates_the_likelihood_whatever_the_blocks(blocks):
    """The best denoiser's loss is the entropy of the data, at independent levels and at fixed numbers hidden."""
    n = 5_000
    x = jnp.asarray(CHAINS[np.random.default_rng(0).choice(16, n, p=LAW)])
    entropy = -np.sum(LAW * np.log(LAW)) / 4
    loss = jax.jit(lambda: dj.loss(conditionals(blocks), chain(blocks), KEY, {"text": x}))()
    assert float(loss) == pytest.approx(entropy, abs=0.03)

    @jax.jit
    def evenly():
        z, target, t = Masked(2).corrupt_evenly(example_keys(KEY, jnp.arange(n)), x, blocks)
        return Masked(2).loss(conditionals(blocks)({"text": z, "past": x}, t)["text"], target, t)

    cost = evenly()
    assert float(jnp.mean(cost)) == pytest.approx(entropy, abs=5 * float(jnp.std(cost)) / np.sqrt(n))


def off(drawn, law):
    return np.abs(np.bincount(drawn @ np.array([8, 4, 2, 1]), minlength=16) / len(drawn) - law).sum() / 2


def draw(blocks, n=10_000, **options):
    return jax.jit(lambda: dj.sample(conditionals(blocks), chain(blocks), KEY, n, **options))()


@exact
@pytest.mark.parametrize(("blocks", "steps"), [(4, 1), (2, 2), (1, 4)])
def test_block_after_block_draws_the_chain(blocks, steps):
    drawn = draw(blocks, steps=steps)
    assert off(drawn["text"], LAW) < 0.03
    np.testing.assert_array_equal(drawn["past"], drawn["text"])


@exact
def test_tokens_drawn_at_once_do_not_know_of_each_other_and_blocks_do():
    apart, whole = (draw(blocks, steps=1)["text"] for blocks in (2, 1))
    within = np.zeros(16)
    for i, (a, b, c, d) in enumerate(CHAINS):
        given = [np.sum(LAW[np.all(CHAINS[:, :2] == (a, b), 1) & (CHAINS[:, p] == v)]) for p, v in ((2, c), (3, d))]
        first = [np.sum(LAW[CHAINS[:, p] == v]) for p, v in ((0, a), (1, b))]
        within[i] = np.prod(first) * np.prod(given) / np.sum(LAW[np.all(CHAINS[:, :2] == (a, b), 1)]) ** 2
    assert off(apart, within) < 0.03 < 0.1 < off(apart, LAW) < off(whole, LAW)


@exact
@pytest.mark.parametrize("how", ["given", "start"])
def test_what_follows_a_beginning_is_what_follows_it(how):
    """As whole blocks that are given, and as tokens that are known."""
    n, known = 10_000, np.array([0, 1])
    begun = jnp.tile(jnp.array([*known, 2, 2]), (n, 1))
    options = {"start": {"text": begun}} if how == "start" else {"given": {"text": begun}, "prefix": {"text": 1}}
    drawn = draw(2, n, steps=2, **options)["text"]
    law = np.where(np.all(CHAINS[:, :2] == known, axis=1), LAW, 0)
    assert off(drawn, law / law.sum()) < 0.03


# Frames of one pixel that are an AR(1) process, in blocks of two -----------------------------------------------------

COVARIANCE = 0.8 ** np.abs(np.subtract.outer(np.arange(4), np.arange(4)))


def frames():
    stream = Stream(shape=(4, 1), process=Gaussian(), levels=levels.uniform(), embed=None, head=object, groups=2)
    return {"clip": stream, "past": past(stream, "clip")}


def wiener(x, t):
    """E[x | z, past]: of two frames given the two before them, or alone."""
    t, c = align(jnp.broadcast_to(t["clip"], (len(x["clip"]), 2)), x["clip"])[..., 0], jnp.asarray(COVARIANCE)
    slope = c[2:, :2] @ jnp.linalg.inv(c[:2, :2])
    parts = []
    for own, mean, cov in (
        (slice(0, 2), jnp.zeros_like(x["past"][:, :2, 0]), c[:2, :2]),
        (slice(2, 4), x["past"][:, :2, 0] @ slope.T, c[2:, 2:] - slope @ c[:2, 2:]),
    ):
        level = t[0, own.start]
        gain = (1 - level) * cov @ jnp.linalg.inv((1 - level) ** 2 * cov + level**2 * jnp.eye(2))
        parts.append(mean + (x["clip"][:, own, 0] - (1 - level) * mean) @ gain.T)
    return {"clip": jnp.concatenate(parts, axis=1)[..., None]}


@exact
@pytest.mark.parametrize("solver", ["heun", "unipc"])
def test_frames_go_on_in_blocks_as_text_does(solver):
    """Sampling is linear in the noise, so what it makes of it is a matrix, whose square is the covariance."""
    run = lambda noise: dj.sample(wiener, frames(), KEY, 4, steps=64, solver=SOLVERS[solver], start={"clip": noise})
    matrix = jax.jit(run)(jnp.eye(4)[..., None])["clip"][..., 0].T
    np.testing.assert_allclose(matrix @ matrix.T, COVARIANCE, atol=1e-3)


def test_no_flow_moves_all_blocks_at_once():
    with pytest.raises(ValueError, match="no probability flow moves clip"):
        dj.encode(wiener, frames(), KEY, {"clip": jnp.zeros((2, 4, 1))})


def test_a_batch_without_what_is_copied_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="the batch has no 'clip'"):
        dj.loss(wiener, frames(), KEY, {"sound": jnp.zeros((2, 4, 1))})


# The network: six tokens in three blocks -----------------------------------------------------------------------------

IMAGE = image((4, 4, 1), patch=2)


def of(streams, block=MODERN):
    """(a small model, parameters that are nowhere zero)."""
    model, rng = dj.DiT(streams, width=24, depth=2, heads=2, block=block), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


@functools.cache
def network(blocks=3, block=MODERN, **others):
    return of({**others, **in_blocks(text(6, 5, blocks=blocks))}, block)


def tokens(*shape, vocabulary=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(vocabulary, size=shape), jnp.int32)


def changes(name, block=MODERN):
    """Of which blocks [3] the prediction changes, and of which to the last bit it does not, as each block [3] of the
    stream `name` changes: [3, 3] booleans."""
    model, params = network(block=block)
    x, t = (
        {"text": jnp.array([[0, 5, 5, 5, 5, 1]]), "past": tokens(1, 6)},
        {"text": jnp.ones((1, 3)), "past": jnp.zeros(1)},
    )
    predict = jax.jit(lambda x: model.apply(params, x, t)["text"].reshape(3, 2, -1))
    other = jnp.stack([x[name][0].at[2 * b : 2 * b + 2].set((x[name][0, 2 * b : 2 * b + 2] + 1) % 5) for b in range(3)])
    return np.array([np.any(predict({**x, name: row[None]}) != predict(x), axis=(1, 2)) for row in other])


@every_block
def test_a_block_is_told_of_by_its_past_to_those_after_it_only(block):
    np.testing.assert_array_equal(changes("past", block), np.triu(np.ones((3, 3), bool), 1))


@every_block
def test_noised_blocks_do_not_see_each_other(block):
    np.testing.assert_array_equal(changes("text", block), np.eye(3, dtype=bool))


def test_blocks_of_one_token_are_an_autoregressive_model():
    """The loss at full noise is the product of conditionals, each from a pass of its own that has seen no more."""
    (model, params), x = network(blocks=6), tokens(4, 6)
    t = {"text": jnp.ones((4, 6)), "past": jnp.zeros(4)}
    predict = jax.jit(functools.partial(model.apply, params))
    total = 0.0
    for i in range(6):
        begun = jnp.where(jnp.arange(6)[None] < i, x, tokens(4, 6, seed=i + 1))
        logits = predict({"text": jnp.full((4, 6), 5), "past": begun}, t)["text"][:, i]
        total -= np.take_along_axis(jax.nn.log_softmax(logits), x[:, i, None], 1)[:, 0]
    cost = losses_at(predict, model.streams, example_keys(KEY, jnp.arange(4)), {"text": x}, t)["text"]
    np.testing.assert_allclose(6 * cost, total, rtol=1e-5)
    assert np.std(total) > 0.1


@every_block
def test_one_block_is_the_plain_model(block):
    (plain, _), (model, params) = of({"text": text(6, 5)}, block), network(1, block)
    x, keys, t = {"text": tokens(4, 6)}, example_keys(KEY, jnp.arange(4)), jnp.linspace(0.4, 1, 4)
    fewer = {"params": {name: value for name, value in params["params"].items() if name != "past_embed"}}
    jax.tree.map(lambda a, b: None, fewer, jax.eval_shape(plain.init, KEY))
    levels = {"text": t, "past": 0 * t}

    def costs(m, p):
        own = {name: levels[name] for name in m.streams}
        return jax.jit(lambda p: losses_at(functools.partial(m.apply, p), m.streams, keys, x, own))(p)

    cost, wanted = costs(model, params), costs(plain, fewer)
    np.testing.assert_allclose(cost["text"], wanted["text"], rtol=1e-5)
    assert np.all(wanted["text"] > 0)


def test_what_is_no_block_comes_before_all_blocks():
    """Text sees the image, and the image nothing of the text: it is drawn first."""
    model, params = network(image=IMAGE)
    x = {"image": jax.random.normal(KEY, (1, 4, 4, 1)), "text": jnp.full((1, 6), 5), "past": tokens(1, 6)}
    t = {"image": jnp.ones(1), "text": jnp.ones((1, 3)), "past": jnp.zeros(1)}
    predict = jax.jit(lambda x: model.apply(params, x, t))
    seen, one, other = (
        predict(x | change)
        for change in ({}, {"image": -x["image"]}, {"text": tokens(1, 6), "past": tokens(1, 6, seed=1)})
    )
    assert np.all(np.any(seen["text"] != one["text"], axis=-1))
    np.testing.assert_array_equal(seen["image"], other["image"])
    found = level_rows(model.streams, {}, 2)
    np.testing.assert_array_equal(found["image"], [1, 0.5, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(found["text"][:, 1], [1, 1, 1, 1, 1, 0.5, 0, 0, 0])
    np.testing.assert_array_equal(found["past"], np.zeros(9))
    np.testing.assert_array_equal(level_rows(model.streams, {"text"}, 2)["image"], [1, 0.5, 0])
    np.testing.assert_array_equal(level_rows(model.streams, {"image"}, 1)["text"], np.tri(4, 3, -1) == 0)
    begun = level_rows(model.streams, {"text"}, 1, prefix={"text": 1})
    np.testing.assert_array_equal(begun["text"], [[0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]])  # after the image


# The cache -----------------------------------------------------------------------------------------------------------


def either_way(streams, schedule, given, start=None, solver="2m", guidance=None):
    """Samples of a small network of these streams, without a cache and with it."""
    (model, params), keys = of(streams), example_keys(KEY, jnp.arange(8))
    rest = streams, keys, given, schedule, SOLVERS[solver], guidance, start
    plain = lambda: sample_rows(functools.partial(model.apply, params), *rest)
    cached = lambda: sample_with_cache(functools.partial(model.apply_with_cache, params), *rest)
    return jax.jit(plain)(), jax.jit(cached)()


@pytest.mark.parametrize("how", ["given", "start"])
def test_samples_of_text_are_the_same_with_a_cache(how):
    streams = {"label": label(3), **in_blocks(text(6, 5, blocks=3))}
    begun = tokens(8, 6).at[:, 2:].set(5)
    given = {"label": jnp.arange(8) % 3} | ({"text": begun} if how == "given" else {})
    schedule = level_rows(streams, given, 2, prefix={"text": 1} if how == "given" else {})
    plain, cached = either_way(streams, schedule, given, {"text": begun} if how == "start" else None)
    jax.tree.map(np.testing.assert_array_equal, plain, cached)
    assert np.all(cached["text"] < 5) and len(np.unique(cached["text"], axis=0)) > 4


def test_samples_of_clips_are_the_same_with_a_cache():
    clip = video((6, 2, 2, 1), patch=(2, 1, 2))
    streams = {"past": past(clip, "clip"), "clip": clip}
    plain, cached = either_way(streams, level_rows(streams, {}, 3), {}, solver="heun")
    np.testing.assert_allclose(plain["clip"], cached["clip"], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(cached["past"], cached["clip"])


@pytest.mark.parametrize("prefix", [0, 1])
def test_guided_samples_of_clips_are_the_same_with_caches(prefix):
    """One for the network that sees what is given, and one for each that is blind to some of it."""
    clip = video((6, 2, 2, 1), patch=(2, 1, 2))
    streams = {"label": label(3), "clip": clip, "past": past(clip, "clip")}
    given = {"label": jnp.arange(8) % 3}
    if prefix:
        given["clip"] = jax.random.normal(KEY, (8, 6, 2, 2, 1))
    schedule = level_rows(streams, given, 3, prefix={"clip": prefix} if prefix else {})
    found = {}
    for scale in (1.0, 2.0, {"label": 2.0}):
        plain, found[str(scale)] = either_way(streams, schedule, given, guidance=classifier_free(scale))
        np.testing.assert_allclose(plain["clip"], found[str(scale)]["clip"], rtol=1e-4, atol=1e-4)
    assert np.abs(found["1.0"]["clip"] - found["2.0"]["clip"]).max() > 1e-2


def test_a_group_is_told_of_all_others_by_the_cache():
    """Its prediction is that of the whole, and a new past is written where it belongs; at a third of the cost."""
    model, params = network()
    x, t = {"text": jnp.full((2, 6), 5), "past": tokens(2, 6)}, {"text": jnp.ones((2, 3)), "past": jnp.zeros(2)}
    recall = jax.jit(functools.partial(model.apply_with_cache, params), static_argnames="target")
    whole, cache = recall(x, t)
    jax.tree.map(np.testing.assert_array_equal, whole, jax.jit(model.apply)(params, x, t))
    for b in range(3):
        part, same = recall(x, t, cache, target=("text", b))
        one = slice(2 * b, 2 * b + 2)
        np.testing.assert_allclose(part["text"][:, one], whole["text"][:, one], rtol=1e-4, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), same, cache)
    other = x | {"past": x["past"].at[:, 4:].set(0)}  # nothing sees the last block of the past but itself
    _, written = recall(other, t, cache, target=("past", 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), written, recall(other, t)[1])
    assert np.any(written["blocks"]["attention"]["keys_values"][0] != cache["blocks"]["attention"]["keys_values"][0])
    cost = lambda *now: matmul_flops(lambda: model.apply_with_cache(params, x, t, cache if now else None, *now))
    assert cost(("text", 1)) < 0.3 * cost()


def test_a_cache_is_for_blocks_that_are_drawn_alone():
    streams = {"image": IMAGE, **in_blocks(text(6, 5, blocks=3))}
    with pytest.raises(ValueError, match="one stream with a past that is drawn alone"):
        sample_with_cache(None, streams, None, {}, level_rows(streams, {}, 2))


# Levels, configs, scores ---------------------------------------------------------------------------------------------


@exact
@pytest.mark.parametrize("name", ["text", "clip"])
def test_levels_of_what_is_drawn_group_by_group_are_independent_and_even_over_the_batch(name):
    clip = video((4, 2, 2, 1), patch=(1, 2, 2), levels=levels.uniform())
    streams = in_blocks(text(8, blocks=4)) if name == "text" else {"clip": clip, "past": past(clip, "clip")}
    t = np.asarray(joint_levels.independent(KEY, streams, 1000)[name])
    assert t.shape == (1000, 4) and stats.kstest(t.ravel(), "uniform").statistic < 1.5 / 4000
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in t.T)
    assert np.all(np.abs(np.corrcoef(t.T) - np.eye(4)) < 0.15)


def config(blocks, length=32, of="text"):
    found = json.loads(text_kjv_blocks.get_config().to_json())
    found["streams"]["text"] |= {"length": length, "blocks": blocks}
    found["streams"]["past"] |= {"of": of}
    found["model"] |= {"width": 16, "depth": 1, "heads": 1}
    return found


def test_what_cannot_be_in_blocks_is_an_error_that_says_why():
    with pytest.raises(ConfigError, match="blocks = 5 should divide length = 32"):
        build(config(5))
    with pytest.raises(ConfigError, match="of = 'clip' does not exist"):
        build(config(4, of="clip"))


def test_the_bound_of_blocks_of_one_byte_is_exact():
    """One of one is always hidden, so nothing is left to chance: it is the autoregressive likelihood."""
    run, texts = build(config(16, 16)), np.random.default_rng(0).integers(97, 123, size=(5, 16), dtype=np.int32)
    how, rng = dataclasses.replace(run.sample, batch=8), np.random.default_rng(0)
    shapes = jax.eval_shape(run.model.init, KEY)
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes)
    found = evaluation.bound(run, params, make_mesh(), how, "text", texts, draws=2)
    t = {"text": jnp.ones(5), "past": jnp.zeros(5)}
    cost = losses_at(
        functools.partial(run.model.apply, params), run.streams, example_keys(KEY, jnp.arange(5)), {"text": texts}, t
    )
    np.testing.assert_allclose(found, cost["text"] / np.log(2), rtol=1e-5)
