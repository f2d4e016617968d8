"""Batches of one size, so that there is one program, which have every row once and in order."""

import types

import numpy as np
import pytest

from dit_jax.sampling.draw import equal_batches

every_mesh = pytest.mark.parametrize("axes", [(1, 1), (8, 1), (2, 4), (1, 3)])
every_size = pytest.mark.parametrize(("num", "batch"), [(1, 1), (1, 64), (5, 2), (24, 8), (25, 8), (7, 3), (100, 250)])


def batches(num: int, batch: int, axes: tuple[int, int]) -> tuple[list[np.ndarray], int]:
    """The batches on a mesh of these sizes, and how many devices share one."""
    mesh = types.SimpleNamespace(shape={"data": axes[0], "fsdp": axes[1], "context": 1, "tensor": 1})
    return [*equal_batches(num, batch, mesh)], axes[0] * axes[1]


@every_mesh
@every_size
def test_every_row_comes_once_and_in_order_and_then_the_last_one_until_the_batch_is_full(num, batch, axes):
    found, _ = batches(num, batch, axes)
    rows = np.concatenate(found)
    np.testing.assert_array_equal(rows[:num], np.arange(num))
    assert set(rows[num:].tolist()) <= {num - 1} and len(rows) - num < len(found[0])


@every_mesh
@every_size
def test_all_batches_are_of_the_least_size_that_the_mesh_shares_evenly(num, batch, axes):
    """At least what is asked for, and no more than all rows need."""
    found, devices = batches(num, batch, axes)
    (size,) = {len(rows) for rows in found}
    assert size % devices == 0 and 0 <= size - min(num, batch) < devices
