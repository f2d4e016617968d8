"""The masked process: its bound is the any-order likelihood, and its sampler reveals what it should."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.diffusion.keys import example_keys, fold
from dit_jax.diffusion.masked import VISIBLE, Masked

pytestmark = pytest.mark.usefixtures("exact")


def keys(n, seed=0):
    return example_keys(jax.random.key(seed), jnp.arange(n))


def tokens(*shape, vocabulary=5):
    return jnp.asarray(np.random.default_rng(0).integers(vocabulary, size=shape), jnp.int32)


def test_the_prior_is_all_hidden():
    np.testing.assert_array_equal(Masked(5).prior(keys(3), (2, 4)), np.full((3, 2, 4), 5))


@pytest.mark.parametrize("shape", [(), (7,), (2, 3)])
def test_the_ends_are_the_clean_value_and_the_mask(shape):
    process, x = Masked(5), tokens(16, *shape)
    z, target = process.corrupt(keys(16), x, jnp.zeros(16))
    np.testing.assert_array_equal(z, x)
    assert np.all(target == VISIBLE)
    z, target = process.corrupt(keys(16), x, jnp.ones(16))
    assert np.all(z == 5)
    np.testing.assert_array_equal(target, x)


def test_a_token_is_hidden_with_probability_t_and_is_then_the_target():
    x, t = tokens(8, 20000), jnp.linspace(0.1, 0.9, 8)
    z, target = Masked(5).corrupt(keys(8), x, t)
    hidden = np.asarray(z == 5)
    np.testing.assert_allclose(hidden.mean(1), t, atol=5 * np.sqrt(0.25 / 20000))
    np.testing.assert_array_equal(z, np.where(hidden, 5, x))
    np.testing.assert_array_equal(target, np.where(hidden, x, VISIBLE))


def test_equal_levels_of_groups_are_one_level():
    x, t = tokens(4, 6), jnp.array([0.2, 0.4, 0.6, 1.0])
    one, many = (Masked(5).corrupt(keys(4), x, level) for level in (t, jnp.repeat(t[:, None], 3, axis=1)))
    jax.tree.map(np.testing.assert_array_equal, one, many)


@pytest.mark.parametrize("vocabulary", [2, 27])
def test_a_uniform_guess_costs_ln_v_nats_a_token(vocabulary):
    """Exactly where everything is hidden, and on average everywhere else."""
    process, x = Masked(vocabulary), tokens(64, 500, vocabulary=vocabulary)
    logits = jnp.full((64, 500, vocabulary), 0.7)
    for t in (jnp.ones(64), jnp.linspace(0.2, 1, 64)):
        cost = process.loss(logits, process.corrupt(keys(64), x, t)[1], t)
        np.testing.assert_allclose(cost[-1], math.log(vocabulary), rtol=1e-6)
        np.testing.assert_allclose(np.mean(cost), math.log(vocabulary), rtol=0.03)


def test_a_visible_token_costs_nothing_however_wrong():
    target = jnp.array([[VISIBLE, 1, VISIBLE]])
    logits = jnp.zeros((1, 3, 2)).at[0, 0].set(jnp.array([1e6, -1e6]))
    np.testing.assert_allclose(Masked(2).loss(logits, target, jnp.array([0.5])), math.log(2) / 0.5 / 3, rtol=1e-6)


def test_the_bound_is_the_any_order_autoregressive_likelihood():
    """E_t (1/t) sum of hidden nll = E_order sum_k nll of the next token, by enumeration, for any network at all."""
    vocabulary, length, x = 2, 3, (1, 0, 1)
    table = np.random.default_rng(0).normal(size=(vocabulary + 1,) * length + (length, vocabulary))

    def nll(seen, token):
        logits = table[tuple(x[i] if i in seen else vocabulary for i in range(length))][token]
        return np.log(np.sum(np.exp(logits))) - logits[x[token]]

    orders = list(itertools.permutations(range(length)))
    any_order = np.mean([sum(nll(order[:k], order[k]) for k in range(length)) for order in orders])

    nodes, weights = np.polynomial.legendre.leggauss(8)  # exact: the integrand is a polynomial in t
    nodes, weights = (nodes + 1) / 2, weights / 2
    bound = 0.0
    for hidden in itertools.product([False, True], repeat=length):
        z = tuple(np.where(hidden, vocabulary, x))
        target = jnp.asarray(np.where(hidden, x, VISIBLE))
        costs = Masked(vocabulary).loss(jnp.tile(table[z], (8, 1, 1)), jnp.tile(target, (8, 1)), jnp.asarray(nodes))
        chance = nodes ** sum(hidden) * (1 - nodes) ** (length - sum(hidden))
        bound += length * np.sum(weights * chance * np.asarray(costs))
    assert bound == pytest.approx(any_order, rel=1e-6)


def test_move_reveals_with_probability_t_minus_s_over_t():
    z = jnp.full((4, 20000), 3)
    t, s = jnp.array([1.0, 0.8, 0.5, 0.3]), jnp.array([0.9, 0.2, 0.5, 0.0])
    moved = Masked(3).move(keys(4), z, jnp.zeros((4, 20000, 3)), t, s)
    np.testing.assert_allclose(np.mean(moved != 3, axis=1), (t - s) / t, atol=5 * np.sqrt(0.25 / 20000))
    assert np.all(moved[2] == 3) and np.all(moved[3] != 3)  # nothing at s = t, everything at s = 0


def test_move_draws_from_the_logits_and_keeps_what_is_visible():
    p = jnp.array([0.1, 0.6, 0.3])
    z = jnp.tile(jnp.array([2, 3]), (1, 20000))
    moved = Masked(3).move(keys(1), z, jnp.tile(jnp.log(p), (1, 40000, 1)), jnp.ones(1), jnp.zeros(1))
    assert np.all(moved[:, ::2] == 2)
    np.testing.assert_allclose(np.bincount(moved[0, 1::2], minlength=3) / 20000, p, atol=0.02)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_sampling_two_tokens_errs_by_one_over_the_steps(steps):
    """Tokens revealed in one step are drawn independently, so their product of marginals mixes in, by 1/steps."""
    joint, n = np.array([[0.45, 0.05], [0.1, 0.4]]), 40_000
    rows, columns = joint.sum(1), joint.sum(0)
    first = jnp.log(np.stack([*(joint / columns).T, rows]))  # token 0, by what token 1 is: 0, 1 or hidden
    second = jnp.log(np.stack([*(joint / rows[:, None]), columns]))
    process, levels = Masked(2), np.linspace(1, 0, steps + 1)

    @jax.jit
    def step(z, move):
        i, t, s = move
        logits = jnp.stack([first[z[:, 1]], second[z[:, 0]]], axis=1)
        stepped = process.move(fold(keys(n), i), z, logits, jnp.broadcast_to(t, n), jnp.broadcast_to(s, n))
        return stepped, None

    z, _ = jax.lax.scan(step, process.prior(keys(n), (2,)), (jnp.arange(steps), levels[:-1], levels[1:]))
    found = np.bincount(z[:, 0] * 2 + z[:, 1], minlength=4).reshape(2, 2) / n
    wanted = np.outer(rows, columns) / steps + joint * (1 - 1 / steps)
    np.testing.assert_allclose(found, wanted, atol=0.01)
    distance = np.abs(found - joint).sum() / 2
    assert distance == pytest.approx(np.abs(np.outer(rows, columns) - joint).sum() / 2 / steps, abs=0.015)
