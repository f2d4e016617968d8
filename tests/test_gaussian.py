"""The Gaussian process: z and any prediction determine the clean value and the noise, and losses are one loss."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.diffusion.gaussian import PREDICTIONS, TIME_INPUTS, Gaussian, edm, noise, velocity, x
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.schedules import SCHEDULES

pytestmark = pytest.mark.usefixtures("exact")

PAIRS = list(itertools.product(SCHEDULES, PREDICTIONS))
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
every_prediction = pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
every_pair = pytest.mark.parametrize(
    ("schedule", "prediction"), [(SCHEDULES[s], PREDICTIONS[p]) for s, p in PAIRS], ids=map("-".join, PAIRS)
)

# What a network predicts, of (clean, noise, alpha, sigma, d alpha / dt, d sigma / dt).
SAID = {
    "x": lambda x, e, a, s, da, ds: x,
    "noise": lambda x, e, a, s, da, ds: e,
    "v": lambda x, e, a, s, da, ds: a * e - s * x,
    "velocity": lambda x, e, a, s, da, ds: da * x + ds * e,
    "edm": lambda x, e, a, s, da, ds: edm_network(x, x + s / a * e, s / a),
}


def edm_network(clean, noised, sigma, data_std=0.5):
    """Karras et al. 2022, table 1: the output F for which c_skip x + c_out F(c_in x) is the clean value."""
    skip = data_std**2 / (sigma**2 + data_std**2)
    out = sigma * data_std / np.sqrt(sigma**2 + data_std**2)
    return (clean - skip * noised) / out


def path(schedule, t):
    """(alpha, sigma) and their slopes, by central differences."""
    above, below = (np.array(schedule(jnp.asarray(t + h))) for h in (1e-6, -1e-6))
    return (*np.array(schedule(jnp.asarray(t))), *((above - below) / 2e-6))


def keys(n, seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(n))


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@every_pair
def test_split_undoes_corrupt(schedule, prediction):
    process, clean, t = Gaussian(schedule, prediction), draw(32, 4, 3), jnp.linspace(0.02, 0.98, 32)
    z, target = process.corrupt(keys(32), clean, t)
    found, noise = process.split(z, target, t)
    alpha, sigma = (c[:, None, None] for c in schedule(t))
    np.testing.assert_allclose(found, clean, atol=1e-9)
    np.testing.assert_allclose(alpha * clean + sigma * noise, z, atol=1e-9)


@pytest.mark.parametrize(("schedule", "prediction"), PAIRS, ids=map("-".join, PAIRS))
def test_the_target_is_what_its_name_says(schedule, prediction):
    assert prediction in SAID, f"{prediction} is new: say in SAID what a network predicts"
    process, clean = Gaussian(SCHEDULES[schedule], PREDICTIONS[prediction]), draw(32, 4)
    t = np.linspace(0.02, 0.98, 32)
    z, target = process.corrupt(keys(32), clean, jnp.asarray(t))
    alpha, sigma, *slopes = (c[:, None] for c in path(SCHEDULES[schedule], t))
    noise = (z - alpha * clean) / sigma
    np.testing.assert_allclose(target, SAID[prediction](clean, noise, alpha, sigma, *slopes), rtol=1e-6, atol=1e-6)


@every_schedule
def test_the_noise_is_standard_normal_and_the_same_for_every_prediction(schedule):
    clean, t = jnp.zeros((64, 1000)), jnp.full(64, 1.0)
    noises = [Gaussian(schedule, line).corrupt(keys(64), clean, t)[0] for line in PREDICTIONS.values()]
    for other in noises[1:]:
        np.testing.assert_array_equal(other, noises[0])
    assert abs(np.mean(noises[0])) < 0.02 and abs(np.std(noises[0]) - 1) < 0.01
    assert np.max(np.abs(np.corrcoef(noises[0]) - np.eye(64))) < 0.2  # examples have noise of their own


@pytest.mark.parametrize("schedule", [SCHEDULES[name] for name in ("rectified", "gvp", "cosine")])
@every_prediction
def test_noised_at_one_keeps_no_trace_of_the_clean_value(schedule, prediction):
    process, t = Gaussian(schedule, prediction), jnp.ones(8, jnp.float32)
    a, b = (process.corrupt(keys(8), draw(8, 5, seed=s).astype(jnp.float32), t)[0] for s in (0, 1))
    np.testing.assert_array_equal(a, b)


@every_pair
def test_noised_at_zero_is_the_clean_value_and_costs_nothing(schedule, prediction):
    process, clean, t = Gaussian(schedule, prediction), draw(8, 5), jnp.zeros(8)
    z, target = process.corrupt(keys(8), clean, t)
    np.testing.assert_array_equal(z, clean)
    cost, slope = jax.value_and_grad(lambda guess: process.loss(guess, target, t).sum())(draw(8, 5, seed=1))
    assert cost == 0 and np.all(slope == 0)


@every_pair
@pytest.mark.parametrize("loss_in", PREDICTIONS)
def test_a_loss_is_the_squared_error_of_the_prediction_it_is_taken_in(schedule, prediction, loss_in):
    """A belief (clean, noise) that agrees with z has the same loss, however the network expresses it."""
    process = Gaussian(schedule, prediction, loss_in=PREDICTIONS[loss_in], clamp=1e-6)
    clean, error, t = draw(16, 7), draw(16, 7, seed=1), jnp.linspace(0.1, 0.9, 16)
    z, target = process.corrupt(keys(16), clean, t)
    alpha, sigma = (c[:, None] for c in schedule(t))
    believed = clean + error, (z - alpha * (clean + error)) / sigma
    truth = clean, (z - alpha * clean) / sigma

    def say(line, pair):
        p, q = line(schedule, t[:, None])
        return p * pair[0] + q * pair[1]

    wrong = say(PREDICTIONS[loss_in], believed) - say(PREDICTIONS[loss_in], truth)
    np.testing.assert_allclose(process.loss(say(prediction, believed), target, t), jnp.mean(wrong**2, 1), rtol=1e-9)


# Means of squares of what is affine in two standard normals are those over these four corners of a square.
CORNERS = jnp.asarray([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])


@every_schedule
def test_nothing_beats_edms_zero_network_on_data_of_its_width(schedule):
    """On N(0, 0.5^2) its weighted loss is 1 at every level, and z says nothing about what it leaves out."""
    process, t = Gaussian(schedule, edm(0.5), loss_in=edm(0.5)), jnp.linspace(0, 1, 101)[1:]
    alpha, sigma = (c[:, None] for c in schedule(t))
    clean, noise = 0.5 * CORNERS[:1], CORNERS[1:]
    target = process.join(jnp.tile(clean, (100, 1)), noise, t)
    np.testing.assert_allclose(process.loss(jnp.zeros_like(target), target, t), 1, rtol=1e-12)
    np.testing.assert_allclose(jnp.mean(target * (alpha * clean + sigma * noise), 1), 0, atol=1e-12)


@pytest.mark.parametrize("schedule", [SCHEDULES[name] for name in ("gvp", "cosine", "linear", "edm")])
def test_edms_target_is_minus_v_for_data_of_unit_width_at_unit_variance(schedule):
    t = jnp.linspace(0, 1, 101)
    alpha, sigma = (c[:, None] for c in schedule(t))
    target = Gaussian(schedule, edm(1.0)).join(jnp.tile(CORNERS[:1], (101, 1)), CORNERS[1:], t)
    np.testing.assert_allclose(target, sigma * CORNERS[:1] - alpha * CORNERS[1:], rtol=0, atol=1e-14)


def test_the_clamp_bounds_the_weight_near_the_data():
    process, t = Gaussian(prediction=x, loss_in=velocity, clamp=0.05), jnp.array([0.001, 0.049, 0.051, 0.5])
    ones = jnp.ones((4, 3))
    np.testing.assert_allclose(process.loss(ones, 0 * ones, t), [400, 400, 1 / 0.051**2, 4], rtol=1e-9)


@every_pair
def test_a_sampler_can_start_at_the_top(schedule, prediction):
    process = Gaussian(schedule, prediction)
    assert 0.99 < process.top <= 1
    gone = schedule(jnp.ones(()))[0] == 0
    assert (process.top < 1) == (prediction is noise and gone)  # noise alone says nothing about x where x is gone
    found = process.split(draw(2, 3), draw(2, 3, seed=1), jnp.full(2, process.top))
    assert np.all(np.isfinite(found))


# What a network is told after n steps of a thousand, of (n, alpha, sigma).
TOLD = {
    "t_1000": lambda n, a, s: n,
    "timestep": lambda n, a, s: n - 1,
    "one_minus_t": lambda n, a, s: 1 - n / 1000,
    "c_noise": lambda n, a, s: np.clip(np.log(s / a) / 4, -5, 5),
}
TOLD |= {"thousandth": TOLD["t_1000"], "reversed_unit": TOLD["one_minus_t"], "quarter_log": TOLD["c_noise"]}


@every_schedule
@pytest.mark.parametrize("clock", TIME_INPUTS)
def test_a_network_is_told_the_level_as_its_paper_counts(schedule, clock):
    """Also at both ends, and each group its own."""
    assert clock in TOLD, f"{clock} is new: say in TOLD what a network is told after n steps of a thousand"
    n = np.array([[0, 1], [2, 500], [999, 1000]])
    with np.errstate(divide="ignore"):
        wanted = TOLD[clock](n, *map(np.array, schedule(jnp.asarray(n / 1000))))
    np.testing.assert_allclose(
        Gaussian(schedule, clock=TIME_INPUTS[clock]).time_input(jnp.asarray(n / 1000)), wanted, atol=1e-9
    )


def test_top_is_known_inside_a_jitted_function():
    jax.jit(lambda z: z * Gaussian().top)(jnp.ones(()))


def test_the_prior_is_standard_normal_and_each_examples_own():
    process = Gaussian()
    start = process.prior(keys(64), (10, 100))
    assert start.shape == (64, 10, 100) and abs(np.std(start) - 1) < 0.01
    np.testing.assert_array_equal(process.prior(keys(64)[5:7], (10, 100)), start[5:7])


@every_prediction
def test_equal_levels_of_groups_are_one_level(prediction):
    process, clean, t = Gaussian(prediction=prediction), draw(4, 6, 3), jnp.array([0.2, 0.4, 0.6, 1.0])
    grouped = jnp.repeat(t[:, None], 3, axis=1)
    one, many = process.corrupt(keys(4), clean, t), process.corrupt(keys(4), clean, grouped)
    jax.tree.map(np.testing.assert_array_equal, one, many)
    np.testing.assert_array_equal(process.loss(clean, one[1], t), process.loss(clean, one[1], grouped))


def test_a_groups_level_noises_its_own_part_only():
    process, clean = Gaussian(), draw(1, 6, 3)
    z, _ = process.corrupt(keys(1), clean, jnp.array([[0.0, 0.7, 0.0]]))
    np.testing.assert_array_equal(np.any(z != clean, axis=(0, 2)), [False, False, True, True, False, False])
