"""The kernel inception distance: the squared maximum mean discrepancy of two sets of features under a polynomial kernel
(Binkowski et al. 2018, arXiv 1801.01401)."""

import numpy as np

from dit_jax.evaluation.parts import Parts, checked_parts

BLOCK = 1024  # rows of a kernel matrix that are held at a time


def kernel_distance(samples: np.ndarray, reference: np.ndarray, parts: Parts | None = None) -> np.ndarray:
    """The unbiased estimate for each part of samples [n, d], against all of reference [m, d]: [b]; in float64.

    k(x, y) = (x . y / d + 1)^3. All pairs are taken, none with itself, so that no subsets are drawn as the paper does,
    whose mean this is. It may be below 0, as it is in half of all cases where both sets are of one distribution.
    Raises ValueError for fewer than two vectors, and for what is not finite.
    """
    parts = checked_parts(samples, reference, parts, least=2)
    x, y, inside = np.asarray(samples, np.float64), np.asarray(reference, np.float64), parts.astype(np.float64)
    every, count, m = np.ones((1, len(y))), inside.sum(1), len(y)
    alike = _without_diagonal(x, inside) / (count * (count - 1))
    across = _sums(x, y, inside, every) / (count * m)
    return alike + _without_diagonal(y, every) / (m * (m - 1)) - 2 * across


def _kernel(products: np.ndarray, size: int) -> np.ndarray:
    return (products / size + 1) ** 3


def _sums(x: np.ndarray, y: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Of the kernel matrix of x and y, the sum over the rows and columns that each of b pairs of weights takes: [b]."""
    total = np.zeros(len(rows))
    for i in range(0, len(x), BLOCK):
        block = _kernel(x[i : i + BLOCK] @ y.T, x.shape[1])
        total += np.sum(rows[:, i : i + BLOCK].T * (block @ columns.T), axis=0)
    return total


def _without_diagonal(x: np.ndarray, inside: np.ndarray) -> np.ndarray:
    return _sums(x, x, inside, inside) - inside @ _kernel(np.sum(x**2, axis=1), x.shape[1])
