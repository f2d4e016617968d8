"""The masked process: its bound is the any-order likelihood, and its sampler reveals what it should."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dit_jax.diffusion.keys import example_keys, fold
from dit_jax.diffusion.masked import REVEALS, VISIBLE, Masked, confident, remask

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
    """E_t (1/t) sum of hidden nll = E_order sum_k nll of the next token = E_k (L/k) sum of the nll of k hidden ones, k
    uniform in 1 ... L; by enumeration, for any network at all."""
    vocabulary, length, x = 2, 3, (1, 0, 1)
    table = np.random.default_rng(0).normal(size=(vocabulary + 1,) * length + (length, vocabulary))

    def nll(seen, token):
        logits = table[tuple(x[i] if i in seen else vocabulary for i in range(length))][token]
        return np.log(np.sum(np.exp(logits))) - logits[x[token]]

    orders = list(itertools.permutations(range(length)))
    any_order = np.mean([sum(nll(order[:k], order[k]) for k in range(length)) for order in orders])

    nodes, weights = np.polynomial.legendre.leggauss(8)  # exact: the integrand is a polynomial in t
    nodes, weights = (nodes + 1) / 2, weights / 2
    bound = evenly = 0.0
    for hidden in itertools.product([False, True], repeat=length):
        z = tuple(np.where(hidden, vocabulary, x))
        target = jnp.asarray(np.where(hidden, x, VISIBLE))
        costs = Masked(vocabulary).loss(jnp.tile(table[z], (8, 1, 1)), jnp.tile(target, (8, 1)), jnp.asarray(nodes))
        k = sum(hidden)
        chance = nodes**k * (1 - nodes) ** (length - k)
        bound += length * np.sum(weights * chance * np.asarray(costs))
        if k:
            cost = Masked(vocabulary).loss(jnp.asarray(table[z])[None], target[None], jnp.array([k / length]))[0]
            evenly += length * float(cost) / length / math.comb(length, k)
    assert bound == pytest.approx(any_order, rel=1e-6)
    assert evenly == pytest.approx(any_order, rel=1e-6)


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
def test_every_number_of_hidden_tokens_is_as_likely_as_any_other_and_so_is_every_choice_of_them(shape):
    n, x = 30_000, tokens(30_000, *shape)
    z, target, t = Masked(5).corrupt_evenly(keys(n), x)
    hidden = np.asarray(z == 5)
    np.testing.assert_array_equal(z, np.where(hidden, 5, x))
    np.testing.assert_array_equal(target, np.where(hidden, x, VISIBLE))
    np.testing.assert_allclose(t, hidden.reshape(n, 4).mean(1))
    found = np.bincount(hidden.reshape(n, 4) @ (1 << np.arange(4)), minlength=16) / n
    wanted = [0.0] + [1 / 4 / math.comb(4, number.bit_count()) for number in range(1, 16)]
    np.testing.assert_allclose(found, wanted, atol=5 * np.sqrt(0.06 / n))


def test_an_untrained_head_costs_exactly_ln_v_whatever_number_is_hidden():
    _, target, t = Masked(256).corrupt_evenly(keys(32), tokens(32, 100, vocabulary=256))
    np.testing.assert_allclose(Masked(256).loss(jnp.zeros((32, 100, 256)), target, t), math.log(256), rtol=1e-6)


def test_a_fixed_number_of_hidden_tokens_estimates_the_bound_with_less_variance():
    process, x, n = Masked(5), tokens(4000, 6), 4000
    logits = 2 * jax.nn.one_hot((x + 1) % 4, 5)
    _, target, t = process.corrupt_evenly(keys(n), x)
    even = process.loss(logits, target, t)
    t = (jnp.arange(n) + 0.5) / n
    other = process.loss(logits, process.corrupt(keys(n), x, t)[1], t)
    assert np.mean(even) == pytest.approx(np.mean(other), abs=5 * float(np.std(other)) / np.sqrt(n))
    assert np.var(even) < np.var(other) / 3


RULES = {**REVEALS, "remask without a cap": remask(1.0)}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


@every_rule
def test_a_share_t_of_hidden_tokens_becomes_a_share_s(rule):
    """ReMDM hides some again, and reveals so many more: alpha_t (1 - sigma) + (1 - alpha_t) p = alpha_s."""
    process, x = Masked(3, rule), tokens(6, 20000, vocabulary=3)
    t, s = jnp.array([1.0, 0.8, 0.5, 0.3, 0.6, 0.9]), jnp.array([0.9, 0.2, 0.5, 0.0, 0.59, 0.899])
    z, _ = process.corrupt(keys(6), x, t)
    moved = process.step(keys(6, seed=1), z, jax.random.normal(jax.random.key(0), (6, 20000, 3)), t, s)
    np.testing.assert_allclose(np.mean(moved == 3, axis=1), s, atol=5 * np.sqrt(0.25 / 20000))
    np.testing.assert_array_equal(moved[2], z[2])  # who stays where it is waits
    assert np.all(moved[3] != 3)


@every_rule
def test_what_is_visible_is_never_drawn_anew_in_one_step(rule):
    """It stays, but for what ReMDM hides: min(cap, s / (1 - t)) of it."""
    process, z = Masked(3, rule), jnp.tile(jnp.array([0, 2, 3, 1]), (2, 10000))
    t, s = jnp.array([0.5, 0.9]), jnp.array([0.4, 0.05])
    moved = process.step(keys(2), z, jnp.zeros((2, 40000, 3)), t, s)
    before, after = np.asarray(z[:, z[0] != 3]), np.asarray(moved[:, z[0] != 3])
    assert np.all((after == before) | (after == 3))
    sigma = {"remask": (0.02, 0.02), "remask without a cap": (0.8, 0.5)}
    wanted = next((sigma[name] for name in sigma if RULES[name] is rule), (0.0, 0.0))
    np.testing.assert_allclose(np.mean(after == 3, axis=1), wanted, atol=0.015)


@every_rule
def test_an_example_moves_alike_in_any_batch(rule):
    process, t, s = Masked(5, rule), jnp.array([0.7, 0.5, 0.4]), jnp.array([0.5, 0.4, 0.1])
    z, _ = process.corrupt(keys(3), tokens(3, 40), t)
    logits = jax.random.normal(jax.random.key(0), (3, 40, 5))
    alone = [process.step(keys(3)[i : i + 1], *(a[i : i + 1] for a in (z, logits, t, s)))[0] for i in range(3)]
    np.testing.assert_array_equal(process.step(keys(3), z, logits, t, s), np.stack(alone))


def test_the_surest_are_revealed_first_whatever_is_drawn_and_as_many_as_the_level_says():
    sure = np.array([[3.0, 1.0, 5.0, 2.0, 9.0, 4.0]])
    z = jnp.array([[2, 2, 2, 2, 0, 2]])  # one is visible, and does not count
    move = jax.vmap(Masked(2, confident).step, in_axes=(0, None, None, None, None))
    logits = jnp.asarray(np.stack([sure, np.zeros_like(sure)], -1))
    for s, seen in ((0.8, [2, 4]), (0.6, [2, 4, 5]), (0.2, [0, 2, 3, 4, 5])):
        moved = move(jax.random.split(jax.random.key(0), (50, 1)), z, logits, jnp.ones(1), jnp.array([s]))
        np.testing.assert_array_equal(moved != 2, np.tile(np.isin(np.arange(6), seen), (50, 1, 1)))
    t, s = jnp.ones((1, 2)), jnp.array([[1.0, 1 / 3]])  # two groups, of which the first waits
    moved = Masked(2, confident).step(keys(1), jnp.full((1, 6), 2), logits, t, s)
    assert np.flatnonzero(moved[0] != 2).tolist() == [4, 5]


def test_equally_sure_ones_come_in_random_order_and_rounding_errors_choose_none():
    """Where all is hidden, a network with rotary positions says the same of each place, but for the last bits."""
    which, noise = jax.random.split(jax.random.key(0), (600, 1)), 1e-6 * jax.random.normal(jax.random.key(1), (1, 6, 2))
    move = jax.vmap(Masked(2, confident).step, in_axes=(0, None, None, None, None))
    levels = jnp.ones(1), jnp.array([5 / 6])
    exact, inexact = (move(which, jnp.full((1, 6), 2), logits, *levels) for logits in (0 * noise, noise))
    np.testing.assert_array_equal(exact != 2, inexact != 2)
    assert stats.chisquare(np.sum(exact != 2, axis=(0, 1))).pvalue > 0.01


# A chain of four tokens, each 0 or 1, and what each token is, given any part of the others: [3, 3, 3, 3, 4, 2].
CHAINS = list(itertools.product(range(2), repeat=4))
STICK = np.array([[0.85, 0.15], [0.3, 0.7]])
LAW = np.array([[0.6, 0.4][c[0]] * STICK[c[0], c[1]] * STICK[c[1], c[2]] * STICK[c[2], c[3]] for c in CHAINS])


def network():
    table = np.zeros((3,) * 4 + (4, 2))
    for z in itertools.product(range(3), repeat=4):
        weight = LAW * [all(seen in (2, token) for seen, token in zip(z, chain, strict=True)) for chain in CHAINS]
        for place, value in itertools.product(range(4), range(2)):
            table[(*z, place, value)] = sum(w for w, chain in zip(weight, CHAINS, strict=True) if chain[place] == value)
    return jnp.log(jnp.asarray(table / table.sum(-1, keepdims=True)) + 1e-300)


def off(move, steps, n=10_000):
    """The total variation between the chain's law and what `steps` steps with its own conditionals draw."""
    table, levels = network(), jnp.linspace(1, 0, steps + 1)

    @jax.jit
    def step(z, now):
        i, t, s = now
        return move(fold(keys(n), i), z, table[tuple(z.T)], jnp.broadcast_to(t, n), jnp.broadcast_to(s, n)), None

    z, _ = jax.lax.scan(step, Masked(2).prior(keys(n), (4,)), (jnp.arange(steps), levels[:-1], levels[1:]))
    return np.abs(np.bincount(z @ jnp.array([8, 4, 2, 1]), minlength=16) / n - LAW).sum() / 2


def test_an_order_chosen_from_the_distributions_is_exact_at_one_token_a_step():
    assert off(Masked(2, confident).step, 4) < 0.03 < off(Masked(2, confident).step, 1)


def test_an_order_chosen_by_what_was_drawn_is_not():
    """LLaDA's rule, written here: of the values drawn for the hidden tokens, the most probable one is kept."""

    def move(keys, z, logits, t, s):
        drawn = jax.vmap(jax.random.categorical)(keys, logits).astype(z.dtype)
        chance = jnp.take_along_axis(logits, drawn[..., None], axis=-1)[..., 0]
        best = jnp.argmax(jnp.where(z == 2, chance, -jnp.inf), axis=1, keepdims=True)
        return jnp.where(jnp.arange(4)[None] == best, drawn, z)

    assert off(move, 4) > 0.1


@every_rule
def test_many_small_steps_draw_the_chain(rule):
    assert off(Masked(2, rule).step, 32) < 0.035


@pytest.mark.heavy
def test_tokens_too_rare_for_float32_are_drawn_as_often_as_they_are_due():
    """A million tokens of p = 4e-8 are due in 4 % of draws. Gumbel noise as JAX draws it by default ends at 15.9, and
    shows hardly any of them (Zheng et al. 2024)."""
    common, count = 2**20, 400
    logits = jnp.full((1, 1, common + 1), -17.0).at[..., common].set(0.0)
    draw = lambda key: Masked(common + 1).step(
        key[None], jnp.full((1, 1), common + 1), logits, jnp.ones(1), jnp.zeros(1)
    )
    rare = jnp.sum(jax.lax.map(jax.jit(draw), keys(count)) != common)
    p = common * math.exp(-17) / (1 + common * math.exp(-17))
    assert abs(rare - count * p) < 3 * math.sqrt(count * p * (1 - p))  # the default shows 2, 3.6 deviations too few


def test_move_reveals_with_probability_t_minus_s_over_t():
    z = jnp.full((4, 20000), 3)
    t, s = jnp.array([1.0, 0.8, 0.5, 0.3]), jnp.array([0.9, 0.2, 0.5, 0.0])
    moved = Masked(3).step(keys(4), z, jnp.zeros((4, 20000, 3)), t, s)
    np.testing.assert_allclose(np.mean(moved != 3, axis=1), (t - s) / t, atol=5 * np.sqrt(0.25 / 20000))
    assert np.all(moved[2] == 3) and np.all(moved[3] != 3)  # nothing at s = t, everything at s = 0


def test_move_draws_from_the_logits_and_keeps_what_is_visible():
    p = jnp.array([0.1, 0.6, 0.3])
    z = jnp.tile(jnp.array([2, 3]), (1, 20000))
    moved = Masked(3).step(keys(1), z, jnp.tile(jnp.log(p), (1, 40000, 1)), jnp.ones(1), jnp.zeros(1))
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
        stepped = process.step(fold(keys(n), i), z, logits, jnp.broadcast_to(t, n), jnp.broadcast_to(s, n))
        return stepped, None

    z, _ = jax.lax.scan(step, process.prior(keys(n), (2,)), (jnp.arange(steps), levels[:-1], levels[1:]))
    found = np.bincount(z[:, 0] * 2 + z[:, 1], minlength=4).reshape(2, 2) / n
    wanted = np.outer(rows, columns) / steps + joint * (1 - 1 / steps)
    np.testing.assert_allclose(found, wanted, atol=0.01)
    distance = np.abs(found - joint).sum() / 2
    assert distance == pytest.approx(np.abs(np.outer(rows, columns) - joint).sum() / 2 / steps, abs=0.015)
