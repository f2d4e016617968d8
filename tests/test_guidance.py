"""Guidance: away from a weak prediction, in each way the papers write it, whatever language the network speaks."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.ddpm import DDPM
from dit_jax.diffusion.gaussian import PREDICTIONS, Gaussian, noise, velocity
from dit_jax.diffusion.guidance import (
    COMBINE,
    autoguidance,
    classifier_free,
    in_prediction_space,
    linear,
    projected,
    rescaled,
    zero_star,
)
from dit_jax.diffusion.levels import uniform
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.schedules import SCHEDULES, derivative
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream
from dit_jax.run import SampleOptions

pytestmark = pytest.mark.usefixtures("exact")

PAIRS = list(itertools.product(SCHEDULES, PREDICTIONS))
every_combine = pytest.mark.parametrize("combine", COMBINE.values(), ids=COMBINE)
every_scale = pytest.mark.parametrize("scale", [0.0, 0.5, 1.5, 4.0])
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
every_pair = pytest.mark.parametrize(
    ("schedule", "prediction"), [(SCHEDULES[s], PREDICTIONS[p]) for s, p in PAIRS], ids=map("-".join, PAIRS)
)

LABEL, MASK = Masked(3), np.full(4, 3)
ABSENT = {"label": MASK}
PROCESSES = {"image": Gaussian(prediction=velocity), "label": LABEL}  # speaks at every level, ends included
X = {"image": np.linspace(-2, 2, 48).reshape(4, 6, 2), "label": np.array([0, 1, 2, 1])}
T = {"image": np.array([0.1, 0.3, 0.7, 0.9]), "label": np.zeros(4)}


def predict(x, t):
    """A network that uses the label, its level, and all else."""
    image = np.tanh(x["image"] * (1 + x["label"])[:, None, None] - t["image"].reshape(4, -1)[:, :1, None])
    return {"image": np.asarray(image + 0.3 * t["label"][:, None, None])}


def absent(x, t):
    return predict({**x, **ABSENT}, {**t, "label": np.ones(4)})


def worse(x, t):
    return {"image": predict(x, t)["image"] ** 2 - 0.3}


def guided(guidance, x=X, t=T, given=ABSENT):
    return guidance(predict, given, PROCESSES)(x, t)["image"]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


STRONG, WEAK = predict(X, T)["image"], absent(X, T)["image"]


# The papers' equations, one example at a time.


def numpy_rescaled(strong, weak, scale, phi):
    """Lin et al. 2023, equations 14 to 16."""
    cfg = weak + scale * (strong - weak)
    return phi * cfg * strong.std() / cfg.std() + (1 - phi) * cfg


def numpy_projected(strong, weak, scale, parallel, norm):
    """Sadat et al. 2024, section 4, on clean values: bound the difference, then take it apart."""
    difference = strong - weak
    length = np.linalg.norm(difference)
    if length > norm:
        difference = difference / length * norm
    direction = strong / np.linalg.norm(strong)
    along = np.vdot(difference, direction) * direction
    return strong + (scale - 1) * ((difference - along) + parallel * along)


def numpy_zero_star(strong, weak, scale):
    """Fan et al. 2025, algorithm 1, on velocities, after the start."""
    star = np.vdot(strong, weak) / np.linalg.norm(weak) ** 2
    return (1 - scale) * star * weak + scale * strong


def each(rule, *arrays, **options):
    return np.stack([rule(*example, **options) for example in zip(*map(np.asarray, arrays), strict=True)])


def clean(prediction):
    """Of a velocity network on the straight path: x = z - t velocity."""
    return X["image"] - T["image"][:, None, None] * prediction


def unclean(x):
    """The velocity that says so."""
    return (X["image"] - x) / T["image"][:, None, None]


# What each row makes of strong and weak velocities on the straight path, by the papers' equations.
BY_THE_PAPERS = {
    "linear": lambda strong, weak, scale: weak + scale * (strong - weak),
    "rescaled": lambda *pair, scale: each(numpy_rescaled, *pair, scale=scale, phi=0.7),
    "zero_star": lambda *pair, scale: each(numpy_zero_star, *pair, scale=scale),
    "projected": lambda *pair, scale: unclean(
        each(numpy_projected, *map(clean, pair), scale=scale, parallel=0, norm=15)
    ),
}


@every_scale
@pytest.mark.parametrize("name", COMBINE)
def test_every_rule_is_its_equation(name, scale):
    assert name in BY_THE_PAPERS, f"{name} is new: say in BY_THE_PAPERS what it makes of two velocities"
    found = guided(classifier_free(scale, combine=COMBINE[name]))
    np.testing.assert_allclose(found, BY_THE_PAPERS[name](STRONG, WEAK, scale=scale), atol=1e-13)


# Who is weak.


def test_scale_zero_is_the_prediction_without_the_condition():
    np.testing.assert_allclose(guided(classifier_free(0.0)), WEAK, atol=1e-14)


@every_scale
def test_any_scale_is_on_the_line_through_both(scale):
    np.testing.assert_allclose(guided(classifier_free(scale)), scale * STRONG + (1 - scale) * WEAK, atol=1e-14)


@every_scale
def test_the_weak_network_sees_what_the_strong_one_does(scale):
    wanted = scale * STRONG + (1 - scale) * (STRONG**2 - 0.3)
    np.testing.assert_allclose(guided(autoguidance(worse, scale)), wanted, atol=1e-14)
    np.testing.assert_allclose(guided(autoguidance(worse, scale), given={}), wanted, atol=1e-14)


@pytest.mark.parametrize("outer", BY_THE_PAPERS)
@pytest.mark.parametrize("inner", BY_THE_PAPERS)
def test_guidance_composes(inner, outer):
    """Away from a worse network at the levels up to 0.7, and away from the network without the label from 0.3 on, where
    that network is led away from a worse one too."""
    better = autoguidance(worse, 2.0, (0.0, 0.7), COMBINE[inner])(predict, ABSENT, PROCESSES)
    both = classifier_free(3.0, (0.3, 1.0), COMBINE[outer])(better, ABSENT, PROCESSES)(X, T)["image"]
    low, high = (np.reshape(where, (4, 1, 1)) for where in ([True, True, True, False], [False, True, True, True]))
    away = lambda said: np.where(low, BY_THE_PAPERS[inner](said, said**2 - 0.3, scale=2.0), said)
    strong, weak = away(STRONG), away(WEAK)
    wanted = np.where(high, BY_THE_PAPERS[outer](strong, weak, scale=3.0), strong)
    np.testing.assert_allclose(both, wanted, atol=1e-12)


def test_what_is_not_given_is_not_asked_for():
    calls = []

    def counted(x, t):
        calls.append(t)
        return predict(x, t)

    for given, evaluations in (({}, 1), (ABSENT, 2)):
        calls.clear()
        classifier_free(4.0)(counted, given, PROCESSES)(X, T)
        assert len(calls) == evaluations
    assert classifier_free(4.0)(counted, {}, PROCESSES) is counted


# How strong and weak are combined.


@every_combine
@pytest.mark.parametrize("who", [classifier_free, functools.partial(autoguidance, worse)], ids=["free", "auto"])
def test_scale_one_is_the_strong_prediction(who, combine):
    """But for the start, which T leaves out."""
    np.testing.assert_allclose(guided(who(1.0, combine=combine)), STRONG, atol=1e-13)


@every_combine
def test_a_network_is_not_guided_by_itself(combine):
    """But for the start, which T leaves out."""
    np.testing.assert_allclose(guided(autoguidance(predict, 5.0, combine=combine)), STRONG, atol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_zero_star_holds_the_start_and_nothing_else(scale):
    t = {**T, "image": np.array([0.5, 0.9, 0.901, 1.0])}
    held, free = (guided(classifier_free(scale, combine=zero_star(hold)), t=t) for hold in (0.1, 0.0))
    np.testing.assert_array_equal(held[:2], free[:2])
    np.testing.assert_allclose(held[2:], 0, atol=1e-14)  # of a velocity network
    assert np.all(free[2:] != 0)


@every_scale
def test_rescaled_by_nothing_is_linear(scale):
    wanted = scale * STRONG + (1 - scale) * WEAK
    np.testing.assert_allclose(guided(classifier_free(scale, combine=rescaled(phi=0.0))), wanted, atol=1e-14)


@every_scale
def test_fully_rescaled_has_the_deviation_of_the_strong_prediction(scale):
    found = guided(classifier_free(scale, combine=rescaled(phi=1.0)))
    np.testing.assert_allclose(np.std(found, axis=(1, 2)), np.std(STRONG, axis=(1, 2)), rtol=1e-12)


@every_scale
@pytest.mark.parametrize("phi", [0.3, 0.7, 1.0])
def test_rescaled_is_the_papers(scale, phi):
    wanted = each(numpy_rescaled, STRONG, WEAK, scale=scale, phi=phi)
    np.testing.assert_allclose(guided(classifier_free(scale, combine=rescaled(phi))), wanted, atol=1e-13)


@every_scale
def test_projected_with_all_of_the_parallel_part_and_no_bound_is_linear(scale):
    found = guided(classifier_free(scale, combine=projected(parallel=1.0, norm=np.inf)))
    np.testing.assert_allclose(found, scale * STRONG + (1 - scale) * WEAK, atol=1e-13)


@every_scale
def test_projected_without_the_parallel_part_leaves_what_lies_along_the_strong_clean_value(scale):
    found = clean(guided(classifier_free(scale, combine=projected(norm=np.inf))))
    dot = lambda a, b: np.sum(a * b, axis=(1, 2))
    np.testing.assert_allclose(dot(found, clean(STRONG)), dot(clean(STRONG), clean(STRONG)), rtol=1e-12)


def test_projected_moves_the_clean_value_by_no_more_than_its_bound():
    found = clean(guided(classifier_free(3.0, combine=projected(parallel=1.0, norm=0.05))))
    moved, whole = (np.linalg.norm(a.reshape(4, -1), axis=1) for a in (found - clean(STRONG), clean(STRONG - WEAK)))
    assert np.all(whole > 0.05)
    np.testing.assert_allclose(moved, 2 * 0.05, rtol=1e-10)


@every_scale
@pytest.mark.parametrize(("parallel", "norm"), [(0.0, 15.0), (0.0, 0.2), (0.4, 0.2), (-1.0, 1.0)])
def test_projected_is_the_papers(scale, parallel, norm):
    found = clean(guided(classifier_free(scale, combine=projected(parallel, norm))))
    wanted = each(numpy_projected, clean(STRONG), clean(WEAK), scale=scale, parallel=parallel, norm=norm)
    np.testing.assert_allclose(found, wanted, atol=1e-13)


@every_scale
def test_zero_star_is_the_papers(scale):
    wanted = each(numpy_zero_star, STRONG, WEAK, scale=scale)
    np.testing.assert_allclose(guided(classifier_free(scale, combine=zero_star())), wanted, atol=1e-13)


def test_what_zero_star_leads_away_from_is_along_weak_and_the_rest_is_across():
    base = np.asarray(guided(classifier_free(0.0, combine=zero_star()))).reshape(4, -1)
    strong, weak = (np.asarray(prediction).reshape(4, -1) for prediction in (STRONG, WEAK))
    np.testing.assert_allclose(np.sum((strong - base) * weak, axis=1), 0, atol=1e-12)
    ratio = base / weak
    np.testing.assert_allclose(ratio, ratio[:, :1] * np.ones(12), rtol=1e-10)


@every_scale
def test_zero_star_does_not_see_how_long_the_weak_velocity_is(scale):
    """A weak velocity along the strong one adds nothing."""
    weak = lambda x, t: {"image": -0.2 * predict(x, t)["image"]}
    np.testing.assert_allclose(guided(autoguidance(weak, scale, combine=zero_star())), STRONG, atol=1e-13)


@every_combine
def test_a_network_that_says_nothing_yet_is_finite(combine):
    nothing = lambda x, t: {"image": jnp.zeros_like(x["image"])}
    found = autoguidance(nothing, 4.0, combine=combine)(nothing, {}, PROCESSES)(X, T)["image"]
    np.testing.assert_allclose(found, 0, atol=1e-13)


@every_combine
def test_examples_are_guided_one_by_one(combine):
    process, z, t = Gaussian(), draw(4, 6, 2), np.array([0.1, 0.3, 0.7, 0.99])
    strong, weak = draw(4, 6, 2, seed=1), draw(4, 6, 2, seed=2)
    together = combine(process, 3.0, z, t, strong, weak)
    alone = [combine(process, 3.0, z[i : i + 1], t[i : i + 1], strong[i : i + 1], weak[i : i + 1]) for i in range(4)]
    np.testing.assert_allclose(together, np.concatenate(alone), atol=1e-12)


def beliefs(x):
    """Clean values as believed by a network that uses the label."""
    return np.sin(x["image"] * (1 + x["label"])[:, None])


def guided_beliefs(schedule, prediction, t, scale, combine):
    """(z, strong and weak beliefs, guided belief), of a network that tells its beliefs as `prediction`."""
    x = {"image": np.linspace(-2, 2, 12).reshape(4, 3), "label": X["label"]}
    process = Gaussian(schedule, prediction)

    def network(x, t):
        alpha, sigma = schedule(t["image"][:, None])
        p, q = prediction(schedule, t["image"][:, None])
        return {"image": p * beliefs(x) + q * (x["image"] - alpha * beliefs(x)) / sigma}

    guidance = classifier_free(scale, combine=combine)
    said = guidance(network, ABSENT, {"image": process, "label": LABEL})(x, {"image": t, "label": 0 * t})["image"]
    return x["image"], beliefs(x), beliefs({**x, **ABSENT}), process.split(x["image"], said, t)[0]


@every_pair
def test_linear_means_the_same_in_every_prediction(schedule, prediction):
    """Two beliefs about the clean value, guided in any prediction, are the beliefs guided."""
    _, strong, weak, found = guided_beliefs(schedule, prediction, np.full(4, 0.4), 2.5, linear)
    np.testing.assert_allclose(found, weak + 2.5 * (strong - weak), atol=1e-9)


@every_pair
def test_projected_means_the_same_in_every_prediction(schedule, prediction):
    _, strong, weak, found = guided_beliefs(schedule, prediction, np.full(4, 0.4), 2.5, projected(0.3, 1.0))
    wanted = each(numpy_projected, strong, weak, scale=2.5, parallel=0.3, norm=1.0)
    np.testing.assert_allclose(found, wanted, atol=1e-9)


@every_pair
def test_zero_star_means_the_same_in_every_prediction(schedule, prediction):
    t = np.array([0.4, 0.6, 0.97, 0.4])
    z, strong, weak, found = guided_beliefs(schedule, prediction, t, 2.5, zero_star())
    (alpha, sigma), slopes = schedule(t[:, None]), derivative(schedule, t[:, None])
    flow = lambda clean: slopes[0] * clean + slopes[1] * (z - alpha * clean) / sigma
    wanted = each(numpy_zero_star, flow(strong), flow(weak), scale=2.5)
    wanted[2] = 0
    np.testing.assert_allclose(flow(found), wanted, atol=1e-8)


def test_any_rule_can_be_in_prediction_space_any_prediction():
    """Rescaled noise of a network that predicts velocity: z = (1 - t) x + t noise, so noise = z + (1 - t) velocity."""
    spoken = guided(classifier_free(3.0, combine=in_prediction_space(noise, rescaled())))
    z, left = X["image"], 1 - T["image"][:, None, None]
    noised = z + left * np.asarray(spoken)
    wanted = each(numpy_rescaled, z + left * STRONG, z + left * WEAK, scale=3.0, phi=0.7)
    np.testing.assert_allclose(noised, wanted, atol=1e-13)


@every_schedule
@every_scale
def test_the_exact_scores_of_two_gaussians_make_the_score_of_a_third(schedule, scale):
    """Densities N(m, v)^scale N(m', v')^(1 - scale) are Gaussian, with precision scale / v + (1 - scale) / v'."""
    (m_strong, s_strong), (m_weak, s_weak) = (0.7, 0.3), (-0.4, 1.1)
    t, z = np.linspace(0.1, 0.9, 4), draw(4, 5)
    alpha, sigma = (np.asarray(c)[:, None] for c in schedule(t))
    variance = lambda std: alpha**2 * std**2 + sigma**2
    says = lambda mean, std: lambda x, t: {"z": sigma * (x["z"] - alpha * mean) / variance(std)}  # noise = -sigma score

    processes = {"z": Gaussian(schedule, noise)}
    found = autoguidance(says(m_weak, s_weak), scale)(says(m_strong, s_strong), {}, processes)({"z": z}, {"z": t})["z"]
    precision = scale / variance(s_strong) + (1 - scale) / variance(s_weak)
    mean = alpha * (scale * m_strong / variance(s_strong) + (1 - scale) * m_weak / variance(s_weak)) / precision
    np.testing.assert_allclose(-found / sigma, -precision * (z - mean), rtol=1e-9, atol=1e-9)


# Where it acts.


@every_combine
def test_the_interval_holds_its_ends_and_nothing_outside(combine):
    inside = np.array([False, True, True, False])
    found, everywhere = (guided(classifier_free(3.0, span, combine)) for span in ((0.3, 0.7), (0.0, 1.0)))
    np.testing.assert_array_equal(found[inside], everywhere[inside])
    np.testing.assert_array_equal(found[~inside], STRONG[~inside])
    assert np.all(found[inside] != STRONG[inside])


@every_combine
def test_groups_of_tokens_are_guided_by_their_own_levels(combine):
    t = {**T, "image": np.array([[0.1, 0.5, 0.9]] * 4)}
    found, plain = guided(classifier_free(3.0, (0.3, 0.7), combine), t=t), predict(X, t)["image"]
    np.testing.assert_array_equal(np.any(found != plain, axis=(0, 2)), [False, False, True, True, False, False])


def latents(outputs):
    """Four channels of z; for each, `outputs` predicted values. -> (x, t, strong, weak)."""
    x, t = {"image": draw(3, 5, 4)}, {"image": np.array([0.2, 0.5, 0.8])}
    says = lambda seed: lambda x, t: {"image": jnp.asarray(draw(3, 5, 4 * outputs, seed=seed))}
    return x, t, says(1), says(2)


@every_combine
@pytest.mark.parametrize("process", [Gaussian(), DDPM()], ids=["gaussian", "ddpm"])
def test_channels_beyond_those_guided_are_left_as_they_are(process, combine):
    x, t, strong, weak = latents(process.outputs)
    said = np.asarray(strong(x, t)["image"])
    for channels, first in ((0, 4), (3, 3)):
        guidance = autoguidance(weak, 2.0, combine=combine, channels=channels)
        found = guidance(strong, {}, {"image": process})(x, t)["image"]
        assert found.shape == said.shape
        np.testing.assert_array_equal(found[..., first:], said[..., first:])
        assert np.all(found[..., :first] != said[..., :first])


@every_combine
def test_guiding_some_channels_is_guiding_a_stream_of_them(combine):
    x, t, strong, weak = latents(1)
    some = autoguidance(weak, 2.0, combine=combine, channels=3)(strong, {}, {"image": Gaussian()})(x, t)
    cut = lambda network: lambda _, t: {"image": network(x, t)["image"][..., :3]}
    whole = autoguidance(cut(weak), 2.0, combine=combine)(cut(strong), {}, {"image": Gaussian()})
    np.testing.assert_array_equal(some["image"][..., :3], whole({"image": x["image"][..., :3]}, t)["image"])


def test_a_published_dit_guides_the_noise_of_three_channels():
    x, t, strong, weak = latents(2)
    found = autoguidance(weak, 4.0, channels=3)(strong, {}, {"image": DDPM()})(x, t)["image"]
    wanted = np.array(strong(x, t)["image"])
    wanted[..., :3] += 3 * (wanted[..., :3] - weak(x, t)["image"][..., :3])
    np.testing.assert_allclose(found, wanted, atol=1e-13)


@every_combine
def test_tokens_have_their_probabilities_mixed_whatever_guides_the_image(combine):
    """In proportion to p^scale q^(1 - scale), and all of the vocabulary, however many channels are guided."""
    x = {"image": draw(3, 5, 4), "text": np.full((3, 7), 6)}
    t = {"image": np.full(3, 0.5), "text": np.full(3, 0.5)}
    processes = {"image": Gaussian(), "text": Masked(6)}
    says = lambda seed: lambda x, t: {"image": draw(3, 5, 4, seed=seed), "text": draw(3, 7, 6, seed=seed + 1)}
    softmax = lambda logits: np.exp(logits) / np.sum(np.exp(logits), axis=-1, keepdims=True)
    found = autoguidance(says(3), 2.5, combine=combine, channels=3)(says(1), {}, processes)(x, t)
    wanted = softmax(says(1)(x, t)["text"]) ** 2.5 * softmax(says(3)(x, t)["text"]) ** -1.5
    np.testing.assert_allclose(softmax(np.asarray(found["text"])), wanted / wanted.sum(-1, keepdims=True), rtol=1e-10)
    assert np.all(found["image"][..., :3] != says(1)(x, t)["image"][..., :3])


# In a sampler.

MEANS = np.array([-1.0, 0.5, 2.0, 0.0])  # of the data with label 0, 1, 2 and of all of it
STREAMS = {
    "image": Stream(shape=(8,), process=Gaussian(), levels=uniform(), embed=None, head=object),
    "label": Stream(shape=(), process=LABEL, levels=uniform(), embed=None),
}


def clusters(x, t):
    """The exact denoiser of N(mean of the label, 0.5^2)."""
    t, mean = t["image"][:, None], jnp.asarray(MEANS)[x["label"]][:, None]
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
        plain, found = (
            dj.sample(clusters, STREAMS, jax.random.key(0), 6, condition, 10, guidance=guidance)["image"]
            for guidance in (None, dj.classifier_free(scale))
        )
        np.testing.assert_allclose(found, plain, atol=1e-6)


@every_combine
def test_every_guidance_goes_with_solvers_that_evaluate_at_the_end(combine):
    """At t = 0, where clean values say nothing of the noise; Heun's method asks there, and does not listen."""
    given, guidance = {"label": np.arange(6) % 3}, classifier_free(2.0, combine=combine)
    x = dj.sample(clusters, STREAMS, jax.random.key(0), 6, given, 5, SOLVERS["heun"], guidance)["image"]
    assert np.all(np.isfinite(x))


def test_a_run_says_which():
    assert SampleOptions().guide() is None and SampleOptions(combine="zero_star").guide(worse) is None
    how = SampleOptions(guidance=3.0, interval=(0.3, 0.7), combine="rescaled", channels=1)
    wanted = {weak: np.array(STRONG) for weak in (absent, worse)}
    for weak, array in wanted.items():
        array[1:3, :, :1] = each(
            numpy_rescaled, STRONG[1:3, :, :1], weak(X, T)["image"][1:3, :, :1], scale=3.0, phi=0.7
        )
    np.testing.assert_allclose(guided(how.guide()), wanted[absent], atol=1e-13)
    np.testing.assert_allclose(guided(how.guide(worse)), wanted[worse], atol=1e-13)


def test_blind_to_a_stream_that_is_given_in_part_is_blind_to_that_part():
    """What is given, at t = 0, is replaced by noise; what is being drawn stays as it is."""
    asked, prior = [], np.full((4, 3), 7.0)
    watch = lambda x, t: asked.append((x["image"], t["image"])) or {"image": x["image"]}
    x, t = np.arange(12.0).reshape(4, 3), np.array([[0.0, 0.0, 0.6]] * 4)
    classifier_free(2.0)(watch, {"image": prior}, PROCESSES)({"image": x}, {"image": t})
    strong, blind = asked
    np.testing.assert_array_equal(strong[0], x)
    np.testing.assert_array_equal(strong[1], t)
    np.testing.assert_array_equal(blind[0], np.column_stack([prior[:, :2], x[:, 2]]))
    np.testing.assert_array_equal(blind[1], [[1.0, 1.0, 0.6]] * 4)


def test_each_given_stream_leads_by_a_scale_of_its_own():
    """strong + sum_k (w_k - 1) (strong - weak_k), where weak_k is blind to stream k alone."""
    says = lambda x, t: {"z": x["z"] + 10 * t["a"][:, None] + 100 * t["b"][:, None] + x["a"] * x["b"]}
    x = {"z": draw(4, 3), "a": np.full((4, 1), 2.0), "b": np.full((4, 1), 3.0)}
    t = {"z": np.full(4, 0.5), "a": np.zeros(4), "b": np.zeros(4)}
    absent, processes = {"a": np.full((4, 1), 5.0), "b": np.full((4, 1), 7.0)}, dict.fromkeys("zab", Gaussian())
    strong, without_a, without_b = x["z"] + 6, x["z"] + 10 + 15, x["z"] + 100 + 14
    led = lambda scale: classifier_free(scale)(says, absent, processes)(x, t)["z"]
    wanted = strong + 1.0 * (strong - without_a) + 0.5 * (strong - without_b)
    np.testing.assert_allclose(led({"a": 2.0, "b": 1.5}), wanted, atol=1e-12)
    np.testing.assert_allclose(led({"b": 1.5}), strong + 0.5 * (strong - without_b), atol=1e-12)
    np.testing.assert_allclose(led(2.0), strong + (strong - (x["z"] + 110 + 35)), atol=1e-12)  # to both at once
    np.testing.assert_array_equal(led({"a": 1.0, "b": 1.0}), strong)


@pytest.mark.parametrize("guidance", ["x", "label=", "label=x", "label", "a=1=2"])
def test_guidance_that_cannot_be_read_is_named(guidance):
    with pytest.raises(ValueError, match=f"guidance = '{guidance}' should be a number, or STREAM=NUMBER"):
        dataclasses.replace(SampleOptions(), guidance=guidance).scale()
