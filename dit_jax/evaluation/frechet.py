"""The Frechet distance between two sets of vectors, each taken as a Gaussian (Heusel et al. 2017)."""

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^{1/2}), for a [n, d] and b [m, d] with covariances A and B; float64.

    tr (A B)^{1/2} is that of (A^{1/2} B A^{1/2})^{1/2}, a symmetric matrix: eigenvalues, and no iteration to fail.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    gap = a.mean(0) - b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_b @ root), 0)).sum()
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)
