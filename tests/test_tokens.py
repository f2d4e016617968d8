"""Tokens: which values a patch holds, where it is, and what attention can know of that."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.network.tokens import (
    COLUMN,
    ROW,
    TIME,
    grid_shape,
    patchify,
    positions,
    rotary,
    rotate,
    sincos,
    unpatchify,
)

GRIDS = [((12,), (3,)), ((4, 6), (2, 2)), ((6, 4), (3, 1)), ((2, 4, 6), (1, 2, 3)), ((4, 2, 2), (2, 1, 2))]
every_grid = pytest.mark.parametrize(("shape", "patch"), GRIDS, ids=map(str, GRIDS))


def pixels(shape, channels=3):
    return np.arange(2 * math.prod(shape) * channels).reshape(2, *shape, channels)


@every_grid
def test_unpatchify_undoes_patchify(shape, patch):
    x = pixels(shape)
    tokens = patchify(jnp.asarray(x), patch)
    assert tokens.shape == (2, math.prod(grid_shape(shape, patch)), math.prod(patch) * 3)
    np.testing.assert_array_equal(unpatchify(tokens, shape, patch), x)


@every_grid
def test_a_patch_holds_the_pixels_of_its_place(shape, patch):
    x = pixels(shape)
    tokens = patchify(jnp.asarray(x), patch)
    corners = itertools.product(*(range(0, size, p) for size, p in zip(shape, patch, strict=True)))
    for k, corner in enumerate(corners):
        window = tuple(slice(start, start + p) for start, p in zip(corner, patch, strict=True))
        np.testing.assert_array_equal(tokens[:, k], x[:, *window].reshape(2, -1))


def test_a_patch_must_divide_every_axis():
    assert grid_shape((4, 6), (2, 3)) == (2, 2)
    with pytest.raises(ValueError, match=r"\(4, 4\).*\(8, 6\)"):
        grid_shape((8, 6), (4, 4))


def test_positions_are_row_major_and_name_their_axes():
    np.testing.assert_array_equal(
        positions((2, 3), (ROW, COLUMN)), [(0, row, column) for row in range(2) for column in range(3)]
    )
    np.testing.assert_array_equal(positions((3,), (TIME,)), [(0, 0, 0), (1, 0, 0), (2, 0, 0)])
    clip = positions((2, 2, 3), (TIME, ROW, COLUMN))
    np.testing.assert_array_equal(clip, list(itertools.product(range(2), range(2), range(3))))


@every_grid
def test_token_k_is_at_position_k(shape, patch):
    """The pixel at a patch's corner, found from its position alone, is the first value of its token."""
    axes = {1: (TIME,), 2: (ROW, COLUMN), 3: (TIME, ROW, COLUMN)}[len(shape)]
    x, where = pixels(shape), positions(grid_shape(shape, patch), axes).astype(int)[:, list(axes)]
    corners = x[0][tuple((where * np.array(patch)).T)]
    np.testing.assert_array_equal(patchify(jnp.asarray(x), patch)[0, :, :3], corners)


def test_sincos_is_the_scalar_formula():
    """DiT's table: columns then rows, each with sines then cosines of the position times 10000^(-i / quarter)."""
    where, width = positions((2, 3), (ROW, COLUMN)), 16
    wanted = [
        [
            wave(token[axis] / 10000 ** (i / (width // 4)))
            for axis in (COLUMN, ROW)
            for wave in (math.sin, math.cos)
            for i in range(width // 4)
        ]
        for token in where.tolist()
    ]
    np.testing.assert_allclose(sincos(where, width), wanted, atol=1e-6)


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def scores(where, q, k):
    turn = [jnp.asarray(table) for table in rotary(where, q.shape[-1])]
    return jnp.einsum("bihd,bjhd->bhij", rotate(q, *turn), rotate(k, *turn))


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("float64", 1e-12)])
def test_rotary_scores_depend_on_differences_of_positions_only(dtype, error, double):
    rng = np.random.default_rng(0)
    where = rng.integers(0, 20, size=(7, 3)).astype(np.float32)
    q, k = (jnp.asarray(rng.normal(size=(2, 7, 3, 16)), dtype) for _ in range(2))
    moved, stayed = scores(where + np.array([5, 3, 11], np.float32), q, k), scores(where, q, k)
    assert moved.dtype == stayed.dtype == dtype
    np.testing.assert_allclose(moved, stayed, rtol=0, atol=error)


@pytest.mark.parametrize("head_width", [6, 12, 72])
def test_an_image_of_one_row_is_a_sound_but_for_which_pairs_turn(head_width, double):
    """A row's tokens lie along COLUMN, a sound's along TIME, and each axis turns pairs of its own. Where the head width
    is a multiple of 6, all axes turn as many, by the same angles: with the pairs of these two swapped, scores are the
    same. Elsewhere TIME turns one or two more, and no swap can do that."""
    rng, pairs = np.random.default_rng(0), head_width // 6
    row, sound = positions((1, 9), (ROW, COLUMN)), positions((9,), (TIME,))
    q, k = (rng.normal(size=(2, 9, 3, head_width)) for _ in range(2))
    half = np.arange(head_width // 2).reshape(3, pairs)[[COLUMN, ROW, TIME]].ravel()
    swap = np.concatenate([half, head_width // 2 + half])
    found = scores(row, jnp.asarray(q[..., swap]), jnp.asarray(k[..., swap]))
    np.testing.assert_allclose(found, scores(sound, jnp.asarray(q), jnp.asarray(k)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("head_width", "more"), [(6, 0), (8, 1), (10, 2), (64, 2), (72, 0)])
def test_time_has_the_pairs_that_are_left_over(head_width, more):
    where = np.eye(3, dtype=np.float32)  # each token is one step along one axis
    turned = np.count_nonzero(rotary(where, head_width)[1], axis=1)
    assert turned.tolist() == [head_width // 6 + more, head_width // 6, head_width // 6]


@pytest.mark.parametrize("axis", [TIME, ROW, COLUMN])
def test_rotary_scores_depend_on_every_axis(axis):
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 2, 1, 12)), jnp.float32) for _ in range(2))
    together, apart = np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32)
    apart[1, axis] = 3
    assert abs(scores(apart, q, k)[0, 0, 0, 1] - scores(together, q, k)[0, 0, 0, 1]) > 1e-2


@pytest.mark.parametrize("head_width", [6, 16, 64, 72])
def test_rotary_turns_every_pair_and_keeps_its_length(head_width):
    where = positions((3, 4), (ROW, COLUMN))
    cos, sin = rotary(where, head_width)
    assert cos.shape == sin.shape == (12, head_width // 2)
    np.testing.assert_allclose(cos**2 + sin**2, 1, atol=1e-6)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 12, 2, head_width)), jnp.float32)
    turned = rotate(x, jnp.asarray(cos), jnp.asarray(sin))
    np.testing.assert_allclose(jnp.sum(turned**2, -1), jnp.sum(x**2, -1), rtol=1e-5)
    np.testing.assert_array_equal(turned[:, 0], x[:, 0])  # position 0 is not turned


def test_widths_that_cannot_hold_positions_are_errors():
    where = positions((2, 2), (ROW, COLUMN))
    with pytest.raises(ValueError, match="divisible by 4, not 10"):
        sincos(where, 10)
    for head_width in (4, 7):
        with pytest.raises(ValueError, match=f"at least 6, not {head_width}"):
            rotary(where, head_width)
