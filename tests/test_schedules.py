"""Noise schedules: ends, order, derivatives, and how levels meet arrays."""

import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.diffusion.schedules import SCHEDULES, align, derivative, log_snr

pytestmark = pytest.mark.usefixtures("exact")
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)

CLOSED_FORM = {
    "rectified": lambda t: (1 - t, t),
    "cosine": lambda t: (np.cos(np.pi * t / 2), np.sin(np.pi * t / 2)),
}


@every_schedule
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_ends_are_exact_to_the_last_bit(schedule, dtype):
    alpha, sigma = schedule(jnp.array([0.0, 1.0], dtype))
    assert alpha.dtype == sigma.dtype == dtype
    np.testing.assert_array_equal(alpha, [1, 0])
    np.testing.assert_array_equal(sigma, [0, 1])


@every_schedule
def test_log_snr_falls_from_plus_to_minus_infinity(schedule):
    snr = log_snr(schedule, jnp.linspace(0, 1, 1001))
    assert snr[0] == np.inf and snr[-1] == -np.inf
    assert np.all(np.diff(snr[1:-1]) < 0)


@every_schedule
def test_derivative_is_that_of_finite_differences(schedule):
    t, h = jnp.linspace(0.01, 0.99, 50), 1e-5
    for slope, above, below in zip(derivative(schedule, t), schedule(t + h), schedule(t - h), strict=True):
        np.testing.assert_allclose(slope, (above - below) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("name", CLOSED_FORM)
def test_schedules_are_what_their_names_say(name):
    t = np.linspace(0, 1, 101)
    np.testing.assert_allclose(SCHEDULES[name](jnp.asarray(t)), CLOSED_FORM[name](t), atol=1e-15)


def test_cosine_preserves_variance():
    alpha, sigma = SCHEDULES["cosine"](jnp.linspace(0, 1, 101))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-15)


def test_a_level_an_example_reaches_all_of_the_example():
    t, x = jnp.array([0.1, 0.2]), jnp.zeros((2, 3, 5))
    np.testing.assert_array_equal(align(t, x), [[[0.1]], [[0.2]]])
    assert align(t, jnp.zeros(2)).shape == (2,)


def test_a_level_a_group_reaches_its_part_of_the_first_axis():
    t, x = jnp.array([[0.1, 0.2], [0.3, 0.4]]), jnp.zeros((2, 6, 5))
    aligned = align(t, x)
    assert aligned.shape == (2, 6, 1)
    np.testing.assert_array_equal(aligned[..., 0], [[0.1] * 3 + [0.2] * 3, [0.3] * 3 + [0.4] * 3])
