"""MeanFlow on Gaussian data, whose mean velocity is known: the identity, the loss, its gradient, and one-step maps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian, velocity
from dit_jax.diffusion.grids import even_log_snr
from dit_jax.diffusion.keys import example_keys, fold, stream_id
from dit_jax.diffusion.levels import spans, stratified, uniform
from dit_jax.diffusion.meanflow import SPAN, Span, instantaneous, meanflow_losses
from dit_jax.diffusion.objective import OBJECTIVES, losses_at
from dit_jax.diffusion.schedules import SCHEDULES, align
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream

MEAN, STD = 1.3, 0.5
every_schedule = pytest.mark.parametrize("schedule", [SCHEDULES[name] for name in ("rectified", "gvp")])


def drift(schedule, z, t):
    """dz/dt of the flow of N(MEAN, STD^2): a quantile stays a quantile, differentiated by t."""
    place = lambda t: (lambda a, s: (a * MEAN, jnp.sqrt((a * STD) ** 2 + s**2)))(*schedule(t))
    (middle, spread), (d_middle, d_spread) = jax.jvp(place, (t,), (jnp.ones_like(t),))
    return d_middle + d_spread / spread * (z - middle)


def mean_velocity(schedule, z, t, span):
    """(z_t - z_r) / (t - r), by the flow in closed form."""
    t = align(t, z)
    span = align(span, z)
    place = lambda t: (lambda a, s: (a * MEAN, jnp.sqrt((a * STD) ** 2 + s**2)))(*schedule(t))
    (middle, spread), (middle_r, spread_r) = place(t), place(t - span)
    at_r = middle_r + spread_r / spread * (z - middle)
    return jnp.where(span > 0, (z - at_r) / jnp.where(span > 0, span, 1.0), drift(schedule, z, t))


def streams(schedule):
    head = lambda *_: None
    return {
        "x": Stream(shape=(6,), process=Gaussian(schedule, velocity), levels=uniform(), embed=None, head=head),
        SPAN: Stream(shape=(), process=Span(), levels=spans(rate=0.5), embed=None),
    }


def oracle(schedule, scale=1.0):
    return lambda x, t: {"x": scale * mean_velocity(schedule, x["x"], t["x"], x[SPAN])}


def examples(n=64):
    rng = np.random.default_rng(0)
    t = {"x": jnp.asarray(rng.uniform(0.1, 0.95, n)), SPAN: jnp.asarray(rng.uniform(0, 1, n) * (np.arange(n) % 4 > 0))}
    return example_keys(jax.random.key(0), jnp.arange(n)), {"x": jnp.asarray(MEAN + STD * rng.normal(size=(n, 6)))}, t


@pytest.mark.usefixtures("exact")
@every_schedule
def test_the_identity_gives_the_velocity_for_every_span(schedule):
    z, t = jnp.linspace(-2, 3, 40)[:, None], jnp.linspace(0.1, 1.0, 40)
    for share in (0.01, 0.5, 1.0):
        span = share * t
        field = lambda z, t, span: mean_velocity(schedule, z, t, span)
        found = instantaneous(field, z, t, span, drift(schedule, z, t[:, None]))
        np.testing.assert_allclose(found, drift(schedule, z, t[:, None]), atol=1e-9)
        assert np.max(np.abs(field(z, t, span) - found)) > 1e-3  # a mean is not what it is the mean of


@pytest.mark.usefixtures("exact")
@every_schedule
def test_the_exact_mean_velocity_costs_what_the_exact_velocity_does(schedule):
    keys, batch, t = examples()
    found = meanflow_losses(oracle(schedule), streams(schedule), keys, batch, t, tangent="own", power=0.0)["x"]
    instant = lambda x, t: {"x": drift(schedule, x["x"], t["x"][:, None])}
    np.testing.assert_allclose(found, losses_at(instant, streams(schedule), keys, batch, t)["x"], rtol=1e-7)


@pytest.mark.usefixtures("exact")
def test_the_tangents_agree_on_average_only():
    keys, batch, t = examples()
    run = lambda tangent: meanflow_losses(
        oracle(SCHEDULES["rectified"]), streams(SCHEDULES["rectified"]), keys, batch, t, tangent=tangent, power=0.0
    )["x"]
    own, given = run("own"), run("given")
    alone = np.asarray(t[SPAN]) == 0
    np.testing.assert_allclose(own[alone], given[alone], rtol=1e-9)
    assert np.all(np.abs(own - given)[~alone] > 1e-9)


@pytest.mark.usefixtures("exact")
def test_the_gradient_holds_the_derivative_fixed():
    """Of u = scale x exact: d loss / d scale = 2 mean((u + span du/dt - v) exact), and not a term more."""
    schedule, (keys, batch, t) = SCHEDULES["rectified"], examples(8)
    kinds, exact = streams(schedule), lambda z, t, span: mean_velocity(schedule, z, t, span)
    z, v = kinds["x"].process.corrupt(fold(keys, stream_id("x")), batch["x"], t["x"])
    span, scale, h = t[SPAN] * t["x"], 0.8, 1e-5
    tangent = scale * exact(z, t["x"], 0 * span)
    ahead, behind = (exact(z + d * tangent, t["x"] + d, span + d) for d in (h, -h))
    implied = scale * exact(z, t["x"], span) + span[:, None] * scale * (ahead - behind) / (2 * h)
    wanted = float(np.sum(np.mean(2 * (implied - v) * exact(z, t["x"], span), axis=1)))
    cost = lambda scale: meanflow_losses(oracle(schedule, scale), kinds, keys, batch, t, power=0.0)["x"].sum()
    assert jax.grad(cost)(scale) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.usefixtures("exact")
def test_power_divides_gradients_and_leaves_the_loss_what_it_is():
    """So that what is logged says how far training is: losses divided by themselves are 1 from beginning to end."""
    keys, batch, t = examples()
    kinds = streams(SCHEDULES["gvp"])
    cost = lambda scale, power: meanflow_losses(oracle(SCHEDULES["gvp"], scale), kinds, keys, batch, t, power=power)[
        "x"
    ]
    plain, divided = cost(1.3, 0.0), cost(1.3, 1.0)
    np.testing.assert_allclose(divided, plain, rtol=1e-12)
    assert plain.max() > 2 * plain.min()
    slope, less = (jax.jacrev(cost)(1.3, power) for power in (0.0, 1.0))
    np.testing.assert_allclose(less, slope / (plain + 0.01), rtol=1e-12)


@pytest.mark.parametrize("objective", ["meanflow", "improved_meanflow"])
@pytest.mark.parametrize("prediction", ["x", "noise", "v"])
def test_only_velocities_have_a_mean(objective, prediction):
    kinds = streams(SCHEDULES["rectified"])
    kinds["x"] = dataclasses.replace(kinds["x"], process=Gaussian(prediction=PREDICTIONS[prediction]))
    keys, batch, t = examples()
    with pytest.raises(ValueError, match="x should predict the velocity"):
        OBJECTIVES[objective](oracle(SCHEDULES["rectified"]), kinds, keys, batch, t)


@pytest.mark.usefixtures("exact")
@every_schedule
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_any_number_of_steps_is_the_whole_flow(schedule, steps):
    start = jnp.linspace(-2, 2, 30).reshape(5, 6)
    found = dj.sample(
        oracle(schedule),
        streams(schedule),
        jax.random.key(0),
        5,
        steps=steps,
        solver=SOLVERS["meanflow"],
        start={"x": start},
    )
    np.testing.assert_allclose(found["x"], MEAN + STD * start, atol=1e-12)


@pytest.mark.usefixtures("exact")
def test_other_solvers_see_the_velocity():
    """Where the span is absent it is 0, and the prediction is the velocity."""
    schedule, start = SCHEDULES["rectified"], {"x": jnp.linspace(-2, 2, 30).reshape(5, 6)}
    instant = lambda x, t: {"x": drift(schedule, x["x"], t["x"][:, None])}
    ends = [
        dj.sample(
            predict, streams(schedule), jax.random.key(0), 5, solver=SOLVERS["2m"], grid=even_log_snr, start=start
        )
        for predict in (oracle(schedule), instant)
    ]
    np.testing.assert_allclose(ends[0]["x"], ends[1]["x"], atol=1e-12)


def test_spans_are_zero_but_at_a_rate_and_there_uniform():
    drawn = np.asarray(spans(rate=0.25)(stratified(jax.random.key(0), 4000)))
    assert np.mean(drawn == 0) == pytest.approx(0.75)
    np.testing.assert_allclose(np.quantile(drawn[drawn > 0], [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.01)


@pytest.mark.heavy
@pytest.mark.parametrize("objective", ["meanflow", "improved_meanflow"])
@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_transformer_learns_from_it(objective, remat):
    """The derivative goes through attention, recomputed layers and the scan; every parameter that matters gets one."""
    kinds = {
        "image": dj.streams.image((4, 4, 1), patch=2, process=Gaussian(prediction=velocity), levels=uniform()),
        "label": dj.streams.label(3),
        "span": dj.streams.span(),
    }
    model = dj.DiT(kinds, width=24, depth=2, heads=2, remat=remat)
    params = jax.tree.map(
        lambda p: p + 0.02 * jax.random.normal(jax.random.key(p.size), p.shape), model.init(jax.random.key(0))
    )
    batch = {"image": jax.random.normal(jax.random.key(1), (8, 4, 4, 1)), "label": jnp.arange(8) % 3}

    def cost(params):
        predict = functools.partial(model.apply, params)
        return dj.loss(predict, kinds, jax.random.key(2), batch, OBJECTIVES[objective])

    value, slopes = jax.jit(jax.value_and_grad(cost))(params)
    assert np.isfinite(value)
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        assert np.all(np.isfinite(slope)) and np.any(slope != 0), jax.tree_util.keystr(path)
