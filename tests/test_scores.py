"""Scores of features against closed forms, brute force and what they should not notice."""

import itertools

import numpy as np
import pytest
import scipy.linalg

from dit_jax.evaluation import diversity, frechet, mmd, neighbours, parts, scores

RNG = np.random.default_rng


def exactly(mean: np.ndarray, covariance: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """n points of exactly this sample mean and covariance; n > d."""
    x = RNG(seed).normal(size=(n, len(mean)))
    x -= x.mean(0)
    white = x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / (n - 1))).T
    return mean + white @ np.linalg.cholesky(covariance).T


def covariance(d: int, seed: int) -> np.ndarray:
    root = RNG(seed).normal(size=(d, d))
    return root @ root.T / d + 0.1 * np.eye(d)


@pytest.mark.parametrize("d", [1, 5, 24])
def test_frechet_distance_is_that_of_gaussians_of_known_mean_and_covariance(d):
    """Against the symmetric form tr (A^{1/2} B A^{1/2})^{1/2}, by scipy's square roots."""
    a, b, gap = covariance(d, 1), covariance(d, 2), RNG(3).normal(size=d)
    root = scipy.linalg.sqrtm(a)
    right = gap @ gap + np.trace(a) + np.trace(b) - 2 * np.trace(scipy.linalg.sqrtm(root @ b @ root)).real
    x, y = exactly(np.zeros(d), a, d + 20), exactly(gap, b, d + 50, seed=1)
    assert frechet.frechet_distance(x, y) == pytest.approx(right, abs=1e-8)
    found = frechet.frechet(frechet.moments(x), frechet.moments_of(gap, b))
    assert found.value == pytest.approx(right, abs=1e-8) and 0 <= found.residual < 1e-12


def test_frechet_distance_is_what_other_code_has_on_features_of_a_network_like_kind():
    """Not negative, not centred, correlated and of unlike sizes; scipy's square root of the product of covariances."""
    mix = RNG(0).exponential(size=(40, 40)) ** 2
    x, y = (np.maximum(RNG(seed).normal(size=(n, 40)) @ mix, 0).astype(np.float32) for seed, n in ((1, 300), (2, 200)))
    a, b = (np.cov(z.astype(np.float64), rowvar=False) for z in (x, y))
    gap = x.mean(0, dtype=np.float64) - y.mean(0, dtype=np.float64)
    right = gap @ gap + np.trace(a + b) - 2 * np.trace(scipy.linalg.sqrtm(a @ b)).real
    assert frechet.frechet_distance(x, y) == pytest.approx(right, rel=1e-9)


def test_frechet_distance_of_sets_that_span_less_than_the_space():
    """In one direction each, at an angle of 60 degrees: |a - b| is not it, tr A + tr B - 2 |cos| std std is."""
    x = exactly(np.zeros(1), np.array([[4.0]]), 7) * np.array([1.0, 0, 0])
    y = exactly(np.zeros(1), np.array([[9.0]]), 8) * np.array([0.5, np.sqrt(0.75), 0])
    assert frechet.frechet_distance(x, y) == pytest.approx(4 + 9 - 2 * 0.5 * 2 * 3, abs=1e-8)
    few = RNG(1).normal(size=(3, 50))  # fewer than dimensions
    assert frechet.frechet_distance(few, few + 2) == pytest.approx(50 * 4, abs=1e-8)
    assert frechet.frechet_distance(few[:2], few[:2]) == pytest.approx(0, abs=1e-8)


def test_frechet_distance_of_what_is_constant():
    """Two points have their gap; a point and a Gaussian the variance as well."""
    ones, x = np.ones((5, 3)), exactly(np.zeros(3), covariance(3, 0), 20)
    assert frechet.frechet_distance(ones, 3 * ones) == pytest.approx(12, abs=1e-12)
    assert frechet.frechet_distance(ones, x) == pytest.approx(3 + np.trace(covariance(3, 0)), abs=1e-8)
    assert frechet.frechet_distance(ones, ones) == 0


def test_frechet_distance_does_not_notice_order_rotation_or_which_comes_first():
    x, y = RNG(0).normal(size=(30, 6)), RNG(1).normal(size=(40, 6)) * 2 + 1
    turn = np.linalg.qr(RNG(2).normal(size=(6, 6)))[0]
    right = frechet.frechet_distance(x, y)
    for a, b in ((y, x), (x[::-1], y), (x @ turn, y @ turn), (x + 5, y + 5)):
        assert frechet.frechet_distance(a, b) == pytest.approx(right, abs=1e-9)
    assert frechet.frechet_distance(3 * x, 3 * y) == pytest.approx(9 * right, rel=1e-9)


def test_moments_of_many_rows_are_those_of_all_blocks(monkeypatch):
    x = RNG(0).normal(size=(50, 8))
    whole = frechet.moments(x)
    monkeypatch.setattr(frechet, "BLOCK", 7)
    blocks = frechet.moments(x)
    for found in (whole, blocks):
        np.testing.assert_allclose(found.root.T @ found.root, np.cov(x, rowvar=False), atol=1e-12)
        np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-14)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones((1, 4)), r"at least 2 vectors, not an array of shape \(1, 4\)"),
        (np.ones((0, 4)), "at least 2 vectors"),
        (np.ones(4), "at least 2 vectors"),
        (np.full((3, 4), np.nan), "not finite"),
        (np.array([[np.inf, 0], [0, 0], [0, 0]]), "not finite"),
        (RNG(0).normal(size=(5, 4)) * 1e155, "too large"),
        (np.ones((3, 5)), "between 5 features and 4"),
    ],
)
def test_a_frechet_distance_that_is_none_is_an_error(x, message):
    with pytest.raises(ValueError, match=message):
        frechet.frechet_distance(x, RNG(1).normal(size=(9, 4)))


def test_statistics_that_are_none_are_an_error():
    good, skew, negative = np.eye(3), np.eye(3), np.diag([1.0, 1.0, -0.1])
    skew[0, 1] = 0.1
    for covariance in (skew, negative):
        with pytest.raises(ValueError, match="the covariance is none"):
            frechet.moments_of(np.zeros(3), covariance)
    with pytest.raises(ValueError, match="not finite"):
        frechet.moments_of(np.full(3, np.nan), good)
    with pytest.raises(ValueError, match=r"mean of shape \(2,\) has no covariance of shape \(3, 3\)"):
        frechet.moments_of(np.zeros(2), good)
    rounded = np.outer([1.0, 2, 3], [1.0, 2, 3]) - 1e-12 * np.eye(3)  # rank one, and zero but for rounding
    assert np.linalg.eigvalsh(rounded).min() < 0 and frechet.moments_of(np.zeros(3), rounded).residual < 1e-10


def test_a_residual_that_is_too_large_is_an_error(monkeypatch):
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda *of, **by: svd(*of, **by) * (1 + 1e-5))
    with pytest.raises(ValueError, match=r"residual of 2\.0e-05"):
        frechet.frechet_distance(RNG(0).normal(size=(9, 4)), RNG(1).normal(size=(9, 4)))


def test_kernel_distance_is_the_sum_over_all_pairs(monkeypatch):
    x, y = RNG(0).normal(size=(13, 4)), RNG(1).normal(size=(17, 4)) + 0.5
    k = lambda a, b: (a @ b / 4 + 1) ** 3
    mean = lambda pairs: np.mean([k(a, b) for a, b in pairs])
    right = mean(itertools.permutations(x, 2)) + mean(itertools.permutations(y, 2)) - 2 * mean(itertools.product(x, y))
    assert mmd.kernel_distance(x, y) == pytest.approx(right, rel=1e-12)
    monkeypatch.setattr(mmd, "BLOCK", 5)
    assert mmd.kernel_distance(x, y) == pytest.approx(right, rel=1e-12)
    assert mmd.kernel_distance(y, x) == pytest.approx(right, rel=1e-12)
    chosen = np.arange(13) % 3 > 0
    both = mmd.kernel_distance(x, y, np.array([chosen, ~chosen]))
    assert both[0] == pytest.approx(mmd.kernel_distance(x[chosen], y)[0], rel=1e-11)
    assert both[1] == pytest.approx(mmd.kernel_distance(x[~chosen], y)[0], rel=1e-11)


def test_kernel_distance_is_unbiased():
    """Of one distribution it is 0 on average, and below 0 about as often as above. Of point masses at a and b it is
    k(a, a) + k(b, b) - 2 k(a, b)."""
    found = np.array([mmd.kernel_distance(*RNG(seed).normal(size=(2, 12, 3)))[0] for seed in range(400)])
    assert abs(found.mean()) < 3 * found.std() / 20 and 0.3 < np.mean(found < 0) < 0.8
    a, b = np.array([[1.0, 2]]), np.array([[0.0, 3]])
    right = (5 / 2 + 1) ** 3 + (9 / 2 + 1) ** 3 - 2 * (6 / 2 + 1) ** 3
    assert mmd.kernel_distance(a.repeat(4, 0), b.repeat(5, 0)) == pytest.approx(right)


def brute(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The definitions, one distance at a time."""
    distance = lambda a, b: np.sqrt(np.sum((a - b) ** 2))
    radius = lambda z, i, k: sorted(distance(z[i], other) for j, other in enumerate(z) if j != i)[k - 1]
    n, m, (near, far) = len(x), len(y), (neighbours.MANIFOLD, neighbours.BALL)
    within = lambda a, z, k: [distance(a, z[i]) <= radius(z, i, k) * (1 + 1e-9) for i in range(len(z))]
    return {
        "precision": np.mean([any(within(a, y, near)) for a in x]),
        "recall": np.mean([any(within(b, x, near)) for b in y]),
        "density": sum(sum(within(a, y, far)) for a in x) / (far * n),
        "coverage": np.mean([min(distance(a, y[i]) for a in x) <= radius(y, i, far) * (1 + 1e-9) for i in range(m)]),
    }


@pytest.mark.parametrize(
    ("n", "m", "d", "shift"), [(20, 25, 2, 0.0), (25, 12, 3, 1.0), (6, 6, 1, 0.5), (15, 30, 4, 3.0)]
)
def test_manifold_scores_are_their_definitions(n, m, d, shift, monkeypatch):
    x, y = RNG(n).normal(size=(n, d)) + shift + 1, RNG(m).normal(size=(m, d)) * 1.5 + 1
    right = brute(x, y)
    for block in (1024, 7):
        monkeypatch.setattr(neighbours, "BLOCK", block)
        found = neighbours.manifold_scores(x, y)
        assert {name: values.tolist() for name, values in found.items()} == {
            name: [pytest.approx(value)] for name, value in right.items()
        }


def test_manifold_scores_of_parts_are_those_of_the_parts_alone(monkeypatch):
    x, y = RNG(0).normal(size=(30, 3)), RNG(1).normal(size=(20, 3)) + 0.5
    some = parts.halves(30, 3)
    for block in (1024, 8):
        monkeypatch.setattr(neighbours, "BLOCK", block)
        found = neighbours.manifold_scores(x, y, some)
        for b, part in enumerate(some):
            alone = neighbours.manifold_scores(x[part], y)
            assert {name: values[b] for name, values in found.items()} == {
                name: pytest.approx(values[0]) for name, values in alone.items()
            }


def test_manifold_scores_of_identical_and_of_distant_sets():
    """A ball has its centre and its k neighbours in it, surface included."""
    x = RNG(0).normal(size=(40, 5)).astype(np.float32) * 100 + 1000
    same, apart = neighbours.manifold_scores(x, x[::-1]), neighbours.manifold_scores(x, x + 1e6)
    ball = neighbours.BALL
    assert {name: value[0] for name, value in same.items()} == {
        "precision": 1, "recall": 1, "density": pytest.approx((ball + 1) / ball), "coverage": 1
    }  # fmt: skip
    assert not any(value[0] for value in apart.values())


def test_manifold_scores_of_one_picture_again_and_again():
    """Precise, and of no diversity. A constant reference is hit by nothing but itself."""
    y = RNG(0).normal(size=(30, 4))
    collapsed = neighbours.manifold_scores(np.repeat(y[:1], 20, 0), y)
    assert collapsed["precision"] == 1 and collapsed["recall"] == 1 / 30 and collapsed["coverage"] < 0.5
    constant = np.ones((10, 4))
    assert neighbours.manifold_scores(y, constant)["precision"] == 0
    assert neighbours.manifold_scores(constant, constant)["recall"] == 1


def test_a_ball_without_extent_has_what_is_equal_in_it():
    """Of pictures that are there six times, whose distances are zero but for rounding."""
    x = RNG(0).normal(size=(50, 37)).astype(np.float32) * 1000 + 300
    often = np.repeat(x, 6, 0)
    assert neighbours.manifold_scores(often, RNG(1).permutation(x))["recall"] == 1
    few = neighbours.manifold_scores(RNG(1).permutation(x), often)
    assert few["precision"] == 1 and few["coverage"] == 1


@pytest.mark.parametrize("seed", range(6))
def test_the_surface_of_a_ball_is_in_it_however_distances_are_rounded(seed):
    """Samples that are in the reference are on the surfaces of their neighbours' balls."""
    y = RNG(seed).normal(size=(60, 37)) * 100 + 3
    found, right = neighbours.manifold_scores(y[:13], y), brute(y[:13], y)
    assert {name: values[0] for name, values in found.items()} == pytest.approx(right)


def test_manifold_scores_do_not_notice_order_rotation_or_scale():
    x, y = RNG(0).normal(size=(30, 4)) + 0.5, RNG(1).normal(size=(35, 4))
    right, turn = neighbours.manifold_scores(x, y), np.linalg.qr(RNG(2).normal(size=(4, 4)))[0]
    for a, b in ((x[::-1], y), (x @ turn, y @ turn), (7 * x, 7 * y), (x + 100, y + 100), (x, RNG(3).permutation(y))):
        assert neighbours.manifold_scores(a, b) == {name: pytest.approx(value) for name, value in right.items()}


def test_density_of_one_distribution_is_one_on_average():
    found = [neighbours.manifold_scores(*RNG(seed).normal(size=(2, 60, 3)))["density"][0] for seed in range(60)]
    assert np.mean(found) == pytest.approx(1, abs=0.03)


def test_copies_are_told_from_new_examples():
    train, held_out = RNG(0).normal(size=(200, 20)), RNG(1).normal(size=(200, 20))
    near = train[:50] + 1e-3 * RNG(2).normal(size=(50, 20))
    twice = np.concatenate([train, train])  # a training set that has each example twice
    assert neighbours.is_copy(train, train).all() and neighbours.is_copy(near, train).all()
    assert neighbours.is_copy(train, twice).all() and not neighbours.is_copy(held_out, train).any()
    mixed = neighbours.memorisation(np.concatenate([near, held_out[:150]]), train, held_out)
    assert mixed == {"memorised": 0.25, "held_out": 0}


def test_a_third_of_the_distance_to_the_second_is_the_boundary():
    train = np.array([[0.0, 0], [4, 0], [100, 0]])
    along = np.array([[0.99, 0], [1.01, 0], [3.01, 0], [2, 0], [-1.9, 0], [-2.1, 0]])
    assert neighbours.is_copy(along, train).tolist() == [True, False, True, False, True, False]


def test_held_out_data_are_copies_as_often_as_chance_has_it():
    """In one dimension gaps say how often; a sampler that draws from the training set always is one, and one that draws
    anew has the held-out rate."""
    train, held_out, new = RNG(0).normal(size=(3, 2000, 2))
    found = neighbours.memorisation(new, train, held_out)
    assert 0.05 < found["held_out"] < 0.2 and found["memorised"] == pytest.approx(found["held_out"], abs=0.03)


def test_nearest_are_those_of_all_distances():
    x, y = RNG(0).normal(size=(9, 3)) + 50, RNG(1).normal(size=(12, 3)) + 50
    x[3] = y[7]
    every = np.linalg.norm(x[:, None] - y, axis=-1)
    for k in (1, 4, 12):
        distances, indices = neighbours.nearest(x, y, k)
        np.testing.assert_array_equal(indices, np.argsort(every, axis=1)[:, :k])
        np.testing.assert_allclose(distances, np.sort(every, axis=1)[:, :k], atol=1e-12)
        assert distances[3, 0] == 0


@pytest.mark.parametrize("n", [1, 2, 7])
def test_vendi_counts_what_is_different(n):
    """n orthogonal directions, of any length and as often as you like, are n; opposite ones are one direction each."""
    x = np.repeat(np.eye(9)[:n], 4, axis=0) * RNG(0).uniform(1, 5, (4 * n, 1))
    assert diversity.vendi_score(x) == pytest.approx(n)
    assert diversity.vendi_score(np.concatenate([x, -x])) == pytest.approx(n)


@pytest.mark.parametrize(("n", "d"), [(8, 5), (5, 8), (6, 6)])
def test_vendi_is_the_entropy_of_the_cosines(n, d):
    x = RNG(n).normal(size=(n, d)).astype(np.float32)
    k = np.array([[a @ b / np.sqrt((a @ a) * (b @ b)) for b in x] for a in x.astype(np.float64)])
    shares = np.clip(np.linalg.eigvalsh(k / n), 1e-300, None)
    right = np.exp(-np.sum(shares * np.log(shares)))
    some = np.array([np.ones(n, bool), np.arange(n) < 2])
    assert diversity.vendi_score(x)[0] == pytest.approx(right, rel=1e-6)
    assert diversity.vendi_score(x, some)[1] == pytest.approx(diversity.vendi_score(x[:2])[0])
    assert 1 <= diversity.vendi_score(x)[0] <= min(n, d)


def test_vendi_of_a_vector_of_zeros_is_an_error():
    x = np.ones((5, 3))
    x[2] = 0
    with pytest.raises(ValueError, match="sample 2 has no features but zeros"):
        diversity.vendi_score(x)


def test_inception_score_of_known_distributions():
    """Classes that are sure and even are as many as there are; what is always the same is 1; and two of four, each
    even between two, are 2."""
    assert diversity.inception_score(np.eye(7)[np.arange(70) % 7]) == pytest.approx(7)
    assert diversity.inception_score(np.full((9, 5), 0.2)) == pytest.approx(1)
    assert diversity.inception_score(np.array([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]] * 3)) == pytest.approx(2)


def test_inception_score_is_the_mean_of_its_splits_in_order():
    p = RNG(0).dirichlet(np.ones(4), size=25).astype(np.float32)
    score = lambda p: np.exp(np.mean(np.sum(p * (np.log(p) - np.log(p.mean(0))), axis=1)))
    right = np.mean([score(p[:10]), score(p[10:20]), score(p[20:])])
    assert diversity.inception_score(p, split=10) == pytest.approx(right, rel=1e-5)
    chosen = np.arange(25) % 2 == 0
    assert diversity.inception_score(p, chosen[None]) == pytest.approx(score(p[chosen]), rel=1e-5)
    for wrong in (p * 2, p - 0.5):
        with pytest.raises(ValueError, match="class probabilities"):
            diversity.inception_score(wrong)


def test_halves_are_the_whole_and_then_halves_that_differ():
    found = parts.halves(41, 50)
    assert found[0].all() and (found[1:].sum(1) == 20).all() and len(np.unique(found, axis=0)) == 51
    np.testing.assert_allclose(found[1:].mean(0), 20 / 41, atol=0.25)
    np.testing.assert_array_equal(found, parts.halves(41, 50))


@pytest.mark.parametrize("n", [40, 41])
def test_the_spread_of_a_mean_is_that_of_the_textbook(n):
    x = RNG(0).exponential(size=n)
    means = np.array([x[part].mean() for part in parts.halves(n, 4000)])
    assert parts.spread(means) == pytest.approx(1.96 * x.std(ddof=1) / np.sqrt(n), rel=0.05)
    assert np.isnan(parts.spread(means[:2])) and parts.spread(np.ones(9)) == 0


@pytest.mark.parametrize("name", ["frechet", "kid", "recall", "coverage", "vendi"])
def test_the_interval_is_as_wide_as_new_samples_differ(name):
    """A score of 80 samples, against how much that of 80 others differs, 60 times."""
    y, metric = RNG(0).normal(size=(300, 4)), {"recall": "neighbours", "coverage": "neighbours"}.get(name, name)
    draw = lambda seed: RNG(seed).normal(size=(80, 4)) * 1.2 + 0.3
    again = [scores.METRICS[metric](draw(seed), y, None)[name][0] for seed in range(1, 61)]
    within = [parts.spread(scores.METRICS[metric](draw(seed), y, parts.halves(80, 30))[name]) for seed in range(1, 9)]
    assert np.mean(within) == pytest.approx(1.96 * np.std(again, ddof=1), rel=0.4)


def test_every_metric_is_in_the_table_and_has_the_scores_of_all_parts():
    x, y = RNG(0).uniform(size=(24, 5)), RNG(1).uniform(size=(30, 5))
    x, y = x / x.sum(1, keepdims=True), y / y.sum(1, keepdims=True)  # which are probabilities as well
    some = parts.halves(24, 3)
    for metric in scores.METRICS.values():
        whole, found = metric(x, y, None), metric(x, y, some)
        assert whole.keys() == found.keys()
        for name, values in found.items():
            assert values.shape == (4,) and whole[name].shape == (1,) and values[0] == pytest.approx(whole[name][0])
    assert {name for names in scores.OF_KIND.values() for name in names} == scores.METRICS.keys()


@pytest.mark.parametrize("metric", scores.METRICS)
def test_no_metric_takes_what_is_not_finite_or_too_few(metric):
    good = np.full((12, 4), 0.25) + np.eye(12, 4) * 1e-6
    bad = good.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        scores.METRICS[metric](bad, good, None)
    with pytest.raises(ValueError, match=r"at least \d vectors"):
        scores.METRICS[metric](good[:0], good, None)
    if metric not in ("vendi", "class_score"):
        for x, y in ((bad, good), (good, bad)):
            with pytest.raises(ValueError, match="not finite"):
                scores.METRICS[metric](x, y, None)
        with pytest.raises(ValueError, match="features"):
            scores.METRICS[metric](good[:, :3], good, None)
        with pytest.raises(ValueError, match=r"at least \d vectors"):
            scores.METRICS[metric](good, good[:1], None)


def test_all_scores_stand_beside_those_of_as_many_real_examples():
    """The reference's halves, if it has no more than that; and of statistics, all of it."""
    x, y = RNG(0).normal(size=(20, 3)) + 3, RNG(1).normal(size=(100, 3))
    order = np.random.default_rng(0).permutation(100)
    found = scores.scored(x, y, rounds=5)
    assert [*found] == ["frechet", "kid", "precision", "recall", "density", "coverage", "vendi"]
    assert found["frechet"]["value"] == pytest.approx(frechet.frechet_distance(x, y))
    assert found["frechet"]["real"] == pytest.approx(frechet.frechet_distance(y[order[:20]], y[order[20:]]))
    assert 0 < found["frechet"]["residual"] < 1e-12 and "residual" not in found["kid"]
    assert found["kid"]["real"] == pytest.approx(mmd.kernel_distance(y[order[:20]], y[order[20:]])[0])
    assert all(found[name]["within"] > 0 for name in ("frechet", "kid", "vendi"))
    many = scores.scored(np.tile(x, (10, 1)), y, rounds=0)
    assert many["kid"]["real"] == pytest.approx(mmd.kernel_distance(y[order[:50]], y[order[50:]])[0])
    assert np.isnan(many["kid"]["within"])
    published = frechet.moments_of(np.ones(3), np.eye(3))
    known = scores.scored(x, y, rounds=0, statistics=published)
    assert known["frechet"]["value"] == pytest.approx(frechet.frechet(frechet.moments(x), published).value)
    real = frechet.frechet(frechet.moments(y[order[:20]]), published).value
    assert known["frechet"]["real"] == pytest.approx(real)
    assert all(known["kid"][key] == pytest.approx(found["kid"][key]) for key in ("value", "real"))
    assert [*scores.scored(x, y, "spatial", 0)] == ["spatial_frechet"]


def test_too_few_pictures_are_an_error_and_few_are_a_warning():
    x = RNG(0).normal(size=(scores.FEWEST, 3))
    assert scores.scored(x, x, rounds=4)["recall"]["value"] == 1
    for a, b, name in ((x[1:], x, "samples"), (x, x[1:], "reference")):
        with pytest.raises(ValueError, match=f"the {name} are 11 pictures, and scores take at least 12"):
            scores.scored(a, b)
    assert scores.warnings(1000, 100) == []
    assert "uncertain" in scores.warnings(999, 100)[0] and "singular" in scores.warnings(100, 100)[0]
