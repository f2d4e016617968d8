"""The Frechet distance between two sets of vectors, each taken as a Gaussian (Heusel et al. 2017, arXiv 1706.08500)."""

from typing import NamedTuple

import numpy as np

LIMIT = 1e-6  # of a residual: what is further off is no result
LARGEST = 1e70  # of a feature: the fourth power of what is larger is not finite
BLOCK = 4096  # rows that are decomposed at a time


class Moments(NamedTuple):
    """A Gaussian of d dimensions. mean [d]; root [r, d], of which the covariance is root^T root; residual: how far it
    is from that, relative to it."""

    mean: np.ndarray
    root: np.ndarray
    residual: float


class Distance(NamedTuple):
    """value: at least 0. residual: its numerical error relative to the variance of both sets, as far as it shows."""

    value: float
    residual: float


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|mean a - mean b|^2 + tr(A + B - 2 (A B)^{1/2}), for a [n, d] and b [m, d] with covariances A and B; in float64.

    Raises ValueError for fewer than two rows, for what is not finite, and for a result that is not exact to LIMIT.
    """
    return frechet(moments(a), moments(b)).value


def frechet(a: Moments, b: Moments) -> Distance:
    """The same of two Gaussians. Raises ValueError for other dimensions, and for a result that is not exact to LIMIT.

    With A = R^T R and B = S^T S, the trace of (A B)^{1/2} is the sum of the singular values of R S^T. R and S come from
    the data by a QR decomposition, so that no square root of a matrix is taken, and none can fail. What can, the
    singular values, is held against the sum of their squares, which the matrix has without them.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"no distance is between {len(a.mean)} features and {len(b.mean)}: use those of one network")
    product = a.root @ b.root.T
    values = np.linalg.svd(product, compute_uv=False)
    residual = max(a.residual, b.residual, _relative(np.sum(values**2), np.sum(product**2)))
    if not residual <= LIMIT:
        raise ValueError(f"the Frechet distance has a residual of {residual:.1e}, and is none above {LIMIT:.0e}")
    variance = np.sum(a.root**2) + np.sum(b.root**2)
    value = np.sum((a.mean - b.mean) ** 2) + variance - 2 * values.sum()
    return Distance(max(float(value), 0.0), residual)


def moments(x: np.ndarray) -> Moments:
    """Mean and covariance of vectors [n, d], rows by blocks; over n - 1, as all FID code has it. Raises ValueError for
    fewer than two, and for what is not finite."""
    if x.ndim != 2 or len(x) < 2:
        raise ValueError(f"a covariance takes at least 2 vectors, not an array of shape {x.shape}")
    _check_values(x)
    mean, variance, root = x.mean(0, dtype=np.float64), 0.0, np.empty((0, x.shape[1]))
    for i in range(0, len(x), BLOCK):
        block = x[i : i + BLOCK] - mean
        variance += np.sum(block**2)
        root = np.asarray(np.linalg.qr(np.concatenate([root, block]), mode="r"))
    residual = _relative(np.sum(root**2), variance)
    return Moments(mean, root / np.sqrt(len(x) - 1), residual)


def moments_of(mean: np.ndarray, covariance: np.ndarray) -> Moments:
    """A Gaussian of published statistics, mean [d] and covariance [d, d]. Raises ValueError for what is no covariance.

    The root is that of the symmetric eigendecomposition. Rounding makes eigenvalues of zero negative, and they are
    zero again; if any others are, the residual says so.
    """
    mean, covariance = np.asarray(mean, np.float64), np.asarray(covariance, np.float64)
    if covariance.shape != (*mean.shape, *mean.shape) or mean.ndim != 1:
        raise ValueError(f"a mean of shape {mean.shape} has no covariance of shape {covariance.shape}")
    _check_values(mean)
    _check_values(covariance)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    root = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
    size = np.linalg.norm(covariance)
    residual = float(np.linalg.norm(root.T @ root - covariance) / size) if size else 0.0
    if not residual <= LIMIT:
        raise ValueError(f"the covariance is none: {residual:.1e} of it is not symmetric, or of negative eigenvalues")
    return Moments(mean, root, residual)


def _check_values(x: np.ndarray) -> None:
    if not np.isfinite(x).all():
        raise ValueError("features are not finite: the network or its pictures are broken")
    if x.size and float(np.abs(x).max()) > LARGEST:
        raise ValueError(f"features are above {LARGEST:.0e}, too large for float64; divide both sets by one number")


def _relative(found: float, true: float) -> float:
    return float(abs(found - true) / true) if true else float(abs(found))
