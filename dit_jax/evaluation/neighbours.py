"""Scores of nearest neighbours: precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991), density and coverage
(Naeem et al. 2020, arXiv 2002.09797), and how many samples are copies of training examples."""

from collections.abc import Iterator, Sequence

import numpy as np

from dit_jax.evaluation.parts import Parts, checked_parts

MANIFOLD, BALL = 3, 5  # neighbours: precision and recall's, as ADM takes them; density and coverage's
COPY = 1 / 3  # of the distance to the second nearest training example, at which a sample is a copy of the nearest
BLOCK = 1024  # rows of a matrix of distances that are held at a time
ROUNDING = 1e-12  # of the largest squared norm: what two equal squared distances may differ by


def manifold_scores(samples: np.ndarray, reference: np.ndarray, parts: Parts | None = None) -> dict[str, np.ndarray]:
    """precision, recall, density and coverage of each part of samples [n, d], against reference [m, d]: {name: [b]}.

    A vector's ball reaches to its k-th nearest neighbour in its own set, surface included; k is MANIFOLD for the first
    two and BALL for the others. precision: the share of samples in a ball of the reference's. recall: the share of the
    reference in a ball of the samples'. density: how many balls of the reference a sample is in, over k; 1 on average
    where both sets are of one distribution, and without an upper bound. coverage: the share of the reference's balls
    that have a sample in them. All but density are in [0, 1].

    In float64, a block of rows at a time; ADM's evaluator takes its distances in float16. Raises ValueError for fewer
    than BALL + 1 vectors, and for what is not finite.
    """
    parts = checked_parts(samples, reference, parts, least=BALL + 1)
    x, y = _centred(samples, reference)
    slack = ROUNDING * max(np.sum(x**2, 1).max(), np.sum(y**2, 1).max())
    everything = np.ones((1, len(y)), bool)
    manifold, ball = _radii(y, everything, (MANIFOLD, BALL))[0] + slack
    reach = _radii(x, parts, (MANIFOLD,))[:, 0] + slack

    is_precise, density = np.zeros(len(x), bool), np.zeros(len(x))
    is_recalled, nearest = np.zeros((len(parts), len(y)), bool), np.full((len(parts), len(y)), np.inf)
    for rows, squared in _squared_distances(x, y):
        is_precise[rows] = np.any(squared <= manifold, axis=1)
        density[rows] = np.sum(squared <= ball, axis=1) / BALL
        for b, part in enumerate(parts[:, rows]):
            own = squared[part]
            is_recalled[b] |= np.any(own <= reach[b, rows][part][:, None], axis=0)
            nearest[b] = np.minimum(nearest[b], own.min(0, initial=np.inf))
    return {
        "precision": np.array([is_precise[part].mean() for part in parts]),
        "recall": is_recalled.mean(1),
        "density": np.array([density[part].mean() for part in parts]),
        "coverage": np.mean(nearest <= ball, axis=1),
    }


def is_copy(samples: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Which of samples [n, d] are nearer than COPY times the second nearest of training [m, d] to the nearest: [n].

    One that is a training example to the last bit is a copy however often that is in the set. (Yoon et al. 2023, and
    Gu et al. 2023, arXiv 2310.02664.) Raises ValueError for fewer than two vectors, and for what is not finite.
    """
    checked_parts(samples, training, np.ones((1, len(samples)), bool), least=1)
    if len(training) < 2:
        raise ValueError("copies are told by the two nearest training examples, and there is one")
    first, second = nearest(samples, training, 2)[0].T
    return (first < COPY * second) | (first == 0)


def memorisation(samples: np.ndarray, training: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """The share of samples that are copies of training examples, and of held-out data, which are so by chance: a model
    has memorised as far as the first is above the second."""
    return {
        "memorised": float(is_copy(samples, training).mean()),
        "held_out": float(is_copy(held_out, training).mean()),
    }


def nearest(x: np.ndarray, y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances from x [n, d] to the k nearest of y [m, d], in order, and which these are: two of [n, k]; k <= m.

    Distances are the norms of differences, so that what is equal has 0.
    """
    a, b = _centred(x, y)
    indices = np.zeros((len(a), k), int)
    for rows, squared in _squared_distances(a, b):
        indices[rows] = np.argpartition(squared, list(range(k)), axis=1)[:, :k]
    distances = np.stack([np.linalg.norm(a - b[column], axis=1) for column in indices.T], axis=1)
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(distances, order, 1), np.take_along_axis(indices, order, 1)


def _centred(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both less the mean of y, in float64: distances are the same, and products round less."""
    mean = y.mean(0, dtype=np.float64)
    return x - mean, y - mean


def _squared_distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of x [n, d], and their squared distances to y [m, d]: [rows, m], block after block."""
    norms = np.sum(y**2, axis=1)
    for i in range(0, len(x), BLOCK):
        rows = x[i : i + BLOCK]
        squared = rows @ y.T
        squared *= -2
        squared += np.sum(rows**2, axis=1)[:, None] + norms
        yield slice(i, i + len(rows)), np.maximum(squared, 0, out=squared)


def _radii(x: np.ndarray, parts: Parts, ks: Sequence[int]) -> np.ndarray:
    """Squared distances of x [n, d] to the k-th nearest other vector in the same part: [b, ks, n]; 0 outside a part."""
    found = np.zeros((len(parts), len(ks), len(x)))
    for rows, squared in _squared_distances(x, x):
        for b, part in enumerate(parts):
            own = np.flatnonzero(part[rows])
            inside = squared[own] if part.all() else squared[np.ix_(own, np.flatnonzero(part))]
            found[b][:, rows.start + own] = np.partition(inside, ks, axis=1)[:, ks].T  # the nearest, 0, is itself
    return found
