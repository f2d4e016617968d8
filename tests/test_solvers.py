"""Solvers against the exact flow and the exact posteriors of Gaussian data."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.exponential import exponential
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian, velocity, x
from dit_jax.diffusion.grids import even_log_snr
from dit_jax.diffusion.keys import example_keys, fold, stream_id
from dit_jax.diffusion.schedules import SCHEDULES, align, level_at
from dit_jax.diffusion.solver import Solver
from dit_jax.diffusion.solvers import SOLVERS, heun

pytestmark = pytest.mark.usefixtures("exact")

ORDER = {"ddim": 1, "2m": 2, "3m": 3, "unipc": 3, "heun": 2}  # of convergence to the flow
WEAK = {"ancestral": 1, "sde_2m": 2, "euler_maruyama": 1}  # in distribution, of solvers that add noise
OTHER = {"heun_churn": 2, "meanflow": 1}  # tested apart: one adds as much noise in short steps as in long, one jumps
SMOOTH = ["rectified", "gvp", "edm"]  # schedules whose sigma leaves 0 with a finite slope in t
MEAN, STD = 1.3, 0.5

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def walk(solver: Solver, processes, predict, x, levels, keys=None):
    """From levels[0] to levels[-1]: what the sampler does, in float64. keys [steps, n] of each step and example."""
    n, levels = len(next(iter(x.values()))), jnp.asarray(levels)
    if keys is None:
        examples = example_keys(jax.random.key(0), jnp.arange(n))
        keys = jax.vmap(lambda i: fold(examples, i))(jnp.arange(len(levels) - 1))

    def step(carry, move):
        (x, memory), (keys, t, s) = carry, move
        t, s = ({name: jnp.broadcast_to(level, n) for name in x} for level in (t, s))
        return solver.step(predict, processes, keys, x, t, s, memory), None

    memory = solver.init(x, {name: jnp.broadcast_to(levels[0], n) for name in x})
    moves = keys, levels[:-1], levels[1:]
    return jax.jit(lambda x: jax.lax.scan(step, (x, memory), moves)[0][0])(x)


def belief(process, mean=MEAN, std=STD):
    """The exact denoiser of data N(mean, std^2), as the process wants it said."""

    def predict(x, t):
        z, t = x["x"], align(t["x"], x["x"])
        alpha, sigma = process.schedule(t)
        surprise = (z - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        p, q = process.prediction(process.schedule, t)
        return {"x": p * (mean + alpha * std**2 * surprise) + q * sigma * surprise}

    return predict


def flow(schedule, z, t, s):
    """Where the probability flow takes z from t to s: a quantile stays a quantile."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(jnp.asarray(t)), schedule(jnp.asarray(s))
    scale = jnp.sqrt((alpha_s**2 * STD**2 + sigma_s**2) / (alpha_t**2 * STD**2 + sigma_t**2))
    return alpha_s * MEAN + scale * (z - alpha_t * MEAN)


def even_in_log_snr(schedule, steps, ends=(-2.0, 3.0)):
    return np.asarray(level_at(schedule, jnp.linspace(*ends, steps + 1)))


def measured_order(errors):
    return np.log2(errors[0] / errors[1])


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_has_an_order(name):
    table = "WEAK" if SOLVERS[name].is_stochastic else "ORDER"
    assert name in ORDER | WEAK | OTHER, f"{name} is new: say in {table} of which order it is"


@every_schedule
@pytest.mark.parametrize("name", ORDER)
def test_order_between_two_levels(name, schedule):
    process, z = Gaussian(schedule), jnp.linspace(-2, 2, 5)[:, None]
    errors = []
    for steps in (40, 80):
        levels = even_in_log_snr(schedule, steps)
        found = walk(SOLVERS[name], {"x": process}, belief(process), {"x": z}, levels)["x"]
        errors.append(np.max(np.abs(found - flow(schedule, z, levels[0], levels[-1]))))
    assert ORDER[name] - 0.15 < measured_order(errors) < ORDER[name] + (0.6 if name == "3m" else 0.15)


@pytest.fixture
def variance(monkeypatch):
    """The variance of what a solver makes of N(0, std^2), without chance. Keys are the noise itself: the first example
    has that of the start alone, the next that of the first step, and so on. As all is linear, where they end are the
    factors of independent noises. -> (solver, process, levels, std) -> the variance at levels[-1]"""
    monkeypatch.setattr(rng, "fold", lambda keys, data: keys)
    monkeypatch.setattr(rng, "normal", lambda keys, shape: keys)

    def of(solver, process, levels, std=STD):
        noises, (alpha, sigma) = jnp.eye(len(levels))[..., None], process.schedule(jnp.asarray(levels[0]))
        start = {"x": jnp.hypot(alpha * std, sigma) * noises[0]}
        found = walk(solver, {"x": process}, belief(process, 0.0, std), start, levels, noises[1:])["x"]
        return float(jnp.sum(found**2))

    return of


def measured_weak_order(variance, solver, schedule, rows):
    errors = []
    for levels in rows:
        alpha, sigma = schedule(jnp.asarray(levels[-1]))
        errors.append(abs(variance(solver, Gaussian(schedule), levels) - float(alpha**2 * STD**2 + sigma**2)))
    return measured_order(errors)


@every_schedule
@pytest.mark.parametrize("name", [name for name in WEAK if name != "euler_maruyama"])
def test_order_in_distribution(name, schedule, variance):
    rows = [even_in_log_snr(schedule, steps) for steps in (80, 160)]
    assert measured_weak_order(variance, SOLVERS[name], schedule, rows) == pytest.approx(WEAK[name], abs=0.05)


@every_schedule
@pytest.mark.parametrize("order", [1, 2])
def test_order_in_distribution_with_half_the_noise(order, schedule, variance):
    rows = [even_in_log_snr(schedule, steps) for steps in (80, 160)]
    solver = exponential(order=order, eta=0.5)
    assert measured_weak_order(variance, solver, schedule, rows) == pytest.approx(order, abs=0.05)


def test_order_in_distribution_of_euler_maruyama(variance):
    """On rectified flow and from a finite level: nearer to either end, more steps are needed to see it."""
    rows, name = [np.linspace(0.9, 0.3, steps + 1) for steps in (80, 160)], "euler_maruyama"
    found = measured_weak_order(variance, SOLVERS[name], SCHEDULES["rectified"], rows)
    assert found == pytest.approx(WEAK[name], abs=0.05)


@pytest.mark.parametrize("schedule", [SCHEDULES[name] for name in SMOOTH], ids=SMOOTH)
@pytest.mark.parametrize("name", ORDER)
def test_order_all_the_way_from_noise_to_data(name, schedule):
    """On steps even in t, the multistep ones are large in log-SNR near the data: the last step limits them to order 2,
    and leaves 2M log(steps) / steps^2."""
    process, z = Gaussian(schedule), jnp.linspace(-2, 2, 5)[:, None]
    errors = [
        np.max(
            np.abs(
                walk(SOLVERS[name], {"x": process}, belief(process), {"x": z}, levels)["x"]
                - flow(schedule, z, 1.0, 0.0)
            )
        )
        for levels in (np.linspace(1, 0, 257), np.linspace(1, 0, 513))
    ]
    assert measured_order(errors) > min(ORDER[name], 2) - 0.3 and errors[-1] < 0.01


@pytest.mark.parametrize(("difference", "order"), [(1, 2), (2, 3)], ids=["as copied", "doubled"])
def test_the_widely_copied_third_order_step_is_of_second_order(difference, order):
    """DPM-Solver++'s multistep update as many repositories have it, from exact values at its first three levels: the
    second divided difference stands where the second derivative, which is twice that, belongs."""

    def error(steps):
        h, alpha = 5 / steps, 1 / (1 + np.exp(-np.linspace(-2, 3, steps + 1)))  # rectified flow, even in log-SNR
        sigma, start = 1 - alpha, np.linspace(-2, 2, 5)
        total = alpha**2 * STD**2 + sigma**2
        exact = lambda i: alpha[i] * MEAN + np.sqrt(total[i] / total[0]) * (start - alpha[0] * MEAN)
        clean = lambda z, i: MEAN + alpha[i] * STD**2 / total[i] * (z - alpha[i] * MEAN)
        phi_2 = 1 + np.expm1(-h) / h
        phi_3 = phi_2 / h - 1 / 2
        z, older, old = exact(2), clean(exact(0), 0), clean(exact(1), 1)
        for i in range(2, steps):
            new = clean(z, i)
            first, before = new - old, old - older  # divided by the ratios of steps, which are 1
            d_1, d_2 = first + (first - before) / 2, difference * (first - before) / 2
            z = sigma[i + 1] / sigma[i] * z + alpha[i + 1] * (-np.expm1(-h) * new + phi_2 * d_1 - phi_3 * d_2)
            older, old = old, new
        return np.max(np.abs(z - exact(steps)))

    assert order - 0.2 < measured_order([error(80), error(160)]) < order + (0.2 if order == 2 else 0.5)


@pytest.mark.parametrize(("corrector", "order"), [(2, 2), (3, 3)])
def test_a_corrector_raises_the_order(corrector, order):
    process, z = Gaussian(), jnp.linspace(-2, 2, 5)[:, None]
    errors = []
    for steps in (40, 80):
        levels = even_in_log_snr(process.schedule, steps)
        solver = exponential(order=corrector - 1, corrector=corrector)
        found = walk(solver, {"x": process}, belief(process), {"x": z}, levels)["x"]
        errors.append(np.max(np.abs(found - flow(process.schedule, z, levels[0], levels[-1]))))
    assert measured_order(errors) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("name", ORDER)
def test_order_holds_where_streams_depend_on_each_other(name):
    """x and y of unit variance and correlation 0.8: the flow acts on x + y and x - y, of variances 1.8 and 0.2."""
    process = Gaussian()
    processes = {"x": process, "y": process}
    turn = np.array([[1, 1], [1, -1]]) / np.sqrt(2)

    def predict(x, t):
        alpha, sigma = process.schedule(t["x"][:, None])
        wiener = [alpha * v / (alpha**2 * v + sigma**2) for v in (1.8, 0.2)]
        sums = turn @ jnp.stack([x["x"], x["y"]]).reshape(2, -1)
        clean = turn @ jnp.stack([w.reshape(-1) * row for w, row in zip(wiener, sums, strict=True)])
        return {"x": clean[0][:, None], "y": clean[1][:, None]}

    start, errors = {"x": jnp.array([[1.0], [0.3]]), "y": jnp.array([[-0.5], [1.2]])}, []
    for steps in (40, 80):
        levels = even_in_log_snr(process.schedule, steps)
        (a, b), (c, d) = process.schedule(levels[0]), process.schedule(levels[-1])
        scale = np.sqrt([[(c**2 * v + d**2) / (a**2 * v + b**2)] for v in (1.8, 0.2)])
        wanted = turn @ (scale * (turn @ np.stack([start["x"], start["y"]]).reshape(2, -1)))
        found = walk(SOLVERS[name], processes, predict, start, levels)
        errors.append(max(np.max(np.abs(found[k][:, 0] - row)) for k, row in zip("xy", wanted, strict=True)))
    assert ORDER[name] - 0.2 < measured_order(errors) < ORDER[name] + (0.7 if name == "3m" else 0.2)


def curved(process):
    """The exact denoiser of data that is -1 or 1: nothing about it is linear."""

    def predict(x, t):
        alpha, sigma = process.schedule(align(t["x"], x["x"]))
        return {"x": jnp.tanh(alpha * x["x"] / sigma**2)}

    return predict


def test_ddim_is_eulers_rule_for_rectified_flow():
    z = wanted = np.linspace(-2, 2, 9)[:, None]
    levels = np.linspace(1, 0, 31)
    for t, s in itertools.pairwise(levels):
        wanted = wanted + (s - t) * (wanted - np.tanh((1 - t) * wanted / t**2)) / t
    found = walk(SOLVERS["ddim"], {"x": Gaussian()}, curved(Gaussian()), {"x": jnp.asarray(z)}, levels)["x"]
    np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("prediction", [x, velocity])
def test_the_best_denoiser_of_a_finite_set_gives_its_points_back(prediction):
    """Data that are twelve points: what is learnt by heart is drawn, to the last digits, whatever it was begun from."""
    process, points = Gaussian(prediction=prediction), np.random.default_rng(0).normal(size=(12, 4))

    def predict(x, t):
        z, (alpha, sigma) = x["x"], process.schedule(t["x"][:, None])
        distance = jnp.sum((z[:, None] - alpha[..., None] * points[None]) ** 2, -1)
        clean = jax.nn.softmax(-distance / (2 * sigma**2), axis=-1) @ points
        return {"x": process.join(clean, (z - alpha * clean) / sigma, t["x"])}

    start = {"x": jnp.asarray(np.random.default_rng(1).normal(size=(64, 4)))}
    found = walk(SOLVERS["ddim"], {"x": process}, predict, start, np.linspace(1, 0, 201))["x"]
    distance = np.max(np.abs(np.asarray(found)[:, None] - points), -1)
    assert np.max(np.min(distance, 1)) < 1e-14 and len(np.unique(np.argmin(distance, 1))) > 6


@pytest.mark.parametrize("name", ["ddim", "2m", "3m", "unipc"])
def test_schedules_differ_by_a_scale_only(name):
    """On the same signal-to-noise ratios, z / alpha takes the same path under every schedule."""
    ends = {}
    for schedule in SCHEDULES:
        process = Gaussian(SCHEDULES[schedule])
        row = even_in_log_snr(process.schedule, 20, (-2.0, 4.0))
        alpha = process.schedule(jnp.asarray(row))[0]
        start = {"x": alpha[0] * jnp.linspace(-9, 9, 9)[:, None]}
        ends[schedule] = walk(SOLVERS[name], {"x": process}, curved(process), start, row)["x"] / alpha[-1]
    for end in ends.values():
        np.testing.assert_allclose(end, ends["rectified"], atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_does_not_ask_how_the_network_says_it(name):
    z, levels = jnp.linspace(-2, 2, 5)[:, None], np.linspace(0.9, 0.0, 12)
    ends = [
        walk(SOLVERS[name], {"x": process}, belief(process), {"x": z}, levels)["x"]
        for process in (Gaussian(prediction=prediction) for prediction in PREDICTIONS.values())
    ]
    for end in ends[1:]:
        np.testing.assert_allclose(end, ends[0], atol=1e-9)


@pytest.mark.parametrize("name", [name for name in SOLVERS if name not in ("euler_maruyama", "meanflow")])
def test_a_single_value_is_found_exactly_however_the_network_says_it(name):
    """Data that is always 0.7, under every prediction and schedule; SiT's last step keeps some noise, by design."""
    processes = {
        f"{schedule} {prediction}": Gaussian(SCHEDULES[schedule], PREDICTIONS[prediction])
        for schedule, prediction in itertools.product(SCHEDULES, PREDICTIONS)
    }

    def say(process, z, t):
        alpha, sigma = process.schedule(t)
        p, q = process.prediction(process.schedule, t)
        return p * 0.7 + q * (z - alpha * 0.7) / sigma

    def predict(x, t):
        return {k: say(process, x[k], t[k][:, None]) for k, process in processes.items()}

    start, top = jnp.linspace(-2, 2, 5)[:, None], min(process.top for process in processes.values())
    ends = walk(SOLVERS[name], processes, predict, dict.fromkeys(processes, start), np.linspace(top, 0, 7))
    for k, end in ends.items():
        np.testing.assert_allclose(end, 0.7, atol=1e-9, err_msg=k)


@pytest.mark.parametrize("name", SOLVERS)
def test_levels_of_groups_are_moved_apart(name):
    """A group at its own level moves as a whole sample at that level would."""
    process = Gaussian()
    z, keys = jnp.linspace(-2, 2, 8).reshape(1, 4, 2), example_keys(jax.random.key(0), jnp.arange(1))

    @jax.jit
    def move(t, s):
        x, t, s = {"x": z}, {"x": t}, {"x": s}
        return SOLVERS[name].step(belief(process), {"x": process}, keys, x, t, s, SOLVERS[name].init(x, t))[0]["x"]

    levels = ([[0.9, 0.4]], [[0.8, 0.1]]), ([0.9], [0.8]), ([0.4], [0.1])
    both, first, second = (move(jnp.array(t), jnp.array(s)) for t, s in levels)
    np.testing.assert_allclose(both, jnp.concatenate([first[:, :2], second[:, 2:]], 1), rtol=1e-12)


@pytest.mark.parametrize("name", ORDER)
def test_waiting_changes_nothing(name):
    """A stream may stay where it is while others move: at the start, on the way, and once it is done."""
    process, z = Gaussian(), {"x": jnp.linspace(-2, 2, 5)[:, None]}
    ends = [
        walk(SOLVERS[name], {"x": process}, belief(process), z, levels)["x"]
        for levels in ([1.0, 0.8, 0.5, 0.2, 0.0], [1.0, 1.0, 0.8, 0.5, 0.5, 0.5, 0.2, 0.0, 0.0])
    ]
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-12)


@pytest.mark.parametrize("name", WEAK)
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_no_noise_is_added_to_what_does_not_move(name, level):
    process, z = Gaussian(), jnp.linspace(-2, 2, 5)[:, None]
    end = walk(SOLVERS[name], {"x": process}, belief(process), {"x": z}, [level, level])["x"]
    np.testing.assert_allclose(end, z, atol=1e-12)


@every_schedule
@pytest.mark.parametrize(("t", "s"), [(1.0, 0.9), (0.7, 0.4), (0.3, 0.0)])
def test_an_ancestral_step_draws_from_the_posterior(schedule, t, s):
    """q(z_s | z_t, x) of DDPM (Ho et al. 2020, eq. 7), written for any schedule."""
    process, clean, z = Gaussian(schedule), 0.8, 1.5
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (np.array(schedule(jnp.asarray(level))) for level in (t, s))
    between = alpha_t / alpha_s
    added = sigma_t**2 - between**2 * sigma_s**2
    mean = between * sigma_s**2 / sigma_t**2 * z + alpha_s * added / sigma_t**2 * clean
    std = np.sqrt(added) * sigma_s / sigma_t

    start, keys = {"x": jnp.full((4, 3), z)}, example_keys(jax.random.key(0), jnp.arange(4))
    step_keys = fold(fold(keys, 0), stream_id("x"))
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(step_keys)
    found = walk(SOLVERS["ancestral"], {"x": process}, lambda x, t: {"x": 0 * x["x"] + clean}, start, [t, s])["x"]
    np.testing.assert_allclose(found, mean + std * noise, rtol=0, atol=1e-12)


NARROW = {25: 0.304000, 50: 0.324082, 100: 0.336000, 200: 0.342654, 400: 0.346217, 800: 0.348075}


@pytest.mark.parametrize(("steps", "published"), NARROW.items())
def test_ancestral_samples_are_too_narrow_by_what_the_recursion_says(steps, published, variance):
    """The variance of Gaussian data obeys a recursion of posteriors, which falls short of 0.35 where steps are few."""
    std, wanted, levels = 0.35, 1.0, np.linspace(1, 0, steps + 1)
    for t, s in itertools.pairwise(levels):
        between = (1 - t) / (1 - s)
        added = t**2 - between**2 * s**2
        wiener = (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
        slope = between * s**2 / t**2 + (1 - s) * added / t**2 * wiener
        wanted = slope**2 * wanted + added * s**2 / t**2
    assert np.sqrt(wanted) == pytest.approx(published, abs=1e-6)
    assert variance(SOLVERS["ancestral"], Gaussian(), levels, std) == pytest.approx(wanted, rel=1e-12)


@every_schedule
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_samples_the_data(name, schedule):
    """A schedule that keeps some signal at t = 1 starts from a prior that does not: that much of the mean is lost."""
    process, steps = Gaussian(schedule), 128
    start = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(64, 500)))}
    found = walk(SOLVERS[name], {"x": process}, belief(process), start, even_log_snr(schedule, steps))["x"]
    order = (ORDER | WEAK | OTHER).get(name, 1)
    error = {1: 6 / steps, 2: 100 / steps**2, 3: 100 / steps**2}[order]
    lost = float(schedule(jnp.ones(()))[0]) * MEAN
    assert np.mean(found) == pytest.approx(MEAN, abs=5 * STD / np.sqrt(found.size) + error + lost)
    assert np.std(found) == pytest.approx(STD, rel=5 / np.sqrt(2 * found.size) + error)


def test_churn_keeps_the_marginal_at_every_level():
    """EDM's algorithm 2: as much noise as it adds, the longer step takes away again."""
    process, levels = Gaussian(), np.linspace(0.9, 0.4, 65)
    alpha, sigma = (np.array(c) for c in process.schedule(jnp.asarray(levels)))
    spread = np.hypot(alpha * STD, sigma)
    noise = np.random.default_rng(0).normal(size=(64, 500))
    start = {"x": jnp.asarray(alpha[0] * MEAN + spread[0] * noise)}
    solver = heun(churn=0.1, band=(0.0, 100.0), inflate=1.0)
    found = walk(solver, {"x": process}, belief(process), start, levels)["x"]
    assert np.mean(found) == pytest.approx(alpha[-1] * MEAN, abs=0.02)
    assert np.std(found) == pytest.approx(spread[-1], rel=0.015)
    assert np.corrcoef(np.ravel(found), noise.ravel())[0, 1] < 0.9  # where an ODE would give 1
    outside = walk(heun(churn=0.1, band=(50.0, 100.0)), {"x": process}, belief(process), start, levels)["x"]
    np.testing.assert_array_equal(outside, walk(heun(), {"x": process}, belief(process), start, levels)["x"])


def test_the_stochastic_sampler_of_sit_is_its_euler_maruyama():
    """Half of N steps down at once, against the same written from the paper's equation 5 with w = 2 sigma."""
    process, levels = Gaussian(), np.append(np.linspace(1, 0.04, 10), 0)
    start = jnp.linspace(-2, 2, 5)[:, None]
    keys = example_keys(jax.random.key(0), jnp.arange(5))
    z = np.array(start)
    for i, (t, s) in enumerate(itertools.pairwise(levels)):
        surprise = (z - (1 - t) * MEAN) / ((1 - t) ** 2 * STD**2 + t**2)
        score, clean = -surprise, MEAN + (1 - t) * STD**2 * surprise
        velocity = t * surprise - clean
        step_keys = fold(fold(keys, i), stream_id("x"))
        draw = np.array(jax.vmap(lambda key: jax.random.normal(key, (1,)))(step_keys)) if s > 0 else 0
        z = z - (t - s) * (velocity - t * score) + np.sqrt(2 * t * (t - s)) * draw
    found = walk(SOLVERS["euler_maruyama"], {"x": process}, belief(process), {"x": start}, levels)["x"]
    np.testing.assert_allclose(found, z, atol=1e-12)


@every_schedule
@pytest.mark.parametrize("name", WEAK)
def test_added_noise_keeps_the_marginal_at_every_level(name, schedule):
    """Half-way down, samples are spread as noised data are: the noise added is the noise that was taken."""
    process, steps = Gaussian(schedule), 128
    start = {"x": jnp.asarray(np.random.default_rng(0).normal(size=(64, 500)))}
    found = walk(SOLVERS[name], {"x": process}, belief(process), start, np.linspace(1, 0.4, steps + 1))["x"]
    alpha, sigma = schedule(jnp.asarray(0.4))
    error = {1: 3 / steps, 2: 20 / steps**2}[WEAK[name]]
    assert np.mean(found) == pytest.approx(float(alpha) * MEAN, abs=0.02 + error)
    assert np.std(found) == pytest.approx(float(np.hypot(alpha * STD, sigma)), rel=0.02 + error)
