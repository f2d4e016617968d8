"""How diverse samples are by themselves: the Vendi score of features (Friedman & Dieng 2023, arXiv 2210.02410) and the
inception score of class probabilities (Salimans et al. 2016, arXiv 1606.03498)."""

import numpy as np

from dit_jax.evaluation.parts import Parts, checked_parts

SPLIT = 5000  # samples of which each inception score is taken, as ADM does


def vendi_score(samples: np.ndarray, parts: Parts | None = None) -> np.ndarray:
    """The effective number of different vectors in each part of samples [n, d]: [b], from 1 to the smaller of n and d.

    It is the exponential of the entropy of the eigenvalues of K / n, where K has the cosines of all pairs; in float64.
    Raises ValueError for a vector of zeros, which has no direction, and for what is not finite.
    """
    parts = checked_parts(samples, samples, parts, least=1)
    norms = np.linalg.norm(samples.astype(np.float64), axis=1, keepdims=True)
    if not norms.all():
        raise ValueError(f"sample {np.argmin(norms)} has no features but zeros, and so no cosine with the others")
    return np.array([_entropy_rank(samples[part] / norms[part]) for part in parts])


def _entropy_rank(directions: np.ndarray) -> float:
    """K / n = X X^T / n and X^T X / n have the same eigenvalues but for zeros: the smaller is taken apart."""
    n, d = directions.shape
    shares = np.linalg.eigvalsh((directions.T @ directions if d < n else directions @ directions.T) / n)
    shares = shares[shares > 0]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def inception_score(probabilities: np.ndarray, parts: Parts | None = None, split: int = SPLIT) -> np.ndarray:
    """exp(mean KL(p(y|x) | mean p(y|x))) of the classes of each part of samples, [n, K]: [b], from 1 to K; in float64.

    As ADM, of each `split` samples in a row, and the mean of these. Raises ValueError for what is no distribution.
    """
    parts = checked_parts(probabilities, probabilities, parts, least=1)
    if probabilities.min() < 0 or not np.allclose(probabilities.sum(1), 1, atol=1e-4):
        raise ValueError("class probabilities should be at least 0, and 1 in sum")

    def score(p: np.ndarray) -> float:
        ratios = np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(p.mean(0), 1e-300))
        return float(np.exp(np.mean(np.sum(p * ratios, axis=1))))

    def whole(p: np.ndarray) -> float:
        return float(np.mean([score(p[i : i + split].astype(np.float64)) for i in range(0, len(p), split)]))

    return np.array([whole(probabilities[part]) for part in parts])
