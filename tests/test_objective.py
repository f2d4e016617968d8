"""The objective on problems whose minimum is known: data N(mean, std^2), noise in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion import objective
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian, v, velocity, x
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.levels import dropout, logit_normal, uniform
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.schedules import SCHEDULES, align
from dit_jax.diffusion.stream import Stream

pytestmark = pytest.mark.usefixtures("exact")

KEY = jax.random.key(0)

UNIFORM = uniform()


def stream(shape, process, levels=UNIFORM, scored=True):
    return Stream(shape=shape, process=process, levels=levels, embed=None, head=object if scored else None)


def data(mean, std, n=1024):
    return {"x": mean + std * jnp.asarray(np.random.default_rng(0).normal(size=(n, 1024)))}


def best(process, mean, std):
    """The network that cannot be beaten on N(mean, std^2): a posterior mean, said as the process wants it said."""

    def predict(x, t):
        t, z = align(t["x"], x["x"]), x["x"]
        alpha, sigma = process.schedule(t)
        surprise = (z - alpha * mean) / (alpha**2 * std**2 + sigma**2)
        p, q = process.prediction(process.schedule, t)
        return {"x": p * (mean + alpha * std**2 * surprise) + q * sigma * surprise}

    return predict


def zero(x, t):
    return {"x": jnp.zeros_like(x["x"])}


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.4)])
def test_the_floor_of_rectified_flow_is_half_pi_std(prediction, mean, std):
    process = Gaussian(prediction=prediction, clamp=1e-4)
    streams = {"x": stream((1024,), process)}
    floor = objective.loss(best(process, mean, std), streams, KEY, data(mean, std))
    assert float(floor) == pytest.approx(np.pi / 2 * std, rel=0.01)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.4)])
def test_a_network_that_says_zero_pays_one_plus_the_second_moment(mean, std):
    streams = {"x": stream((1024,), Gaussian(prediction=velocity))}
    cost = objective.loss(zero, streams, KEY, data(mean, std))
    assert float(cost) == pytest.approx(1 + std**2 + mean**2, rel=0.01)


@pytest.mark.parametrize(("predict", "wanted"), [("best", 1.68638), ("zero", 2.9635)])
def test_clean_prediction_costs_what_quadrature_says(predict, wanted):
    """Both numbers are E of the error over t, logit t ~ N(0.8, 0.8^2), and max(t, 0.05)^2, for data N(0, 1)."""
    node, weight = np.polynomial.hermite_e.hermegauss(100)
    t = 1 / (1 + np.exp(-0.8 - 0.8 * node))
    error = {"best": t**2 / ((1 - t) ** 2 + t**2), "zero": 1}[predict]
    assert np.sum(weight * error / np.maximum(t, 0.05) ** 2) / np.sum(weight) == pytest.approx(wanted, rel=1e-3)

    process = Gaussian(prediction=x, loss_in=velocity, clamp=0.05)
    streams = {"x": stream((1024,), process, logit_normal(mean=0.8, std=0.8))}
    network = {"best": best(process, 0.0, 1.0), "zero": zero}[predict]
    assert float(objective.loss(network, streams, KEY, data(0.0, 1.0))) == pytest.approx(wanted, rel=0.01)


@pytest.fixture
def corners(monkeypatch):
    """Losses without chance: all networks here are affine, so that the mean of their squared error over two standard
    normals is that over four corners of a square. -> (process, predict, t [n], mean, std) -> losses [n]."""
    clean, noise = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0])
    monkeypatch.setattr(rng, "normal", lambda keys, shape: jnp.tile(noise, (len(keys), 1)))

    def losses(process, predict, t, mean=0.0, std=1.0):
        streams, batch = {"x": stream((4,), process)}, {"x": jnp.tile(mean + std * clean, (len(t), 1))}
        return objective.losses_at(predict, streams, example_keys(KEY, jnp.arange(len(t))), batch, {"x": t})["x"]

    return losses


def over_levels(levels, cost, bend=-9.0):
    """The mean of cost(t) over a distribution of levels: Gauss-Legendre over normals, on both sides of a bend."""
    node, weight = np.polynomial.legendre.leggauss(200)
    total = 0.0
    for low, high in ((-9.0, bend), (bend, 9.0)):
        half = (high - low) / 2
        normal = low + half * (1 + node)
        total += half * np.sum(weight * stats.norm.pdf(normal) * cost(levels(jnp.asarray(stats.norm.cdf(normal)))))
    return total


@pytest.mark.parametrize("prediction", PREDICTIONS.values(), ids=PREDICTIONS)
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.4)])
def test_the_floor_of_rectified_flow_is_half_pi_std_to_the_last_digits(prediction, mean, std, corners):
    process = Gaussian(prediction=prediction, clamp=1e-12)
    floor = over_levels(UNIFORM, lambda t: corners(process, best(process, mean, std), t, mean, std))
    assert floor == pytest.approx(np.pi / 2 * std, rel=1e-9)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.4)])
def test_a_network_that_says_zero_pays_one_plus_the_second_moment_at_every_level(mean, std, corners):
    found = corners(Gaussian(prediction=velocity), zero, jnp.linspace(0.01, 1, 100), mean, std)
    np.testing.assert_allclose(found, 1 + std**2 + mean**2, rtol=1e-12)


@pytest.mark.parametrize(
    ("network", "mean", "std", "clamp", "wanted", "digits"),
    [
        ("best", 0.8, 0.8, 0.05, 1.68638, 5),  # JiT's levels and clamp
        ("zero", 0.8, 0.8, 0.05, 2.9635, 4),
        ("best", 0.0, 1.0, 1e-12, 1.74126, 5),  # SD3's levels
    ],
)
def test_clean_prediction_costs_what_quadrature_says_to_every_digit(network, mean, std, clamp, wanted, digits, corners):
    process = Gaussian(prediction=x, loss_in=velocity, clamp=clamp)
    predict = {"best": best(process, 0.0, 1.0), "zero": zero}[network]
    bend = max(-9.0, (np.log(clamp / (1 - clamp)) - mean) / std)  # where the clamp begins
    found = over_levels(logit_normal(mean=mean, std=std), lambda t: corners(process, predict, t), bend)
    assert found == pytest.approx(wanted, abs=0.5 * 10**-digits)


@pytest.mark.parametrize("schedule", [SCHEDULES[name] for name in ("gvp", "cosine", "linear")])
def test_the_floor_of_v_is_one_at_every_level_where_variance_is_preserved(schedule, corners):
    """On N(0, 1) data, z says nothing about v."""
    process = Gaussian(schedule, v, loss_in=v)
    found = corners(process, best(process, 0.0, 1.0), jnp.linspace(0.01, 1, 100))
    np.testing.assert_allclose(found, 1, rtol=1e-12)


def test_the_best_denoiser_is_the_best():
    streams = {"x": stream((1024,), Gaussian(prediction=velocity))}
    costs = [
        float(objective.loss(best(Gaussian(prediction=velocity), mean, std), streams, KEY, data(0.7, 0.4)))
        for mean, std in [(0.7, 0.4), (0.6, 0.4), (0.7, 0.5), (0.7, 0.3)]
    ]
    assert costs[0] == min(costs)


def two_streams(scored=("image", "label")):
    streams = {
        "image": stream((3,), Gaussian(), scored="image" in scored),
        "label": stream((), Masked(4), dropout(rate=0.5), scored="label" in scored),
    }
    batch = {"image": data(0, 1, 8)["x"][:, :3], "label": jnp.arange(8, dtype=jnp.int32) % 4}
    return streams, batch


def lopsided(x, t):
    """A network that uses all it is given."""
    lift = t["image"] + x["label"] / 4
    return {"image": x["image"] * lift[:, None], "label": x["image"][:, :1] * jnp.arange(4)[None] * lift[:, None]}


def test_a_loss_is_the_mean_over_examples_of_the_sum_over_streams():
    streams, batch = two_streams()
    losses = objective.losses_at(
        lopsided, streams, example_keys(KEY, jnp.arange(8)), batch, {name: jnp.full(8, 0.6) for name in streams}
    )
    assert {name: cost.shape for name, cost in losses.items()} == {"image": (8,), "label": (8,)}
    np.testing.assert_allclose(objective.total(losses), losses["image"] + losses["label"])
    assert objective.loss(lopsided, streams, KEY, batch).shape == ()


def test_a_condition_is_noised_and_never_scored():
    streams, batch = two_streams(scored=["image"])
    seen = {}

    def predict(x, t):
        seen.update(x)
        return {"image": x["image"]}

    t = {"image": jnp.full(8, 0.6), "label": jnp.array([0.0, 1.0] * 4)}
    losses = objective.losses_at(predict, streams, example_keys(KEY, jnp.arange(8)), batch, t)
    assert losses.keys() == {"image"}
    np.testing.assert_array_equal(seen["label"], np.where(t["label"] == 1, 4, batch["label"]))


def test_an_examples_loss_ignores_its_neighbours_and_the_order_of_streams():
    streams, batch = two_streams()
    keys, t = example_keys(KEY, jnp.arange(8)), {"image": jnp.linspace(0.1, 0.9, 8), "label": jnp.full(8, 0.5)}
    whole = objective.losses_at(lopsided, streams, keys, batch, t)
    part, turned = jnp.array([6, 2, 3]), dict(reversed(streams.items()))
    few = jax.tree.map(lambda leaf: leaf[part], (batch, t))
    for name, cost in objective.losses_at(lopsided, turned, keys[part], *few).items():
        np.testing.assert_allclose(cost, whole[name][part], rtol=1e-12)


def test_no_two_examples_share_their_noise():
    streams = {"x": stream((3,), Gaussian(prediction=velocity), lambda u: 0 * u + 0.5)}
    seen = {}
    objective.loss(lambda x, t: seen.update(x) or x, streams, KEY, {"x": jnp.zeros((8, 3))})
    assert len(np.unique(seen["x"])) == 8 * 3


def test_losses_are_weighed_best_by_what_they_are():
    """The least of e^{-u} L + u is 1 + log L, at u = log L, so that a loss in other units pulls as hard."""
    losses = {"a": jnp.array([0.01, 0.5]), "b": jnp.array([2.0, 300.0])}
    at = lambda shift: objective.total(losses, {name: jnp.log(loss) + shift for name, loss in losses.items()})
    np.testing.assert_allclose(at(0.0), 2 + np.log([0.02, 150.0]), rtol=1e-12)
    assert np.all(at(0.1) > at(0.0)) and np.all(at(-0.1) > at(0.0))
    np.testing.assert_allclose(objective.total(losses, {"a": jnp.zeros(2)}), [2.01, 300.5], rtol=1e-15)
