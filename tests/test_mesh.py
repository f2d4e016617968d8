"""How a state lies on a mesh: each matrix of the blocks is split along one axis, and its copies as it is itself."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding

import dit_jax as dj
from dit_jax.network.dit import SIZES
from dit_jax.network.layers import MODERN, PUBLISHED
from dit_jax.parallel.mesh import AXES, BATCH, batch_devices, check_division, make_mesh, shardings
from dit_jax.training.optimizer import make_optimizer
from dit_jax.training.step import make_init

SEVERAL = {"image": dj.streams.image((4, 4, 1), patch=2), "text": dj.streams.text(5), "label": dj.streams.label(10)}
CLIP = {"clip": dj.streams.video((2, 4, 4, 1), patch=(1, 2, 2))}
STREAMS = {"published": SEVERAL, "modern": SEVERAL, "experts": SEVERAL, "factorised": CLIP}
NETWORKS = {
    "published": {"block": PUBLISHED},
    "modern": {"block": MODERN},
    "experts": {"block": MODERN, "experts": "streams"},
    "factorised": {"block": PUBLISHED, "attention": "factorised"},
}
# Of the matrices [depth, in, out] of a block, the axis that fsdp splits: the one of the residual path, whose width all
# of them share.
ALONG = {"qkv": 1, "in": 1, "modulation": 1, "out": 2}
every_block = pytest.mark.parametrize("block", NETWORKS)


def state(block: str, optimizer: str = "adamw", width: int = 24):
    model = dj.DiT(STREAMS[block], width=width, depth=2, heads=1, **NETWORKS[block], weights="learned")
    return jax.eval_shape(make_init(model, make_optimizer(5, optimizer)), jax.random.key(0))


def pieces(tree, **axes: int) -> dict[str, tuple[int, ...]]:
    """Into how many pieces each dimension of each array is split, by its path."""
    leaves, layout = jax.tree.leaves_with_path(tree), jax.tree.leaves(shardings(tree, make_mesh(**axes)))
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(
            size // part for size, part in zip(leaf.shape, sharding.shard_shape(leaf.shape), strict=True)
        )
        for (path, leaf), sharding in zip(leaves, layout, strict=True)
    }


def kind(path: str) -> str:
    """'params/blocks/attention/text_qkv/kernel' is one of 'qkv'."""
    return path.split("/")[-2].split("_")[-1]


@every_block
@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"fsdp": 2}, {"data": 4, "fsdp": 2}])
def test_each_matrix_of_the_blocks_is_split_along_the_residual_path_alone(block, axes):
    found = collections.Counter()
    for path, parts in pieces(state(block), **axes).items():
        if "blocks/" in path and path.endswith("kernel"):
            assert parts == tuple(axes["fsdp"] if axis == ALONG[kind(path)] else 1 for axis in range(3)), path
            found[kind(path)] += 1
    assert {"qkv", "in", "out"} <= found.keys() <= ALONG.keys()
    assert ("modulation" in found) == (NETWORKS[block]["block"].modulation == "own")


@every_block
@pytest.mark.parametrize("axes", [{"fsdp": 4}, {"data": 4, "fsdp": 2}])
def test_each_matrix_around_the_blocks_is_split_once(block, axes):
    """Tables, what embeds or reads tokens and what expects a loss along what they give, but for the one number of an
    expected loss; all others along what they take."""
    found = set()
    for path, parts in pieces(state(block).params, **axes).items():
        if "blocks/" not in path and path.endswith(("kernel", "embedding")):
            name = path.split("/")[1]
            gives = name.endswith(("_embed", "_head")) or name.startswith("expected_")
            wanted = (1, axes["fsdp"]) if gives else (axes["fsdp"], 1)
            assert parts == ((1, 1) if name.startswith("expected_") and path.count("/") == 3 else wanted), path
            found.add(name)
    tokens = {f"{name}_head" for name, stream in STREAMS[block].items() if stream.head is not None}
    assert found > {*tokens, *(f"{name}_embed" for name in STREAMS[block]), "level_embed", "final_modulation"}


@every_block
def test_what_is_added_is_whole(block):
    """Biases, offsets and counts are small, and every device needs all of them."""
    whole = {
        path: parts for path, parts in pieces(state(block), fsdp=8).items() if not path.endswith(("kernel", "ing"))
    }
    assert {*whole} >= {"step", "params/params/level_embed/in/bias"}
    assert all(set(parts) <= {1} for parts in whole.values())


@every_block
def test_along_data_nothing_is_split(block):
    assert all(set(parts) <= {1} for parts in pieces(state(block), data=8).values())


@every_block
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_copies_lie_as_their_parameter_does(block, optimizer):
    """The average has one of each, Adam two, and Muon one; all else in an optimizer's state is whole."""
    parts, copies = pieces(state(block, optimizer), fsdp=8), collections.Counter()
    for path in parts:
        name = "params/params/" + path.rpartition("params/")[2]
        if name in parts:
            assert parts[path] == parts[name], path
            copies[name] += 1
        else:
            assert set(parts[path]) <= {1}, path
    parameters = {path for path in parts if path.startswith("params/")}
    muon = {path for path in parameters if optimizer == "muon" and "blocks/" in path and path.endswith("kernel")}
    assert copies == {path: 3 if path in muon else 4 for path in parameters} and len(parameters) > 10


def test_a_dimension_that_does_not_divide_stays_whole():
    """Of 12 values, 2 devices take 6 each, and 8 all; whatever else is split remains so."""
    path = "params/params/blocks/attention/qkv/kernel"
    assert pieces(state("published", width=12), fsdp=2)[path] == (1, 2, 1)
    assert pieces(state("published", width=12), fsdp=8)[path] == (1, 1, 1)
    of = lambda *shape: {"blocks": {"in": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}}}
    assert pieces(of(8, 20, 16), fsdp=8) == {"blocks/in/kernel": (1, 1, 1)}
    assert pieces(of(8, 16, 20), fsdp=8) == {"blocks/in/kernel": (1, 8, 1)}


def test_it_is_the_first_rule_that_says_where_an_array_lies():
    tree = {"a": {"kernel": jnp.zeros((8, 8))}, "b": {"kernel": jnp.zeros((8, 8))}, "c": jnp.zeros((8, 8))}
    tree["d"] = {"kernel": jnp.zeros(())}
    rules = ((r"a/kernel", ("fsdp",)), (r"kernel", (None, "fsdp")), (r"", ()))
    layout = shardings(tree, make_mesh(fsdp=8), rules)
    shard = lambda leaf, place: place.shard_shape(leaf.shape)
    assert jax.tree.map(shard, tree, layout) == {
        "a": {"kernel": (1, 8)},
        "b": {"kernel": (8, 1)},
        "c": (8, 8),
        "d": {"kernel": ()},
    }


@pytest.mark.parametrize(
    ("asked", "sizes"),
    [
        ({}, (8, 1)),
        ({"data": 8}, (8, 1)),
        ({"fsdp": 4}, (2, 4)),
        ({"fsdp": 8}, (1, 8)),
        ({"data": 2, "fsdp": -1}, (2, 4)),
        ({"data": 4, "fsdp": 2}, (4, 2)),
    ],
)
def test_a_mesh_has_all_devices_once_and_one_axis_takes_what_is_left(asked, sizes):
    mesh = make_mesh(**asked)
    assert dict(mesh.shape) == dict(zip(AXES, (*sizes, 1, 1), strict=True))
    assert sorted(device.id for device in mesh.devices.flat) == sorted(device.id for device in jax.devices())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"data": -1, "fsdp": -1}, "at most one is -1"),
        ({"fsdp": 0}, "sizes are at least 1"),
        ({"data": -2}, "sizes are at least 1"),
        ({"fsdp": 3}, "parallel.fsdp = 3.*does not fit 8 devices"),
        ({"fsdp": 16}, "does not fit 8 devices"),
        ({"data": 4}, "parallel.data = 4.*does not fit 8 devices"),
        ({"data": 4, "fsdp": 4}, "does not fit 8 devices"),
    ],
)
def test_a_mesh_that_does_not_fit_is_named(asked, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(**asked)


@pytest.mark.parametrize("axes", [{"data": 8}, {"fsdp": 8}, {"data": 2, "fsdp": 4}])
def test_a_batch_is_dealt_out_to_all_devices_each_row_once(axes):
    mesh = make_mesh(**axes)
    rows = jax.device_put(np.arange(16), NamedSharding(mesh, BATCH))
    held = [np.asarray(shard.data).tolist() for shard in rows.addressable_shards]
    assert {len(part) for part in held} == {16 // batch_devices(mesh)} == {2}
    assert sorted(row for part in held for row in part) == [*range(16)]


@pytest.mark.parametrize(("fsdp", "most"), [(2, 0.0), (8, 0.0), (16, 0.0), (128, 1e-4)])
def test_an_axis_that_divides_leaves_little_whole(fsdp, most):
    """Of DiT-XL/2, whose width is 1152 = 9 x 128: biases and what else no rule splits are not counted."""
    assert check_division(published("XL"), AbstractMesh((1, fsdp, 1, 1), AXES))["fsdp"] <= most


def test_an_axis_that_does_not_divide_is_an_error_that_says_what_would():
    with pytest.raises(ValueError, match=r"parallel.fsdp = 256 leaves 100% of the parameters whole .*; 128 does"):
        check_division(published("XL"), AbstractMesh((1, 256, 1, 1), AXES))


def test_what_stays_whole_is_a_share_of_all():
    """A narrow table beside two products, by hand."""
    tree = {"label_embed": {"embedding": np.zeros((5, 6))}, "x": {"kernel": np.zeros((8, 8))}, "bias": np.zeros(6)}
    assert check_division(tree, AbstractMesh((1, 4, 1, 1), AXES), most=0.5) == {"fsdp": 30 / 100}
    assert check_division(tree, AbstractMesh((4, 1, 1, 1), AXES)) == {"data": 0.0}


@functools.cache
def published(size: str):
    streams = {"image": dj.streams.image((32, 32, 4), patch=2), "label": dj.streams.label(1000)}
    width, depth, heads = SIZES[size]
    return jax.eval_shape(dj.DiT(streams, width=width, depth=depth, heads=heads).init, jax.random.key(0))
