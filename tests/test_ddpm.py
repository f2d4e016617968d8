"""DDPM's process against its papers' discrete formulas, in NumPy, float64 and integers for time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dit_jax.diffusion.ddpm import DDPM
from dit_jax.diffusion.gaussian import Gaussian, noise
from dit_jax.diffusion.grids import GRIDS
from dit_jax.diffusion.keys import example_keys, fold, stream_id
from dit_jax.diffusion.schedules import linear
from dit_jax.diffusion.solvers import SOLVERS

pytestmark = pytest.mark.usefixtures("exact")

BETA = np.linspace(1e-4, 0.02, 1000)  # of steps n = 0 ... 999; n here is the paper's t - 1
ALPHA_BAR = np.cumprod(1 - BETA)
BEFORE = np.append(1.0, ALPHA_BAR[:-1])
POSTERIOR = BETA * (1 - BEFORE) / (1 - ALPHA_BAR)  # Ho et al. 2020, eq. 7
CLIPPED = np.append(POSTERIOR[1], POSTERIOR[1:])  # the first is 0, and has no logarithm


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def keys(n):
    return example_keys(jax.random.key(0), jnp.arange(n))


def level(n):
    return jnp.asarray((np.asarray(n) + 1) / 1000)


def test_the_network_is_told_the_papers_timestep():
    np.testing.assert_allclose(DDPM().time_input(level([0, 1, 500, 999])), [0, 1, 500, 999], atol=1e-9)


def test_corrupt_is_the_papers_forward_process():
    n, x = np.array([0, 1, 500, 999]), np.clip(draw(4, 3, 2), -1, 1)
    z, target = DDPM().corrupt(keys(4), jnp.asarray(x), level(n))
    scale = np.sqrt(ALPHA_BAR[n])[:, None, None], np.sqrt(1 - ALPHA_BAR[n])[:, None, None]
    drawn, clean = np.split(np.array(target), 2, -1)
    np.testing.assert_array_equal(clean, x)
    np.testing.assert_allclose(z, scale[0] * x + scale[1] * drawn, atol=1e-12)


@pytest.mark.parametrize("n", [0, 1, 2, 500, 999])
def test_the_loss_is_the_papers_hybrid(n):
    """Mean squared error, plus one term of the bound in bits a value (Nichol & Dhariwal 2021, eqs. 14 to 16)."""
    x, guess = np.clip(draw(6, 5, seed=1), -1, 1), draw(6, 10, seed=2)
    x[0, 0], x[0, 1] = -1.0, 1.0
    process = DDPM()
    z, target = (np.array(part) for part in process.corrupt(keys(6), jnp.asarray(x), level(np.full(6, n))))
    drawn, predicted, v = target[:, :5], guess[:, :5], np.tanh(guess[:, 5:])

    f = (v + 1) / 2
    log_variance = f * np.log(BETA[n]) + (1 - f) * np.log(CLIPPED[n])
    mean_of = lambda e: (z - BETA[n] / np.sqrt(1 - ALPHA_BAR[n]) * e) / np.sqrt(1 - BETA[n])
    if n:
        gap = np.log(CLIPPED[n]) - log_variance
        true_mean = (np.sqrt(BEFORE[n]) * BETA[n] * x + np.sqrt(1 - BETA[n]) * (1 - BEFORE[n]) * z) / (1 - ALPHA_BAR[n])
        bits = 0.5 * (-1 - gap + np.exp(gap) + (true_mean - mean_of(predicted)) ** 2 * np.exp(-log_variance))
    else:
        std, mean = np.exp(log_variance / 2), mean_of(predicted)
        top = np.where(x > 0.999, 1.0, stats.norm.cdf((x + 1 / 255 - mean) / std))
        bottom = np.where(x < -0.999, 0.0, stats.norm.cdf((x - 1 / 255 - mean) / std))
        bits = -np.log(np.maximum(top - bottom, 1e-12))
    wanted = np.mean((predicted - drawn) ** 2 + bits / np.log(2), axis=1)
    said = jnp.asarray(np.concatenate([predicted, v], 1))
    np.testing.assert_allclose(process.loss(said, jnp.asarray(target), level(np.full(6, n))), wanted, rtol=1e-6)


def test_the_bound_teaches_the_variance_and_nothing_else():
    process, t = DDPM(), level(np.array([0, 3, 700]))
    _, target = process.corrupt(keys(3), jnp.asarray(np.clip(draw(3, 4), -1, 1)), t)
    slope = jax.grad(lambda guess: process.bound(guess, target, t).sum())(jnp.asarray(0.1 * draw(3, 8, seed=1)))
    assert np.all(slope[:, :4] == 0) and np.all(slope[:, 4:] != 0)


def test_what_is_given_costs_nothing():
    process, t = DDPM(), jnp.zeros(3)
    _, target = process.corrupt(keys(3), jnp.asarray(draw(3, 4)), t)
    cost, slope = jax.value_and_grad(lambda guess: process.loss(guess, target, t).sum())(jnp.asarray(draw(3, 8)))
    assert cost == 0 and np.all(slope == 0)


def test_bins_of_the_first_step_add_up_to_one():
    process, t = DDPM(), level(np.zeros(256, int))
    x = np.linspace(-1, 1, 256)[:, None]  # every value of a byte, around one prediction
    z, alpha = 0.3, np.sqrt(ALPHA_BAR[0])
    drawn = (z - alpha * x) / np.sqrt(1 - ALPHA_BAR[0])
    guess = jnp.asarray(np.tile([[0.2, 0.4]], (256, 1)))
    bits = process.bound(guess, jnp.asarray(np.concatenate([drawn, x], 1)), t)
    assert np.sum(np.exp2(-np.array(bits))) == pytest.approx(1, abs=1e-9)


def test_the_bound_is_least_where_the_variance_is_right():
    """Of data N(0, 1) with its exact mean, the best variance of a step is that of z_s given z_t."""
    n = 600
    best = 1.0  # z_s and z_t of unit variance, correlation sqrt(1 - beta): the variance left is beta
    x, drawn = draw(200_000, 1), draw(200_000, 1, seed=1)
    z = np.sqrt(ALPHA_BAR[n]) * x + np.sqrt(1 - ALPHA_BAR[n]) * drawn
    exact = np.sqrt(1 - ALPHA_BAR[n]) * z

    def bits(f):
        guess = jnp.asarray(np.concatenate([exact, np.full_like(exact, 2 * f - 1)], 1))
        return float(
            jnp.mean(DDPM().bound(guess, jnp.asarray(np.concatenate([drawn, x], 1)), level(np.full(200_000, n))))
        )

    assert bits(best) < bits(best - 0.2) and bits(best) < bits(best + 0.2)


def respaced(count):
    """Nichol & Dhariwal 2021, section 4: betas of the subsequence, and where it is in the original steps."""
    kept = np.round(np.linspace(0, 999, count)).astype(int)
    alpha_bar = ALPHA_BAR[kept]
    before = np.append(1.0, alpha_bar[:-1])
    beta = 1 - alpha_bar / before
    return kept, alpha_bar, before, beta, beta * (1 - before) / (1 - alpha_bar)


def network(z, n):
    """Some function of z and the timestep: the noise and v, with nothing special about them."""
    return np.tanh(z + n / 700), np.sin(2 * z - n / 300)


@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_a_whole_respaced_chain_is_the_papers(name):
    """250 steps with given noise: 'ancestral' is Ho et al.'s algorithm 2 with the learned variance, 'ddim' Song et
    al. 2021, eq. 12, written in NumPy from the papers."""
    count, start = 250, draw(3, 2)
    row = GRIDS["timesteps"](linear, count)
    sample_keys = keys(3)
    kept, alpha_bar, before, beta, posterior = respaced(count)

    z = start.copy()
    for step, k in enumerate(reversed(range(count))):
        e, v = network(z, kept[k])
        clean = (z - np.sqrt(1 - alpha_bar[k]) * e) / np.sqrt(alpha_bar[k])
        if name == "ddim":
            z = np.sqrt(before[k]) * clean + np.sqrt(1 - before[k]) * e
            continue
        mean = (np.sqrt(before[k]) * beta[k] * clean + np.sqrt(1 - beta[k]) * (1 - before[k]) * z) / (1 - alpha_bar[k])
        if k:
            f = (v + 1) / 2
            std = np.exp((f * np.log(beta[k]) + (1 - f) * np.log(posterior[k])) / 2)
            step_keys = fold(fold(sample_keys, step), stream_id("x"))
            mean = mean + std * np.array(jax.vmap(lambda key: jax.random.normal(key, (2,)))(step_keys))
        z = mean

    def predict(x, t):
        n = 1000 * t["x"][:, None] - 1
        return {"x": jnp.concatenate([jnp.tanh(x["x"] + n / 700), jnp.sin(2 * x["x"] - n / 300)], -1)}

    def move(carry, scanned):
        (x, memory), (i, t, s) = carry, scanned
        t, s = ({"x": jnp.broadcast_to(level, 3)} for level in (t, s))
        return SOLVERS[name].step(predict, {"x": DDPM()}, fold(sample_keys, i), x, t, s, memory), None

    x = {"x": jnp.asarray(start)}
    memory = SOLVERS[name].init(x, {"x": jnp.ones(3)})
    steps = jnp.arange(count), jnp.asarray(row[:-1]), jnp.asarray(row[1:])
    found = jax.jit(lambda x: jax.lax.scan(move, (x, memory), steps)[0][0])(x)["x"]
    np.testing.assert_allclose(found, z, rtol=1e-6, atol=1e-6)


def test_without_a_learned_variance_it_is_a_gaussian_on_the_same_betas():
    plain, x, t = Gaussian(linear, noise, loss_in=noise), jnp.asarray(draw(3, 2)), level(np.array([0, 10, 999]))
    z, target = DDPM().corrupt(keys(3), x, t)
    np.testing.assert_array_equal(z, plain.corrupt(keys(3), x, t)[0])
    np.testing.assert_array_equal(target[:, :2], plain.corrupt(keys(3), x, t)[1])


def test_noise_that_is_never_predicted_costs_the_mean_of_alpha_bar_in_the_best_case():
    """On N(0, 1) data the best noise prediction leaves alpha-bar: its mean over the steps is 0.275513."""
    process, n = Gaussian(linear, noise, loss_in=noise), np.arange(1000)
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    cost = 0.0
    for a, wa in zip(nodes, weights, strict=True):
        for b, wb in zip(nodes, weights, strict=True):
            z = np.sqrt(ALPHA_BAR) * a + np.sqrt(1 - ALPHA_BAR) * b
            guess = jnp.asarray(np.sqrt(1 - ALPHA_BAR) * z)[:, None]
            cost += wa * wb * np.mean(process.loss(guess, jnp.full((1000, 1), b), level(n)))
    assert cost / (2 * np.pi) == pytest.approx(0.275513, abs=1e-6)
