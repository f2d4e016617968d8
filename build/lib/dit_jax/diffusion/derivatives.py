"""Forward derivatives of a network: jax.jvp and jax.linearize for functions that call one.

Fused attention kernels come with a backward pass alone. Attention asks `forward_mode` while it is traced, and computes
its scores where forward derivatives are wanted.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax

_FORWARD = contextvars.ContextVar("forward", default=False)


def forward_mode() -> bool:
    """Whether what is being traced is differentiated by `jvp` or `linearize` of this module."""
    return _FORWARD.get()


def jvp(function: Callable, primals: tuple, tangents: tuple) -> tuple[Any, Any]:
    """jax.jvp(function, primals, tangents), of a function that calls a network."""
    with _forward():
        return jax.jvp(function, primals, tangents)


def linearize(function: Callable, *primals: Any) -> tuple[Any, Callable]:
    """jax.linearize(function, *primals), of a function that calls a network."""
    with _forward():
        return jax.linearize(function, *primals)


@contextlib.contextmanager
def _forward() -> Iterator[None]:
    token = _FORWARD.set(True)
    try:
        yield
    finally:
        _FORWARD.reset(token)
