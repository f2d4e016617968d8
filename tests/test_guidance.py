"""Classifier-free guidance: a line between two predictions, the same in every language a network speaks."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian
from dit_jax.diffusion.levels import uniform
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.schedules import SCHEDULES
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream

pytestmark = pytest.mark.usefixtures("quick")

PAIRS = list(itertools.product(SCHEDULES, PREDICTIONS))
ABSENT = {"label": jnp.full(4, 3)}
X = {"image": jnp.linspace(-2, 2, 48).reshape(4, 6, 2), "label": jnp.array([0, 1, 2, 1])}
T = {"image": jnp.array([0.1, 0.3, 0.7, 1.0]), "label": jnp.zeros(4)}


def predict(x, t):
    """A network that uses the label, its level, and all else."""
    image = jnp.tanh(x["image"] * (1 + x["label"])[:, None, None] - t["image"].reshape(4, -1)[:, :1, None])
    return {"image": image + t["label"][:, None, None]}


def absent(x, t):
    return predict({**x, **ABSENT}, {**t, "label": jnp.ones(4)})


def test_scale_one_is_the_conditional_prediction():
    np.testing.assert_array_equal(dj.classifier_free(1.0)(predict, ABSENT)(X, T)["image"], predict(X, T)["image"])


def test_scale_zero_is_the_prediction_without_the_condition():
    guided = dj.classifier_free(0.0)(predict, ABSENT)(X, T)["image"]
    np.testing.assert_allclose(guided, absent(X, T)["image"], atol=1e-6)


@pytest.mark.parametrize("scale", [0.5, 1.5, 4.0])
def test_any_scale_is_on_the_line_through_both(scale):
    guided = dj.classifier_free(scale)(predict, ABSENT)(X, T)["image"]
    wanted = scale * predict(X, T)["image"] + (1 - scale) * absent(X, T)["image"]
    np.testing.assert_allclose(guided, wanted, atol=1e-5)


def test_the_interval_holds_its_ends_and_nothing_outside():
    guided = dj.classifier_free(3.0, (0.3, 0.7))(predict, ABSENT)(X, T)["image"]
    everywhere = dj.classifier_free(3.0)(predict, ABSENT)(X, T)["image"]
    inside = np.array([False, True, True, False])
    np.testing.assert_array_equal(guided[inside], everywhere[inside])
    np.testing.assert_array_equal(guided[~inside], predict(X, T)["image"][~inside])
    assert np.all(guided[inside] != predict(X, T)["image"][inside])


def test_groups_of_tokens_are_guided_by_their_own_levels():
    levels = jnp.array([[0.1, 0.5, 0.9]] * 4)
    guided = dj.classifier_free(3.0, (0.3, 0.7))(predict, ABSENT)(X, {**T, "image": levels})["image"]
    plain = predict(X, {**T, "image": levels})["image"]
    np.testing.assert_array_equal(np.any(guided != plain, axis=(0, 2)), [False, False, True, True, False, False])


@pytest.mark.parametrize(
    ("schedule", "prediction"), [(SCHEDULES[s], PREDICTIONS[p]) for s, p in PAIRS], ids=map("-".join, PAIRS)
)
def test_guidance_means_the_same_in_every_prediction(exact, schedule, prediction):
    """Two beliefs about the clean value, guided in any prediction, are the beliefs guided."""
    process, t, z = Gaussian(schedule, prediction), jnp.full(4, 0.4), jnp.linspace(-2, 2, 12).reshape(4, 3)
    alpha, sigma = schedule(t[:, None])

    def network(x, t):
        clean = jnp.sin(x["image"] * (1 + x["label"])[:, None])
        p, q = prediction(schedule, t["image"][:, None])
        return {"image": p * clean + q * (x["image"] - alpha * clean) / sigma}

    x = {"image": z, "label": X["label"]}
    guided = dj.classifier_free(2.5)(network, ABSENT)(x, {"image": t, "label": 0 * t})["image"]
    strong, weak = np.sin(z * (1 + x["label"])[:, None]), np.sin(z * (1 + ABSENT["label"])[:, None])
    np.testing.assert_allclose(process.split(z, guided, t)[0], weak + 2.5 * (strong - weak), atol=1e-9)


MEANS = jnp.array([-1.0, 0.5, 2.0, 0.0])  # of the data with label 0, 1, 2 and of all of it
STREAMS = {
    "image": Stream(shape=(8,), process=Gaussian(), levels=uniform(), embed=None, head=object),
    "label": Stream(shape=(), process=Masked(3), levels=uniform(), embed=None),
}


def clusters(x, t):
    """The exact denoiser of N(mean of the label, 0.5^2)."""
    t, mean = t["image"][:, None], MEANS[x["label"]][:, None]
    return {"image": mean + (1 - t) * 0.25 / ((1 - t) ** 2 * 0.25 + t**2) * (x["image"] - (1 - t) * mean)}


def test_a_guided_sampler_draws_from_the_guided_distribution():
    """Scores of two Gaussians of equal width mix into one whose mean is mixed likewise: scale times the label's."""
    given = {"label": np.arange(3000) % 3}
    guidance = dj.classifier_free(2.0)
    x = dj.sample(clusters, STREAMS, jax.random.key(0), 3000, given, 40, SOLVERS["heun"], guidance)["image"]
    for label, mean in enumerate(MEANS[:3]):
        assert np.mean(x[label::3]) == pytest.approx(2 * float(mean), abs=0.03)
        assert np.std(x[label::3]) == pytest.approx(0.5, abs=0.02)


def test_a_sampler_guided_by_one_or_given_nothing_is_not_guided():
    given = {"label": np.arange(6) % 3}
    for scale, condition in ((1.0, given), (5.0, None)):
        plain, guided = (
            dj.sample(clusters, STREAMS, jax.random.key(0), 6, condition, 10, guidance=guidance)["image"]
            for guidance in (None, dj.classifier_free(scale))
        )
        np.testing.assert_allclose(guided, plain, atol=1e-6)
