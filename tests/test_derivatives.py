"""Forward derivatives are JAX's own, and whoever has a kernel without them can ask while it is traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.diffusion.derivatives import forward_mode, jvp, linearize


def cubed(asked: list):
    def function(x):
        asked.append(forward_mode())
        return x**3

    return function


def test_derivatives_are_those_of_a_cube():
    x, v = jnp.array([1.0, 2.0]), jnp.array([1.0, -1.0])
    asked: list = []
    value, slope = jvp(cubed(asked), (x,), (v,))
    np.testing.assert_allclose(value, [1, 8])
    np.testing.assert_allclose(slope, [3, -12])
    value, derivative = linearize(cubed(asked), x)
    np.testing.assert_allclose(derivative(v), [3, -12])
    assert asked == [True, True]


def test_reverse_derivatives_and_what_comes_after_are_asked_nothing():
    asked: list = []
    jax.grad(lambda x: cubed(asked)(x))(2.0)
    with pytest.raises(ZeroDivisionError):
        jvp(lambda x: 1 / 0, (1.0,), (1.0,))
    cubed(asked)(1.0)
    assert asked == [False, False]
