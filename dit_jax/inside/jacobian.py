"""The basis of a denoiser: the directions in which its output changes most with its input.

The Jacobian of the best estimate of x is the covariance of x given z, times alpha / sigma^2: symmetric, and its top
eigenvectors are what is still open at a level (geometry-adaptive harmonics, Kadkhodaie et al. 2024, arXiv 2310.02557).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.derivatives import linearize


def top_directions(function: Callable[[Array], Array], x: Array, count: int, steps: int = 20) -> tuple[Array, Array]:
    """(values [count], directions [count, *shape]) of the Jacobian J of function: [*shape] -> [*shape] at x: its
    largest singular values and their right singular vectors, which are eigenvalues and eigenvectors where it is
    symmetric. By power iteration of J^T J on a subspace, with one jvp and one vjp a direction and step."""
    _, forward = linearize(function, x)
    backward = jax.linear_transpose(forward, x)
    flat = lambda vectors: vectors.reshape(len(vectors), -1)
    orthonormal = lambda vectors: jnp.linalg.qr(flat(vectors).T)[0].T.reshape(vectors.shape)
    image = jax.vmap(forward)
    pull = lambda vectors: jax.vmap(lambda vector: backward(vector)[0])(image(vectors))

    vectors = orthonormal(jax.random.normal(jax.random.key(0), (count, *x.shape)))
    vectors = jax.lax.fori_loop(0, steps, lambda _, vectors: orthonormal(pull(vectors)), vectors)
    _, values, mixed = jnp.linalg.svd(flat(image(vectors)).T, full_matrices=False)
    return values, (mixed @ flat(vectors)).reshape(vectors.shape)
