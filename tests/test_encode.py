"""Encoding is sampling backwards, and the way between two codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.encode import FLOOR, encoding_levels
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian
from dit_jax.diffusion.interpolate import slerp
from dit_jax.diffusion.levels import uniform
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.schedules import SCHEDULES
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream

KEY = jax.random.key(0)
MEAN, STD = 1.3, 0.5
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES)
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS)


def stream(shape, process=Gaussian(), head=object):
    return Stream(shape=shape, process=process, levels=uniform(), embed=None, head=head)


def network(process, centres, width):
    """The exact denoiser of N(c, width^2), c alike any of the centres [k], said as the process wants it."""

    def predict(x, t):
        z = x["x"]
        alpha, sigma = process.schedule(t["x"][:, None])
        variance = alpha**2 * width**2 + sigma**2
        off = z[..., None] - alpha[..., None] * centres[None, None]
        share = jax.nn.softmax(-(off**2) / (2 * variance[..., None]), axis=-1)
        noise = sigma / variance * jnp.sum(share * off, axis=-1)
        clean = jnp.sum(share * (centres[None, None] + (alpha * width**2 / variance)[..., None] * off), axis=-1)
        p, q = process.prediction(process.schedule, t["x"][:, None])
        return {"x": p * clean + q * noise}

    return predict


def there_and_back(predict, streams, x, **how):
    """(noise, sample): x encoded, and what a sampler makes of that."""
    num = len(next(iter(x.values())))

    @jax.jit
    def both(x):
        noise = dj.encode(predict, streams, KEY, x, steps=100, **how)
        return noise, dj.sample(predict, streams, KEY, num, steps=100, solver=SOLVERS["heun"], start=noise, **how)

    return both(x)


@every_schedule
def test_a_gaussian_is_encoded_by_its_quantiles(exact, schedule):
    process = Gaussian(SCHEDULES[schedule], PREDICTIONS["v"])
    alpha, sigma = process.schedule(jnp.ones(()))
    x = MEAN + STD * jnp.linspace(-3, 3, 12).reshape(3, 4)
    predict = network(process, np.array([MEAN]), STD)
    code = jax.jit(lambda x: dj.encode(predict, {"x": stream((4,), process)}, KEY, {"x": x}, steps=200))(x)["x"]
    np.testing.assert_allclose(code, alpha * MEAN + jnp.hypot(alpha * STD, sigma) * (x - MEAN) / STD, atol=1e-3)


@pytest.mark.parametrize("schedule", ["rectified", "gvp"])
@every_prediction
def test_a_sampler_gives_back_what_was_encoded(exact, schedule, prediction):
    """Two bumps, whose denoiser is as nonlinear as a tanh."""
    process, x = Gaussian(SCHEDULES[schedule], PREDICTIONS[prediction]), jnp.linspace(-2, 2, 12).reshape(3, 4)
    predict = network(process, np.array([-1.0, 1.0]), 0.4)
    code, back = there_and_back(predict, {"x": stream((4,), process)}, {"x": x})
    assert np.max(np.abs(back["x"] - x)) < 1e-3 * np.max(np.abs(x))
    assert code.keys() == {"x"} and np.max(np.abs(code["x"] - x)) > 0.1


def test_streams_are_encoded_together_with_what_is_given(exact):
    streams = {"x": stream((2,)), "y": stream((2,), Gaussian(SCHEDULES["gvp"])), "label": stream((), Masked(3), None)}

    def predict(x, t):
        """That of independent standard normals, bent where there is noise."""
        pull = jnp.tanh(x["y"] - x["x"] + x["label"][:, None])

        def clean(name):
            alpha, sigma = streams[name].process.schedule(t[name][:, None])
            return alpha / (alpha**2 + sigma**2) * x[name] + sigma**2 * pull

        return {name: clean(name) for name in "xy"}

    rng = np.random.default_rng(0)
    x, given = {name: jnp.asarray(rng.normal(size=(4, 2))) for name in "xy"}, {"label": jnp.array([0, 1, 2, 2])}
    code, back = there_and_back(predict, streams, x, given=given)
    for name in x:
        assert np.max(np.abs(back[name] - x[name])) < 1e-3 * np.max(np.abs(x[name]))
    alone = dj.encode(
        predict, streams, KEY, {name: value[:2] for name, value in x.items()}, {"label": given["label"][:2]}
    )
    unlabelled = dj.encode(predict, streams, KEY, x)
    for name in x:
        np.testing.assert_allclose(alone[name], code[name][:2], atol=1e-3)
        assert np.max(np.abs(unlabelled[name][:3] - code[name][:3])) > 0.01


def test_guidance_is_undone_by_the_same_guidance(exact):
    streams = {"x": stream((4,)), "label": stream((), Masked(3), None)}

    def predict(x, t):
        alpha, sigma = 1 - t["x"][:, None], t["x"][:, None]
        centre = 0.3 * x["label"][:, None]
        return {"x": centre + alpha * STD**2 / (alpha**2 * STD**2 + sigma**2) * (x["x"] - alpha * centre)}

    x, given = {"x": jnp.linspace(-2, 2, 12).reshape(3, 4)}, {"label": jnp.arange(3)}
    _, back = there_and_back(predict, streams, x, given=given, guidance=dj.classifier_free(3.0))
    assert np.max(np.abs(back["x"] - x["x"])) < 1e-3 * 2


def test_what_has_no_flow_is_named():
    streams = {"text": stream((5,), Masked(4)), "pose": stream((2,), head=None)}
    with pytest.raises(ValueError, match="no probability flow moves text, pose"):
        dj.encode(lambda x, t: x, streams, KEY, {"text": np.zeros((1, 5), int), "pose": np.zeros((1, 2))})


@every_schedule
@pytest.mark.parametrize("prediction", ["v", "noise"])
def test_rising_levels_rise_from_the_floor_to_the_top(exact, schedule, prediction):
    process = Gaussian(SCHEDULES[schedule], PREDICTIONS[prediction])
    levels = encoding_levels(process, np.linspace(0, 1, 51))
    alpha, sigma = process.schedule(jnp.asarray(levels[0]))
    assert sigma / alpha == pytest.approx(FLOOR, rel=1e-6)
    assert levels[-1] == pytest.approx(process.top, rel=1e-12) and np.all(np.diff(levels) > 0)
    assert encoding_levels(process, 1.0) == process.top or process.top < 1


# Between two noises.


def noises(*shape):
    return np.random.default_rng(0).normal(size=(2, *shape))


def test_slerp_ends_at_its_ends(exact):
    a, b = noises(5, 3, 2)
    np.testing.assert_allclose(slerp(a, b, jnp.zeros(5)), a, rtol=1e-14)
    np.testing.assert_allclose(slerp(a, b, jnp.ones(5)), b, rtol=1e-14)
    np.testing.assert_allclose(slerp(a, b, jnp.full(5, 0.3)), slerp(b, a, jnp.full(5, 0.7)), atol=1e-12)


def test_slerp_turns_evenly_and_its_norm_is_between_the_norms(exact):
    a, b = noises(1, 3, 2)
    w = jnp.linspace(0, 1, 9)
    path = np.asarray(slerp(jnp.repeat(a, 9, 0), jnp.repeat(b, 9, 0), w)).reshape(9, 6)
    norms = np.linalg.norm(path, axis=1)
    np.testing.assert_allclose(norms, np.linspace(norms[0], norms[-1], 9), rtol=1e-12)
    unit = path / norms[:, None]
    turns = np.sum(unit[1:] * unit[:-1], axis=1)
    np.testing.assert_allclose(turns, turns[0], rtol=1e-12)


@pytest.mark.parametrize("weight", [0.2, 0.5])
def test_between_standard_normals_is_a_standard_normal(exact, weight):
    a, b = noises(4, 10_000)
    between = np.asarray(slerp(a, b, jnp.full(4, weight)))
    error = 1 / np.sqrt(between.size)
    assert np.mean(between) == pytest.approx(0, abs=5 * error)
    assert np.mean(between**2) == pytest.approx(1, abs=5 * np.sqrt(2) * error)
    assert np.mean(between**4) == pytest.approx(3, abs=5 * np.sqrt(96) * error)
    assert np.mean((weight * a + (1 - weight) * b) ** 2) < 0.75


def test_slerp_between_nearly_the_same_is_the_line(exact):
    a, _ = noises(2, 8)
    for b in (a, 2 * a, a + 1e-9):
        np.testing.assert_allclose(slerp(a, b, jnp.full(2, 0.25)), 0.75 * a + 0.25 * b, atol=1e-8)
