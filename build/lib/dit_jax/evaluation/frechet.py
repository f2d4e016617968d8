"""The Frechet distance between two sets of vectors, each taken as a Gaussian (Heusel et al. 2017)."""

import numpy as np


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^{1/2}), for a [n, d] and b [m, d] with covariances A and B; in float64.

    With A = R^T R and B = S^T S, the last trace is the sum of the singular values of R S^T. R and S come from the data
    by a QR decomposition, so that no square root of a matrix is taken, and none can fail.
    """
    mean_a, root_a = _gaussian(a)
    mean_b, root_b = _gaussian(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(np.sum((mean_a - mean_b) ** 2) + np.sum(root_a**2) + np.sum(root_b**2) - 2 * cross)


def _gaussian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean [d], and a matrix R with covariance R^T R."""
    x = np.asarray(x, np.float64)
    mean = x.mean(0)
    return mean, np.asarray(np.linalg.qr((x - mean) / np.sqrt(len(x) - 1), mode="r"))
