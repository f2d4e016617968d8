"""Noise schedules: ends, order, derivatives, and how levels meet arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.diffusion.schedules import SCHEDULES, align, derivative, level_at, log_snr

pytestmark = pytest.mark.usefixtures("exact")
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)

STEPS = np.arange(1001) / 1000
ALPHA_BAR = np.append(1.0, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))  # Ho et al. 2020, after 0 ... 1000 steps


def of_alpha_bar(alpha_bar):
    return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)


def nichol(t):
    f = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    return of_alpha_bar(f(t) / f(0))


CLOSED_FORM = {
    "rectified": lambda t: (1 - t, t),
    "gvp": lambda t: (np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)),
    "cosine": nichol,
    "linear": lambda t: of_alpha_bar(np.interp(t, STEPS, ALPHA_BAR)),  # t here are its nodes
    "edm": lambda t: (1 / np.sqrt(1 + (80 * t**7) ** 2), 80 * t**7 / np.sqrt(1 + (80 * t**7) ** 2)),
}
LAST_ALPHA = {"linear": np.sqrt(ALPHA_BAR[-1]), "edm": 1 / np.sqrt(1 + 80**2)}  # of those that keep some signal


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_ends_are_exact_to_the_last_bit(name, dtype):
    alpha, sigma = SCHEDULES[name](jnp.array([0.0, 1.0], dtype))
    assert alpha.dtype == sigma.dtype == dtype
    assert alpha[0] == 1 and sigma[0] == 0
    if name in LAST_ALPHA:
        assert alpha[1] == pytest.approx(LAST_ALPHA[name], rel=1e-5)
        assert sigma[1] == pytest.approx(np.sqrt(1 - LAST_ALPHA[name] ** 2), rel=1e-6)
    else:
        assert alpha[1] == 0 and sigma[1] == 1, f"if {name} is to keep some signal, say in LAST_ALPHA how much"


@pytest.mark.parametrize("name", SCHEDULES)
def test_log_snr_falls_from_plus_infinity_to_the_end(name):
    snr = log_snr(SCHEDULES[name], jnp.linspace(0, 1, 1001))
    last = LAST_ALPHA.get(name, 0.0)
    assert snr[0] == np.inf
    with np.errstate(divide="ignore"):
        assert snr[-1] == pytest.approx(np.log(last) - np.log(1 - last**2) / 2, rel=1e-9)
    assert np.all(np.diff(snr[1:-1]) < 0)


@every_schedule
def test_a_level_is_found_from_its_log_snr(schedule):
    t = jnp.linspace(0.001, 0.999, 99)
    np.testing.assert_allclose(level_at(schedule, log_snr(schedule, t)), t, atol=1e-12)
    np.testing.assert_array_equal(level_at(schedule, jnp.array([np.inf, -np.inf])), [0, 1])


@every_schedule
def test_derivative_is_that_of_finite_differences(schedule):
    t, h = jnp.linspace(0.02, 0.98, 50), 1e-6
    for slope, above, below in zip(derivative(schedule, t), schedule(t + h), schedule(t - h), strict=True):
        np.testing.assert_allclose(slope, (above - below) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_what_their_names_say(name):
    assert name in CLOSED_FORM, f"{name} is new: say in CLOSED_FORM what alpha and sigma are"
    np.testing.assert_allclose(SCHEDULES[name](jnp.asarray(STEPS)), CLOSED_FORM[name](STEPS), atol=1e-12)


def test_linear_betas_lose_what_is_published():
    """alpha-bar after steps 1, 250, 500, 750 and 1,000, the mean of it, and the posterior variance of the second."""
    square = np.array(SCHEDULES["linear"](jnp.asarray(STEPS))[0]) ** 2
    np.testing.assert_allclose(square[[1, 250, 500, 750]], [0.9999, 0.524085, 0.078587, 0.003351], atol=5e-7)
    assert square[1000] == pytest.approx(4.036e-5, rel=1e-3)
    assert np.mean(square[1:]) == pytest.approx(0.275513, abs=5e-7)
    beta = 1 - square[2] / square[1]
    assert beta * (1 - square[1]) / (1 - square[2]) == pytest.approx(5.4532e-5, rel=1e-4)
    prior_kl = (square[1000] * 1.0 - 1 + (1 - square[1000]) - np.log1p(-square[1000])) / 2 / np.log(2)
    assert prior_kl <= 2.95e-5  # bits a dimension, where |x| = 1


@pytest.mark.parametrize("name", ["gvp", "cosine", "linear", "edm"])
def test_variance_is_preserved(name):
    alpha, sigma = SCHEDULES[name](jnp.linspace(0, 1, 101))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-14)


def test_a_level_an_example_reaches_all_of_the_example():
    t, x = jnp.array([0.1, 0.2]), jnp.zeros((2, 3, 5))
    np.testing.assert_array_equal(align(t, x), [[[0.1]], [[0.2]]])
    assert align(t, jnp.zeros(2)).shape == (2,)


def test_a_level_a_group_reaches_its_part_of_the_first_axis():
    t, x = jnp.array([[0.1, 0.2], [0.3, 0.4]]), jnp.zeros((2, 6, 5))
    aligned = align(t, x)
    assert aligned.shape == (2, 6, 1)
    np.testing.assert_array_equal(aligned[..., 0], [[0.1] * 3 + [0.2] * 3, [0.3] * 3 + [0.4] * 3])
