"""A checksum of an array is the same however it is laid out, and another one for any other array."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dit_jax.parallel.mesh import make_mesh
from dit_jax.training.fingerprint import checksum, host_checksum, layout, survey

RNG = np.random.default_rng(0)
FLOATS = RNG.standard_normal((8, 16)).astype(np.float32)
DTYPES = ["float32", "bfloat16", "float16", "float8_e4m3fn", "int32", "uint32", "int8", "uint8", "int16", "bool"]


def of(x) -> int:
    return int(jax.jit(checksum)(x))


@pytest.mark.parametrize("spec", [P(), P("data"), P(None, "data"), P("fsdp", "data"), P(("data", "fsdp"))])
@pytest.mark.parametrize("axes", [{"data": 8}, {"data": 2, "fsdp": 4}, {"data": 4, "fsdp": 2}])
def test_it_does_not_depend_on_the_sharding(axes, spec):
    assert of(jax.device_put(FLOATS, NamedSharding(make_mesh(**axes), spec))) == of(FLOATS)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_of_every_value_counts(dtype):
    """Whatever the type: a value that changes by one bit changes it, and so do two values that change places."""
    x = FLOATS > 0 if dtype == "bool" else np.asarray(jnp.asarray(FLOATS * 9).astype(dtype))
    sum_of, size = jax.jit(checksum), x.dtype.itemsize
    bits = [0] if dtype == "bool" else range(8 * size)
    for place in RNG.integers(x.size, size=6):
        for bit in bits:
            raw = bytearray(x.tobytes())
            raw[place * size + bit // 8] ^= 1 << bit % 8
            other = np.frombuffer(bytes(raw), x.dtype).reshape(x.shape)
            assert int(sum_of(other)) != int(sum_of(x)), (place, bit)
    assert int(sum_of(x[::-1])) != int(sum_of(x)) and int(sum_of(x[:, ::-1])) != int(sum_of(x))


@pytest.mark.parametrize("piece", [1, 7, 128, 2**16])
@pytest.mark.parametrize("dtype", [*DTYPES, "int64", "float64"])
def test_the_host_computes_the_same(dtype, piece):
    with jax.enable_x64(True):
        x = FLOATS > 0 if dtype == "bool" else np.asarray(jnp.asarray(FLOATS * 9).astype(dtype))
        for part in (x, x[:, ::3], x[0, 0], x[:0]):
            assert host_checksum(part, piece) == of(part)


def test_places_that_lie_far_apart_are_told_apart():
    """Round numbers, whose low bits are all zero, are what a sum of products would not tell apart."""
    x = np.zeros(2**12, np.float32)
    sums = set()
    for place in range(0, x.size, 2**8):
        x[:] = 0
        x[place] = 2.0
        sums.add(of(x))
    assert len(sums) == 16


def test_rows_and_columns_are_told_apart():
    assert of(FLOATS[:, :8]) != of(FLOATS[:, :8].T)


def test_eight_bytes_count_as_well():
    with jax.enable_x64(True):
        x = FLOATS.astype(np.float64)
        other = x.copy()
        other[3, 4] = np.nextafter(x[3, 4], 9)
        assert of(x) != of(other) and of(x.astype(np.complex128)) != of(x + 1e-300j)
        assert of(np.array([2**40, 1])) != of(np.array([2**41, 1]))


def test_keys_of_randomness_have_one():
    a, b = jax.random.split(jax.random.key(0))
    assert of(a) == of(a) != of(b)


def test_nothing_has_one_and_is_finite():
    found = survey({"a": jnp.zeros((0, 3)), "b": jnp.zeros((), jnp.int32)})
    assert found.fingerprints["a"] == "float32[0,3] 00000000" and found.not_finite == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_not_finite_is_named(value, dtype):
    tree = {"a": [jnp.ones(3, dtype), jnp.ones((2, 2), dtype).at[1, 0].set(value)], "b": jnp.arange(3)}
    assert survey(tree).not_finite == ["a/1"]


def test_a_layout_is_that_of_arrays_and_of_what_they_will_be():
    tree = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": (jnp.zeros(()),)}
    shapes = jax.eval_shape(lambda: tree)
    assert layout(tree) == layout(shapes) == {"a": "bfloat16[2,3]", "b/0": "float32[]"}
    assert {name: value.split()[0] for name, value in survey(tree).fingerprints.items()} == layout(tree)
