"""The sampler: what a sample may depend on, and one loop for joint, marginal, conditional and sequential sampling."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.levels import shifted, uniform
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.sampler import walk
from dit_jax.diffusion.schedules import SCHEDULES
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream

pytestmark = pytest.mark.usefixtures("quick")

KEY = jax.random.key(0)
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


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


def draw(num, given=None, solver=SOLVERS["2m"], streams=STREAMS, predict=entangled, **options):
    return dj.sample(predict, streams, KEY, num, given, steps=6, solver=solver, **options)


@every_solver
def test_a_sample_is_its_keys_alone(solver):
    """Sample i is the same in a batch of 16, in one of 4, and picked out with some of its fellows."""
    many = draw(16, {"label": LABELS}, solver)
    few = draw(4, {"label": LABELS[:4]}, solver)
    rows = np.array([11, 2, 5])
    schedule = {name: np.linspace(1, 0, 7) for name in STREAMS} | {"label": np.zeros(7)}
    picked = walk(entangled, STREAMS, example_keys(KEY, jnp.asarray(rows)), {"label": LABELS[rows]}, schedule, solver)
    for name in STREAMS:
        np.testing.assert_allclose(few[name], many[name][:4], atol=1e-6)
        np.testing.assert_allclose(picked[name], many[name][rows], atol=1e-6)


def test_a_sample_ignores_what_its_neighbours_are_given():
    a, b = draw(4, {"label": np.array([1, 0, 0, 0])}), draw(4, {"label": np.array([1, 2, 2, 2])})
    for name in ("image", "sound", "text"):
        np.testing.assert_array_equal(a[name][0], b[name][0])
    assert np.all(a["image"][1] != b["image"][1])


def test_samples_and_keys_differ():
    x = draw(16)
    assert len(np.unique(x["image"])) == 16 * 6
    other = dj.sample(entangled, STREAMS, jax.random.key(1), 16, steps=6)
    assert np.all(x["image"] != other["image"])


@every_solver
def test_given_values_come_back_untouched(solver):
    given = {"label": LABELS[:4], "sound": np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)}
    x = draw(4, given, solver)
    for name, value in given.items():
        np.testing.assert_array_equal(x[name], value)
    assert x.keys() == STREAMS.keys()


def watched(predict, seen):
    """The same network, which writes down all that it is asked."""

    def watching(x, t):
        jax.debug.callback(lambda *asked: seen.append(asked), x, t, ordered=True)
        return predict(x, t)

    return watching


def test_an_absent_stream_stays_at_its_prior():
    seen, streams = [], STREAMS | {"sound": stream((4,), Gaussian(), drawn=False)}
    sound = draw(200, streams=streams, predict=watched(entangled, seen))["sound"]
    assert len(seen) == 6 and abs(np.std(sound) - 1) < 0.1
    for x, t in seen:
        assert np.all(t["label"] == 1) and np.all(t["sound"] == 1) and np.all(x["label"] == 3)
        np.testing.assert_array_equal(x["sound"], sound)


def test_the_network_sees_levels_fall_from_one_to_zero():
    seen = []
    draw(2, {"label": LABELS[:2]}, predict=watched(entangled, seen), shift=3.0)
    wanted = np.repeat(shifted(np.linspace(1, 0, 7), 3.0)[:-1, None], 2, axis=1)
    for name in ("image", "sound", "text"):
        np.testing.assert_allclose([t[name] for _, t in seen], wanted, atol=1e-6)
    assert all(np.all(t["label"] == 0) for _, t in seen)


@every_solver
def test_a_streams_noise_ignores_other_streams_and_their_order(solver):
    def predict(x, t):
        return {name: 0.3 * z for name, z in x.items()}

    image, other = STREAMS["image"], stream((7,), Gaussian())
    alone = draw(3, solver=solver, streams={"image": image}, predict=predict)["image"]
    for streams in ({"image": image, "other": other}, {"other": other, "image": image}):
        np.testing.assert_allclose(draw(3, solver=solver, streams=streams, predict=predict)["image"], alone, atol=1e-6)


def test_two_streams_start_from_different_noise():
    streams = {"a": stream((4,), Gaussian(), drawn=False), "b": stream((4,), Gaussian(), drawn=False)}
    x = draw(3, streams=streams, predict=lambda x, t: {})
    assert np.all(x["a"] != x["b"])


@every_solver
def test_a_single_value_is_found_exactly_however_the_network_says_it(solver):
    """Data that is always 0.7, under every prediction and schedule (Heun's steps are exact on straight paths only)."""
    schedules = ["rectified"] if solver is SOLVERS["heun"] else SCHEDULES
    streams = {
        f"{schedule} {prediction}": stream((3,), Gaussian(SCHEDULES[schedule], PREDICTIONS[prediction]))
        for schedule, prediction in itertools.product(schedules, PREDICTIONS)
    }

    def predict(x, t):
        def say(process, z, t):
            alpha, sigma = process.schedule(t)
            p, q = process.prediction(process.schedule, t)
            return p * 0.7 + q * (z - alpha * 0.7) / sigma

        return {name: say(stream.process, x[name], t[name][:, None]) for name, stream in streams.items()}

    for name, value in draw(4, solver=solver, streams=streams, predict=predict).items():
        np.testing.assert_allclose(value, 0.7, atol=1e-4, err_msg=name)


def test_no_mask_is_left():
    text = draw(64)["text"]
    assert text.dtype == jnp.int32 and set(np.unique(text)) <= set(range(6))


def test_sampling_can_be_jitted():
    labels = LABELS[:4]
    jitted = jax.jit(lambda labels: draw(4, {"label": labels}))(labels)
    for name, value in draw(4, {"label": labels}).items():
        np.testing.assert_allclose(jitted[name], value, atol=1e-5)


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
    x = walk(wiener, PAIR, example_keys(KEY, jnp.arange(n)), given or {}, schedule, SOLVERS["heun"])
    return np.stack([x["x"], x["y"]])


def test_joint_sampling_reproduces_the_covariance():
    np.testing.assert_allclose(np.cov(pair({"x": DOWN, "y": DOWN})), COVARIANCE, atol=0.03)


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
    np.testing.assert_allclose(np.cov(found), COVARIANCE, atol=0.03)
