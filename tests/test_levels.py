"""Noise levels: the distributions training draws from, and the rows a sampler walks."""

import collections
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dit_jax.diffusion import joint_levels
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.levels import LEVELS, dropout, logit_normal, shifted, steps, stratified, uniform
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.stream import Stream

pytestmark = pytest.mark.usefixtures("exact")

KEY, UNIFORM = jax.random.key(0), uniform()


def stream(process, quantile=UNIFORM, drawn=True):
    return Stream(shape=(2,), process=process, levels=quantile, embed=None, head=object if drawn else None)


def logit(t):
    return np.log(t) - np.log1p(-t)


@pytest.mark.parametrize("shift", [0.3, 1.0, 4.0])
def test_shift_adds_its_logarithm_to_the_logit(shift):
    t = np.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(logit(shifted(t, shift)), logit(t) + np.log(shift), rtol=1e-12, atol=1e-12)
    assert shifted(0.0, shift) == 0 and shifted(1.0, shift) == 1


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_quantiles_invert_the_distribution_functions(shift):
    u = np.linspace(0.001, 0.999, 999)
    t = np.asarray(uniform(shift=shift)(jnp.asarray(u)))
    np.testing.assert_allclose(1 / (1 + shift * (1 - t) / t), u, atol=1e-12)
    t = np.asarray(logit_normal(mean=0.8, std=0.7, shift=shift)(jnp.asarray(u)))
    np.testing.assert_allclose(stats.norm.cdf(logit(t), 0.8 + np.log(shift), 0.7), u, atol=1e-9)


@pytest.mark.parametrize("name", LEVELS)
def test_levels_grow_with_u_and_stay_levels(name):
    t = LEVELS[name]()(jnp.linspace(0, 1, 1001))
    assert np.all(t >= 0) and np.all(t <= 1) and np.all(np.diff(t) >= 0)


def test_stratified_numbers_have_a_cell_each():
    n = 37
    for seed in range(5):
        u = np.asarray(stratified(jax.random.key(seed), n))
        assert np.all((u > 0) & (u < 1))
        np.testing.assert_array_equal(np.sort(np.floor(u * n)), np.arange(n))


def test_stratified_numbers_are_uniform_in_their_cells_and_in_random_order():
    u = np.asarray(jax.vmap(lambda key: stratified(key, 16))(jax.random.split(jax.random.key(0), 500)))
    assert stats.kstest((u * 16 % 1).ravel(), "uniform").pvalue > 1e-3
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in u.T)


@pytest.mark.parametrize(("rate", "n"), [(0.1, 40), (0.25, 8), (0.0, 16), (1.0, 16)])
def test_dropout_drops_exactly_its_rate(rate, n):
    for seed in range(5):
        t = dropout(rate=rate)(stratified(jax.random.key(seed), n))
        assert sorted(np.asarray(t)) == [0.0] * round((1 - rate) * n) + [1.0] * round(rate * n)


def test_every_step_of_ddpm_is_visited_alike_and_no_level_that_is_none():
    t = steps(count=10)(stratified(KEY, 40))
    np.testing.assert_allclose(np.sort(t), np.repeat(np.arange(1, 11) / 10, 4), rtol=1e-12)


def test_every_stream_draws_levels_of_its_own():
    streams = {"a": stream(Gaussian()), "b": stream(Gaussian(), logit_normal()), "c": stream(Masked(3), dropout())}
    drawn = joint_levels.independent(jax.random.key(0), streams, 1000)
    assert stats.kstest(drawn["a"], "uniform").statistic < 1.5 / 1000
    assert stats.kstest(logit(np.asarray(drawn["b"])), "norm").statistic < 1.5 / 1000
    assert np.mean(drawn["c"]) == pytest.approx(0.1)
    assert abs(stats.spearmanr(drawn["a"], drawn["b"]).statistic) < 0.1


def test_a_streams_levels_ignore_other_streams():
    a, b = stream(Gaussian()), stream(Gaussian())
    alone = joint_levels.independent(jax.random.key(0), {"a": a}, 8)["a"]
    np.testing.assert_array_equal(joint_levels.independent(jax.random.key(0), {"b": b, "a": a}, 8)["a"], alone)


def test_levels_of_groups_are_of_three_kinds():
    """One level for all in half of the examples; the same after a clean beginning, and independent, in a quarter."""
    n, groups = 4000, 6
    t = np.asarray(joint_levels.diffusion_forcing(jax.random.key(0), UNIFORM, n, groups))
    last = t[:, -1:]
    one, clean = np.all(t == last, 1), np.all((t == last) | (t == 0), 1) & np.any(t == 0, 1)
    assert one.sum() == n / 2 and clean.sum() == n / 4
    lengths = (t[clean] == 0).sum(1)
    assert np.all(np.diff(t[clean], axis=1) >= 0)  # clean frames come first
    assert stats.chisquare(np.bincount(lengths, minlength=groups)[1:]).pvalue > 1e-3 and lengths.max() < groups
    free = t[~one & ~clean]
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in free.T)
    assert np.all(np.abs(np.corrcoef(free.T) - np.eye(groups)) < 0.15)
    assert stats.kstest(last[:, 0], "uniform").pvalue > 1e-3


def test_corners_are_filled_alike_in_every_split_of_the_others():
    n, tied, kinds = 20_000, 0.5, ("given", "drawn", "absent")
    streams = {name: stream(Gaussian()) for name in "abc"} | {"label": stream(Masked(3), dropout(), drawn=False)}
    t = {name: np.asarray(values) for name, values in joint_levels.random_subsets(tied)(KEY, streams, n).items()}
    drawn = np.stack([t[name] for name in "abc"], 1)
    part = np.where(drawn == 0, "given", np.where(drawn == 1, "absent", "drawn"))
    # One stream, any, is drawn. Shares that are uniform make each of the six splits of the two others as likely.
    split = lambda others: 1 / 6 if others[0] == others[1] else 1 / 12
    expected = {
        parts: n / 3 * sum(split(parts[:i] + parts[i + 1 :]) for i in range(3) if parts[i] == "drawn")
        for parts in itertools.product(kinds, repeat=3)
        if "drawn" in parts
    }
    found = collections.Counter(map(tuple, part.tolist()))
    assert found.keys() == expected.keys()
    assert stats.chisquare([found[p] for p in expected], list(expected.values())).pvalue > 1e-3
    inside = drawn[(part == "drawn").all(1)]
    assert np.mean(np.ptp(inside, axis=1) == 0) == pytest.approx(tied, abs=0.02)
    assert all(stats.kstest(column, "uniform").pvalue > 1e-3 for column in inside.T)
    np.testing.assert_array_equal(t["label"], joint_levels.independent(KEY, streams, n)["label"])


@pytest.mark.parametrize("name", joint_levels.JOINT_LEVELS)
def test_joint_levels_are_levels_of_every_stream_and_in_every_example_something_is_drawn(name):
    n, groups = 500, 4
    streams = {"a": stream(Gaussian()), "b": dataclasses.replace(stream(Gaussian()), groups=groups)}
    streams |= {"label": stream(Masked(3), dropout(), drawn=False)}
    t = joint_levels.JOINT_LEVELS[name](KEY, streams, n)
    assert {key: level.shape for key, level in t.items()} == {"a": (n,), "b": (n, groups), "label": (n,)}
    assert all(np.all((level >= 0) & (level <= 1)) for level in t.values())
    assert np.all((t["a"] > 0) | np.any(t["b"] > 0, axis=1))


def both(streams, n):
    """Levels of the two streams a and b in those of n examples in which both are drawn, tied."""
    t = {name: np.asarray(values) for name, values in joint_levels.random_subsets(tied=1.0)(KEY, streams, n).items()}
    first = [t[name].reshape(n, -1)[:, 0] for name in "ab"]
    inside = np.all([level * (1 - level) > 0 for level in first], axis=0)
    assert np.mean(inside) == pytest.approx(1 / 3, abs=0.05)
    return (t[name][inside] for name in "ab")


def test_a_tie_binds_streams_that_visit_different_levels():
    a, b = both({"a": stream(Gaussian()), "b": stream(Gaussian(), logit_normal())}, 20_000)
    np.testing.assert_array_equal(a, b)
    halves = lambda x: (x + stats.norm.cdf(logit(x))) / 2  # of the mixture of both distributions, each with half
    assert stats.kstest(a, halves).pvalue > 1e-3


def test_a_tie_binds_every_group_of_a_stream():
    a, b = both({"a": stream(Gaussian()), "b": dataclasses.replace(stream(Gaussian()), groups=4)}, 1000)
    np.testing.assert_array_equal(b, np.repeat(a[:, None], 4, 1))
