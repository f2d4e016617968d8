"""Log-likelihood against closed forms, of data whose denoiser is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.encode import FLOOR
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian
from dit_jax.diffusion.levels import uniform
from dit_jax.diffusion.likelihood import log_likelihood
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.schedules import SCHEDULES
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream

KEY = jax.random.key(0)
MEAN, STD = 1.3, 0.5
PAIRS = [*itertools.product(["rectified", "gvp"], PREDICTIONS), ("cosine", "v"), ("linear", "noise"), ("edm", "edm")]
every_process = pytest.mark.parametrize(
    "process", [Gaussian(SCHEDULES[s], PREDICTIONS[p]) for s, p in PAIRS], ids=map("-".join, PAIRS)
)


def stream(shape, process=Gaussian(), head=object):
    return Stream(shape=shape, process=process, levels=uniform(), embed=None, head=head)


def says(process, z, t, mean, covariance):
    """What a network that knows the data N(mean, covariance) would say of z [B, n] at t [B]."""
    alpha, sigma = process.schedule(t[:, None])
    noised = alpha[..., None] ** 2 * covariance[None] + sigma[..., None] ** 2 * np.eye(len(covariance))[None]
    surprise = jnp.linalg.solve(noised, (z - alpha * mean)[..., None])[..., 0]
    p, q = process.prediction(process.schedule, t[:, None])
    return p * (mean + alpha * (surprise @ covariance)) + q * sigma * surprise


def log_normal(x, mean, covariance):
    """log N(x; mean, covariance) of x [B, n], [B]."""
    off = x - mean
    squares = np.sum(off * np.linalg.solve(covariance, off.T).T, axis=1)
    return -(squares + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2


def score(predict, streams, x, **how):
    """log_likelihood as numpy, compiled as a whole."""
    return np.asarray(jax.jit(lambda x: log_likelihood(predict, streams, KEY, x, **how))(x))


def isotropic(process, dtype=np.float64):
    mean, covariance = np.full((1, 4), MEAN, dtype), STD**2 * np.eye(4, dtype=dtype)
    predict = lambda x, t: {"x": says(process, x["x"], t["x"], mean, covariance)}
    x = MEAN + STD * np.linspace(-3, 3, 12, dtype=dtype).reshape(3, 4)
    return predict, {"x": stream((4,), process)}, {"x": x}


def drawn_from(process):
    """Mean and variance of samples, which begin with N(0, 1) at the top, whatever alpha is there."""
    alpha, sigma = (float(value) for value in process.schedule(jnp.asarray(process.top)))
    spread = np.hypot(alpha * STD, sigma)
    return MEAN - alpha * MEAN * STD / spread, (STD / spread) ** 2


@every_process
def test_independent_normals(exact, process):
    predict, streams, x = isotropic(process)
    mean, variance = drawn_from(process)
    found = score(predict, streams, x)
    np.testing.assert_allclose(found, log_normal(x["x"], mean, variance * np.eye(4)), atol=1e-3)
    if process.schedule(jnp.asarray(process.top))[0] == 0:
        np.testing.assert_allclose(found, log_normal(x["x"], MEAN, STD**2 * np.eye(4)), atol=1e-3)


@pytest.mark.parametrize("schedule", ["rectified", "gvp"])
def test_one_probe_is_exact_where_all_directions_are_alike(exact, schedule):
    predict, streams, x = isotropic(Gaussian(SCHEDULES[schedule]))
    np.testing.assert_allclose(score(predict, streams, x, probes=1), score(predict, streams, x), atol=1e-9)


def test_the_rule_is_of_fourth_order(exact):
    """The rest of the error is below the floor, where the density is taken to be that of alpha x."""
    predict, streams, x = isotropic(Gaussian())
    found = [score(predict, streams, x, steps=steps) for steps in (8, 16, 128)]
    errors = [np.max(np.abs(rough - found[-1])) for rough in found[:-1]]
    assert np.log2(errors[0] / errors[1]) > 3.7


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_float32_is_enough(prediction):
    """A velocity is a difference over sigma, so its divergence is off by D eps / sigma, which adds up to D eps
    log(1 / FLOOR); the path is rounded at every step, and the density of its end falls by |z| times the error of z."""
    process = Gaussian(prediction=PREDICTIONS[prediction])
    predict, streams, x = isotropic(process, np.float32)
    found = score(predict, streams, x)
    mean, variance = drawn_from(process)
    norms = np.sum((x["x"] - mean) ** 2, axis=1) / variance
    size, steps, bias = 4, 50, (FLOOR / STD) ** 2
    rounding = np.finfo(np.float32).eps * (size * np.log(1 / FLOOR) + steps * norms)
    assert found.dtype == np.float32
    assert np.all(np.abs(found - log_normal(x["x"], mean, variance * np.eye(4))) < rounding + bias * (size + norms))


ROOT = np.random.default_rng(0).normal(size=(6, 6)) / 3
COVARIANCE = ROOT @ ROOT.T + 0.1 * np.eye(6)
OFFSET = np.linspace(-1, 1, 6)[None]


def correlated(process):
    def predict(x, t):
        z = x["x"].reshape(len(x["x"]), 6)
        return {"x": says(process, z, t["x"], OFFSET, COVARIANCE).reshape(x["x"].shape)}

    rows = np.random.default_rng(1).multivariate_normal(OFFSET[0], COVARIANCE, 5)
    return predict, {"x": stream((2, 3), process)}, rows


@pytest.mark.parametrize(("schedule", "prediction"), [("rectified", "x"), ("rectified", "velocity"), ("gvp", "v")])
def test_correlated_normals(exact, schedule, prediction):
    predict, streams, rows = correlated(Gaussian(SCHEDULES[schedule], PREDICTIONS[prediction]))
    found = score(predict, streams, {"x": rows.reshape(5, 2, 3)})
    np.testing.assert_allclose(found, log_normal(rows, OFFSET, COVARIANCE), atol=1e-3)


def test_random_probes_are_right_on_average(exact):
    predict, streams, rows = correlated(Gaussian())
    copies = np.tile(rows[:1], (500, 1)).reshape(500, 2, 3)
    found = score(predict, streams, {"x": copies}, probes=1, steps=20)
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(log_normal(rows[:1], OFFSET, COVARIANCE)[0], abs=3 * error + 1e-3)
    many = score(predict, streams, {"x": copies}, probes=16, steps=20)
    assert np.std(many) == pytest.approx(np.std(found) / 4, rel=5 / np.sqrt(2 * len(found)) * np.sqrt(2))


CENTRES, WEIGHTS, WIDTH = np.array([[-0.8, 1.1]]), np.array([[0.3, 0.7]]), 0.25


def mixture(x, t):
    """The denoiser of 0.3 N(-0.8, 0.25^2) + 0.7 N(1.1, 0.25^2): a mean of Gaussian ones, by what each explains."""
    z, t = x["x"][:, None], t["x"][:, None]
    alpha, sigma = 1 - t, t
    variance = alpha**2 * WIDTH**2 + sigma**2
    off = z - alpha * CENTRES
    share = jax.nn.softmax(jnp.log(WEIGHTS) - off**2 / (2 * variance), axis=1)
    return {"x": jnp.sum(share * (CENTRES + alpha * WIDTH**2 / variance * off), axis=1)}


def mixture_density(x):
    bumps = np.exp(-((x[:, None] - CENTRES) ** 2) / (2 * WIDTH**2)) / np.sqrt(2 * np.pi * WIDTH**2)
    return np.sum(WEIGHTS * bumps, axis=1)


def test_a_mixture_and_its_integral(exact):
    grid = np.linspace(-3, 3, 1001)
    found = score(mixture, {"x": stream(())}, {"x": grid})
    likely = mixture_density(grid) > 1e-4
    np.testing.assert_allclose(found[likely], np.log(mixture_density(grid[likely])), atol=1e-3)
    assert np.trapezoid(np.exp(found), grid) == pytest.approx(1, abs=1e-3)


def test_any_network_has_a_density(exact):
    """It integrates to one, whatever the data that the network has never seen; and it is that of its samples."""
    predict = lambda x, t: {"x": 0.6 * jnp.sin(2 * x["x"] + 1) * jnp.cos(t["x"])}
    streams, grid = {"x": stream((), Gaussian(prediction=PREDICTIONS["velocity"]))}, np.linspace(-6, 6, 2001)
    density = np.exp(score(predict, streams, {"x": grid}))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    drawn = dj.sample(predict, streams, KEY, 20_000, steps=100, solver=SOLVERS["heun"])["x"]
    below = np.trapezoid(np.where(grid < 0.3, density, 0.0), grid)
    assert np.mean(drawn < 0.3) == pytest.approx(below, abs=4 * 0.5 / np.sqrt(len(drawn)) + 0.004)


def test_an_example_ignores_its_batch(exact):
    predict, streams, rows = correlated(Gaussian())
    alone, among = (score(predict, streams, {"x": rows[:n].reshape(n, 2, 3)}, probes=2, steps=8) for n in (2, 5))
    np.testing.assert_allclose(alone, among[:2], atol=1e-9)


# x and y are jointly Gaussian, as in test_sampler.py, and each has a level of its own.

JOINT = np.array([[1.0, 0.4], [0.4, 0.25]])
PAIR = {"x": stream(()), "y": stream((), Gaussian(SCHEDULES["gvp"], PREDICTIONS["v"]))}


def wiener(x, t):
    (ax, sx), (ay, sy) = (PAIR[name].process.schedule(t[name]) for name in "xy")
    alpha, sigma, z = jnp.stack([ax, ay], -1), jnp.stack([sx, sy], -1), jnp.stack([x["x"], x["y"]], -1)
    noised = alpha[:, :, None] * JOINT[None] * alpha[:, None] + jnp.eye(2)[None] * sigma[..., None] ** 2
    clean = (alpha * jnp.linalg.solve(noised, z[..., None])[..., 0]) @ JOINT
    noise = (z - alpha * clean) / jnp.where(sigma > 0, sigma, 1.0)
    return {"x": clean[:, 0], "y": alpha[:, 1] * noise[:, 1] - sigma[:, 1] * clean[:, 1]}


def test_joint_marginal_and_conditional_likelihood(exact):
    """Streams in x are scored together, a given one stands at its clean value, and any other is marginalised out."""
    rows = np.random.default_rng(2).multivariate_normal(np.zeros(2), JOINT, 6)
    x, y = {"x": rows[:, 0]}, {"y": rows[:, 1]}
    both = log_normal(rows, 0.0, JOINT)
    marginal = log_normal(rows[:, :1], 0.0, JOINT[:1, :1])
    np.testing.assert_allclose(score(wiener, PAIR, x | y), both, atol=1e-3)
    np.testing.assert_allclose(score(wiener, PAIR, x), marginal, atol=1e-3)
    np.testing.assert_allclose(score(wiener, PAIR, y, given=x), both - marginal, atol=1e-3)


def test_what_has_no_flow_is_named():
    streams = {"image": stream((3,)), "text": stream((5,), Masked(4)), "pose": stream((2,), head=None)}
    with pytest.raises(ValueError, match="no probability flow moves text, pose"):
        log_likelihood(lambda x, t: x, streams, KEY, {name: np.zeros((1, 3)) for name in streams})
