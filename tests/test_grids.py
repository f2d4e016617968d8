"""Grids: the rows of levels that a sampler walks."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.diffusion.gaussian import Gaussian, noise, velocity
from dit_jax.diffusion.grids import GRIDS, level_rows
from dit_jax.diffusion.levels import uniform
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.schedules import SCHEDULES, log_snr
from dit_jax.diffusion.stream import Stream

pytestmark = pytest.mark.usefixtures("exact")


def stream(process, drawn=True):
    return Stream(shape=(2,), process=process, levels=uniform(), embed=None, head=object if drawn else None)


def logit(t):
    return np.log(t) - np.log1p(-t)


def test_the_last_step_of_sits_stochastic_sampler_is_long():
    np.testing.assert_allclose(GRIDS["long_last"](SCHEDULES["rectified"], 4), [1, 0.68, 0.36, 0.04, 0], rtol=1e-12)


def test_rows_are_given_absent_or_drawn():
    streams = {
        "given": stream(Gaussian()),
        "absent": stream(Masked(3), drawn=False),
        "drawn": stream(Gaussian(prediction=velocity)),
    }
    found = level_rows(streams, {"given"}, 4)
    np.testing.assert_array_equal(found["given"], [0] * 5)
    np.testing.assert_array_equal(found["absent"], [1] * 5)
    np.testing.assert_allclose(found["drawn"], [1, 0.75, 0.5, 0.25, 0], atol=1e-15)


def test_a_stream_that_is_not_to_be_drawn_yet_keeps_its_given_beginning():
    clip = dataclasses.replace(stream(Gaussian()), groups=2)
    found = level_rows({"name": stream(Masked(3)), "clip": clip}, {"clip"}, 2, prefix={"clip": 1}, drawn=["name"])
    np.testing.assert_array_equal(found["name"], [1, 0.5, 0])
    np.testing.assert_array_equal(found["clip"], [[0, 1]] * 3)


def test_rows_are_shifted_and_end_at_zero():
    row = level_rows({"x": stream(Gaussian())}, {}, 10, shift=3.0)["x"]
    np.testing.assert_allclose(logit(row[1:-1]) - logit(np.linspace(1, 0, 11)[1:-1]), np.log(3), rtol=1e-12)
    assert row[0] == 1 and row[-1] == 0


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 18])
def test_grids_fall_from_one_to_zero(name, schedule, steps):
    row = GRIDS[name](schedule, steps)
    assert len(row) == steps + 1 and row[0] == 1 and row[-1] == 0 and np.all(np.diff(row) < 0)


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_karras_levels_are_those_of_the_paper(schedule):
    """Eq. 5 with rho = 7, but for the first, which is moved up to where samples start."""
    i, n = np.arange(18), 18
    wanted = (80 ** (1 / 7) + i / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    found = np.exp(-np.array(log_snr(schedule, jnp.asarray(GRIDS["karras"](schedule, n)[:-1]))))
    np.testing.assert_allclose(found[1:], wanted[1:], rtol=1e-9)
    even = -np.diff(np.log(np.exp(-log_snr(schedule, jnp.asarray(GRIDS["even_log_snr"](schedule, n)[1:-1])))))
    np.testing.assert_allclose(even, np.log(80 / 0.002) / (n - 1), rtol=1e-9)


def test_respaced_timesteps_are_those_of_the_paper():
    row = GRIDS["timesteps"](SCHEDULES["linear"], 250) * 1000 - 1
    assert row[0] == pytest.approx(999) and row[-2] == pytest.approx(0) and row[-1] == -1
    assert set(np.round(-np.diff(row[:-1]), 9)) <= {4.0, 5.0} and np.allclose(row, np.round(row))
    np.testing.assert_allclose(GRIDS["timesteps"](SCHEDULES["linear"], 1000), np.arange(1000, -1, -1) / 1000)


def test_a_row_starts_where_the_prediction_says_something():
    row = level_rows({"x": stream(Gaussian(prediction=noise))}, {}, 10)["x"]
    assert 0.99 < row[0] < 1 and np.all(np.diff(row) < 0)
