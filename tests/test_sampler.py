"""The sampler: what a sample may depend on, and one loop for joint, marginal, conditional and sequential sampling."""

import dataclasses
import functools
import itertools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.levels import shifted, uniform
from dit_jax.diffusion.masked import REVEALS, Masked
from dit_jax.diffusion.sampler import sample_rows
from dit_jax.diffusion.schedules import SCHEDULES
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream

KEY = jax.random.key(0)
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def stream(shape, process, drawn=True):
    return Stream(shape=shape, process=process, levels=uniform(), embed=None, head=object if drawn else None)


STREAMS = {
    "image": stream((2, 3), Gaussian()),
    "sound": stream((4,), Gaussian(SCHEDULES["cosine"], PREDICTIONS["v"])),
    "text": stream((5,), Masked(6)),
    "label": stream((), Masked(3), drawn=False),
}
LABELS = np.arange(16, dtype=np.int32) % 3


def entangled(x, t):
    """A network in which everything depends on everything, nonlinearly."""
    mood = jnp.tanh(x["image"].mean((1, 2)) - x["sound"].mean(1) + x["text"].mean(1) / 6 + x["label"] - t["image"])
    words = jax.nn.one_hot(x["text"], 7)[..., :6]
    return {
        "image": 0.5 * x["image"] + mood[:, None, None],
        "sound": jnp.sin(x["sound"]) * mood[:, None],
        "text": words + mood[:, None, None] * jnp.arange(6)[None, None],
    }


@functools.cache
def sampler(predict, names, drawn, solver):
    """sample_rows, compiled once for all tests that walk the same way."""
    streams = {name: STREAMS[name] for name in names}
    rows = {name: (np.linspace(1, 0, 7) if name in drawn else np.zeros(7)) for name in names}
    return jax.jit(lambda keys, given: sample_rows(predict, streams, keys, given, rows, SOLVERS[solver]))


def draw(rows, given, solver="2m", predict=entangled, names=tuple(STREAMS)):
    """The samples of these rows of KEY, with some streams given."""
    drawn = tuple(name for name in names if name not in given)
    keys = example_keys(KEY, jnp.asarray(rows))
    return sampler(predict, names, drawn, solver)(keys, {name: jnp.asarray(value) for name, value in given.items()})


FIRST, SOME = np.arange(4), np.array([11, 2, 5, 14])


@every_solver
def test_a_sample_is_its_keys_alone(solver):
    """Sample i is the same among 16, among the first 4, and picked out with some of its fellows."""
    many = draw(np.arange(16), {"label": LABELS}, solver)
    for rows in (FIRST, SOME):
        for name, value in draw(rows, {"label": LABELS[rows]}, solver).items():
            np.testing.assert_allclose(value, many[name][rows], atol=1e-6)


def test_sample_walks_from_one_to_zero():
    """`sample` is `sample_rows` over the rows of examples 0 ... num - 1, and can be jitted as a whole."""
    wanted = draw(FIRST, {"label": LABELS[:4]})
    sample = lambda labels: dj.sample(entangled, STREAMS, KEY, 4, {"label": labels}, steps=6)
    for found in (sample(LABELS[:4]), jax.jit(sample)(LABELS[:4])):
        assert found.keys() == STREAMS.keys()
        for name in STREAMS:
            np.testing.assert_allclose(found[name], wanted[name], atol=1e-5)


def test_a_sample_ignores_what_its_neighbours_are_given():
    a, b = (draw(FIRST, {"label": np.array(labels)}) for labels in ([1, 0, 0, 0], [1, 2, 2, 2]))
    for name in ("image", "sound", "text"):
        np.testing.assert_array_equal(a[name][0], b[name][0])
    assert np.all(a["image"][1] != b["image"][1])


def test_samples_differ():
    x = draw(np.arange(16), {"label": np.zeros(16, np.int32)})
    assert len(np.unique(x["image"])) == 16 * 6 and len(np.unique(x["sound"])) == 16 * 4


@every_solver
def test_given_values_come_back_untouched_and_no_mask_is_left(solver):
    x = draw(np.arange(16), {"label": LABELS}, solver)
    np.testing.assert_array_equal(x["label"], LABELS)
    assert x["text"].dtype == jnp.int32 and set(np.unique(x["text"])) <= set(range(6))


def test_any_stream_can_be_given():
    given = {"sound": np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32), "text": np.eye(4, 5, dtype=int)}
    x = draw(FIRST, given | {"label": LABELS[:4]})
    for name, value in given.items():
        np.testing.assert_array_equal(x[name], value)


@every_solver
def test_a_given_beginning_comes_back_untouched_and_the_rest_is_drawn(solver):
    streams = STREAMS | {"sound": dataclasses.replace(STREAMS["sound"], groups=4)}
    wanted = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    at = lambda x, t: entangled(x, {**t, "image": jnp.mean(t["image"])})
    x = dj.sample(at, streams, KEY, 4, {"sound": wanted}, 4, SOLVERS[solver], prefix={"sound": 3})["sound"]
    np.testing.assert_array_equal(x[:, :3], wanted[:, :3])
    assert np.all(np.isfinite(x)) and np.all(x[:, 3] != wanted[:, 3])
    other = dj.sample(at, streams, KEY, 4, {"sound": wanted * [1, 1, 1, 9]}, 4, SOLVERS[solver], prefix={"sound": 3})
    np.testing.assert_array_equal(x, other["sound"])  # what is not given does not matter


@pytest.mark.parametrize("solver", ["heun", "euler_maruyama"])
def test_both_ends_are_finite_whatever_the_network_says(solver):
    """In float32, under every schedule and prediction, from the top to the data: nothing is said of two samples, and
    anything of two others."""
    pairs = itertools.product(SCHEDULES, PREDICTIONS)
    streams = {f"{s} {p}": stream((3,), Gaussian(SCHEDULES[s], PREDICTIONS[p])) for s, p in pairs}
    rough = lambda x, t: {name: jnp.array([[0], [0], [1], [9]]) * jnp.sin(99 * z) for name, z in x.items()}
    for name, end in dj.sample(rough, streams, KEY, 4, steps=5, solver=SOLVERS[solver]).items():
        assert end.dtype == jnp.float32 and np.all(np.isfinite(end)), name


def watched(predict, seen):
    """The same network, which writes down all that it is asked."""

    def watching(x, t):
        jax.debug.callback(lambda *asked: seen.append(asked), x, t, ordered=True)
        return predict(x, t)

    return watching


def test_an_absent_stream_stays_at_its_prior():
    seen, streams = [], STREAMS | {"sound": stream((4,), Gaussian(), drawn=False)}
    sound = dj.sample(watched(entangled, seen), streams, KEY, 200, steps=3)["sound"]
    assert len(seen) == 3 and abs(np.std(sound) - 1) < 0.1
    for x, t in seen:
        assert np.all(t["label"] == 1) and np.all(t["sound"] == 1) and np.all(x["label"] == 3)
        np.testing.assert_array_equal(x["sound"], sound)


def test_the_network_sees_levels_fall_from_one_to_zero():
    seen = []
    dj.sample(watched(entangled, seen), STREAMS, KEY, 4, {"label": LABELS[:4]}, steps=6, shift=3.0)
    wanted = np.repeat(shifted(np.linspace(1, 0, 7), 3.0)[:-1, None], 4, axis=1)
    for name in ("image", "sound", "text"):
        np.testing.assert_allclose([t[name] for _, t in seen], wanted, atol=1e-6)
    assert all(np.all(t["label"] == 0) for _, t in seen)


def test_a_streams_noise_ignores_other_streams_and_their_order():
    shrink = lambda x, t: {name: 0.3 * z for name, z in x.items()}
    alone = draw(FIRST, {}, "sde_2m", shrink, ("image",))["image"]
    for names in (("image", "sound"), ("sound", "image")):
        np.testing.assert_allclose(draw(FIRST, {}, "sde_2m", shrink, names)["image"], alone, atol=1e-6)


def test_two_streams_start_from_different_noise():
    streams = {"a": stream((4,), Gaussian(), drawn=False), "b": stream((4,), Gaussian(), drawn=False)}
    x = dj.sample(lambda x, t: {}, streams, KEY, 4, steps=1)
    assert np.all(x["a"] != x["b"])


def test_every_step_has_noise_of_its_own():
    """The standard deviation of ancestral samples of N(0, 0.35^2) in 25 steps, by the recursion in test_solvers.py."""

    def predict(x, t):
        alpha, sigma = 1 - t["image"][:, None], t["image"][:, None]
        return {"image": alpha * 0.35**2 / (alpha**2 * 0.35**2 + sigma**2) * x["image"]}

    streams = {"image": stream((500,), Gaussian())}
    found = dj.sample(predict, streams, KEY, 64, steps=25, solver=SOLVERS["ancestral"])["image"]
    assert np.std(found) == pytest.approx(0.304, rel=5 / np.sqrt(2 * found.size))


# x and y are jointly Gaussian, so the denoiser is a matrix, and every way to sample them has a known answer.

SX, SY, RHO = 1.0, 0.5, 0.8
COVARIANCE = np.array([[SX**2, RHO * SX * SY], [RHO * SX * SY, SY**2]])
PAIR = {"x": stream((), Gaussian()), "y": stream((), Gaussian())}
DOWN, UP, DONE = np.linspace(1, 0, 41), np.ones(41), np.zeros(41)


def wiener(x, t):
    """E[x, y | z_x, z_y], each at its own level: C A (A C A + S^2)^-1 z."""
    level = jnp.stack([t["x"], t["y"]], -1)
    alpha, z = 1 - level, jnp.stack([x["x"], x["y"]], -1)
    noised = alpha[:, :, None] * COVARIANCE[None] * alpha[:, None] + jnp.eye(2)[None] * level[..., None] ** 2
    clean = (alpha * jnp.linalg.solve(noised, z[..., None])[..., 0]) @ COVARIANCE
    return {"x": clean[:, 0], "y": clean[:, 1]}


def pair(schedule, given=None, n=20_000):
    x = sample_rows(wiener, PAIR, example_keys(KEY, jnp.arange(n)), given or {}, schedule, SOLVERS["heun"])
    return np.stack([x["x"], x["y"]])


def test_joint_sampling_reproduces_the_covariance():
    np.testing.assert_allclose(np.cov(pair({"x": DOWN, "y": DOWN})), COVARIANCE, atol=0.05)


@pytest.mark.parametrize("name", ["x", "y"])
def test_a_marginal_is_sampled_where_the_other_stream_stays_noise(name):
    x, y = pair({"x": UP, "y": UP} | {name: DOWN})
    assert np.std({"x": x, "y": y}[name]) == pytest.approx({"x": SX, "y": SY}[name], rel=0.03)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.03


def test_a_conditional_is_sampled_where_the_other_stream_is_given():
    given = SX * np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    x, y = pair({"x": DONE, "y": DOWN}, {"x": given})
    np.testing.assert_array_equal(x, given)
    slope = np.sum(x * y) / np.sum(x * x)
    assert slope == pytest.approx(RHO * SY / SX, abs=0.01)
    assert np.std(y - slope * x) == pytest.approx(SY * np.sqrt(1 - RHO**2), rel=0.03)


def test_one_stream_after_the_other_is_a_schedule_too():
    found = pair({"x": np.r_[DOWN, DONE], "y": np.r_[UP, DOWN]})
    np.testing.assert_allclose(np.cov(found), COVARIANCE, atol=0.05)


def test_what_is_drawn_first_reproduces_the_covariance_and_stands_as_if_given():
    how = {"steps": 40, "solver": SOLVERS["heun"], "guidance": dj.classifier_free(1.5)}
    plain = dj.sample(wiener, PAIR, KEY, 20_000, first=("x",), **{**how, "guidance": None})
    np.testing.assert_allclose(np.cov(np.stack([plain["x"], plain["y"]])), COVARIANCE, atol=0.05)
    guided = dj.sample(wiener, PAIR, KEY, 100, first=("x",), **how)
    np.testing.assert_array_equal(guided["x"], plain["x"][:100])  # nothing is given that could guide it
    asked = dj.sample(wiener, PAIR, KEY, 100, {"x": plain["x"][:100]}, **how)
    np.testing.assert_allclose(guided["y"], asked["y"], rtol=1e-6)
    assert np.all(asked["y"] != plain["y"][:100])
    given = dj.sample(wiener, PAIR, KEY, 100, {"x": asked["y"]}, first=("x",), **how)
    np.testing.assert_array_equal(given["x"], asked["y"])  # what is given is not drawn


@pytest.mark.parametrize("rule", REVEALS)
def test_known_tokens_of_a_start_are_never_touched(rule):
    """Not even by a rule that hides tokens again: what a masked stream starts with is given."""
    streams = {"text": stream((6,), Masked(6, REVEALS[rule]))}
    start = np.tile([6, 1, 6, 6, 4, 6], (64, 1)).astype(np.int32)
    heard = []

    def predict(x, t):
        jax.debug.callback(lambda z: heard.append(np.asarray(z)), x["text"])
        return {"text": jnp.zeros((*x["text"].shape, 6))}

    drawn = dj.sample(predict, streams, KEY, 64, steps=40, start={"text": jnp.asarray(start)})["text"]
    jax.effects_barrier()
    for z in map(np.asarray, (*heard, drawn)):
        assert np.all(z[:, [1, 4]] == [1, 4])
    assert len(heard) == 40 and np.all(drawn < 6) and len(np.unique(drawn[:, 0])) == 6


# What cannot be drawn, and which samples of a key.

LABELLED = {"image": dj.streams.image((4, 4, 1), patch=2), "label": dj.streams.label(10)}


def halved(x, t):
    """A network that believes in half of what it sees, more where the label is high."""
    return {"image": x["image"] * (0.3 + 0.02 * x["label"][:, None, None, None])}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"drawn": ["imgae"]}, "drawn: the stream 'imgae' does not exist; did you mean 'image'"),
        ({"first": ["label"]}, "drawn: the stream 'label' does not exist; known are image"),
        ({"given": {"lable": np.zeros(2, int)}}, "given: the stream 'lable' does not exist; did you mean 'label'"),
        ({"prefix": {"imgae": 1}}, "prefix: the given stream 'imgae' does not exist"),
        (
            {"start": {"imgae": np.zeros((2, 4, 4, 1))}},
            "start: the stream 'imgae' does not exist; did you mean 'image'",
        ),
        ({"guidance": dj.classifier_free({"lable": 5.0})}, "guidance: the stream 'lable' does not exist; did you mean"),
        ({"given": {"label": np.array([3, 10])}}, "given: label holds 10, and its values are 0 ... 9"),
        ({"given": {"label": np.array([-1, 3])}}, "given: label holds -1, and its values are 0 ... 9"),
        ({"steps": 0}, "steps = 0 should be at least 1"),
        ({"num": None}, "say either num, how many samples to draw, or rows, which ones"),
        ({"rows": np.arange(2)}, "say either num"),
    ],
)
def test_what_cannot_be_drawn_is_named(options, message):
    arguments = {"num": 2, "given": {"label": np.zeros(2, int)}} | options
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda key: dj.sample(halved, LABELLED, key, **arguments), jax.random.key(0))


def test_a_label_that_does_not_exist_is_named_in_training_too():
    batch = {"image": np.zeros((2, 4, 4, 1), np.float32), "label": np.array([3, 10])}
    with pytest.raises(ValueError, match=r"the batch: label holds 10, and its values are 0 \.\.\. 9"):
        dj.loss(halved, LABELLED, jax.random.key(0), batch)
    batch["label"][1] = 9
    assert np.isfinite(dj.loss(halved, LABELLED, jax.random.key(0), batch))


@pytest.mark.parametrize("solver", ["2m", "ancestral"])
def test_any_rows_of_a_key_are_drawn_as_all_of_them_are(solver):
    """Samples 64 ... 127 come out of a call of their own as they do out of one that draws all: in pieces, nothing is
    drawn twice and nothing is lost."""
    draw = lambda **which: dj.sample(halved, LABELLED, jax.random.key(3), steps=4, solver=SOLVERS[solver], **which)
    labels = np.arange(128) % 10
    everything = jax.jit(lambda: draw(num=128, given={"label": labels}))()["image"]
    rows = np.arange(64, 128)
    part = jax.jit(lambda rows: draw(rows=rows, given={"label": labels[64:]}))(rows)["image"]
    np.testing.assert_array_equal(part, everything[64:])
    assert np.abs(np.diff(everything, axis=0)).max(axis=(1, 2, 3)).min() > 0.01


def test_who_draws_in_a_loop_without_jit_is_told_once(monkeypatch):
    monkeypatch.setattr("dit_jax.diffusion.sampler._CALLS", itertools.count(1))
    draw = lambda: dj.sample(halved, LABELLED, jax.random.key(0), 2, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.jit(draw)(), jax.jit(draw)(), draw()
    with pytest.warns(UserWarning, match="outside jax.jit every call of sample compiles anew"):
        draw()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw()


@pytest.mark.parametrize("call", [dj.encode, dj.log_likelihood], ids=["encode", "log_likelihood"])
def test_what_the_flow_cannot_be_asked_about_is_named(call):
    x = np.zeros((2, 4, 4, 1), np.float32)
    for asked, given, message in [
        ({"imgae": x}, {}, "x: the stream 'imgae' does not exist; did you mean 'image'"),
        ({"image": x}, {"lable": np.zeros(2, int)}, "given: the stream 'lable' does not exist; did you mean 'label'"),
    ]:
        with pytest.raises(ValueError, match=message):
            call(halved, LABELLED, jax.random.key(0), asked, given, 1)
