"""A checkpoint gives back what it was given, on any mesh, to who asks for the same network, and says what it lacks."""

import copy
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dit_jax.parallel.mesh import make_mesh
from dit_jax.parallel.modes import jit_mode
from dit_jax.training.checkpoint import (
    CheckpointError,
    open_manager,
    open_reader,
    read_meta,
    restore,
    restore_ema,
    save,
    save_weights,
)
from dit_jax.training.step import make_init

pytestmark = pytest.mark.usefixtures("quick")

OPTIMIZER = optax.adam(1e-3)
CONFIG = {
    "streams": {"image": {"kind": "image", "shape": [8, 8, 1], "patch": 2}, "label": {"kind": "label", "classes": 10}},
    "model": {"width": 16, "depth": 2, "heads": 2},
    "data": {"batch_size": 8},
}
LAYOUTS = {"data": {"data": 8}, "fsdp": {"fsdp": 8}}


def init(key):
    """A state of which no two arrays are alike, of a network of one matrix."""
    kernel, bias = (jax.random.normal(key, shape) for shape in ((2, 16, 8), (2, 8)))
    params = {"params": {"blocks": {"mlp": {"in": {"kernel": kernel, "bias": bias}}}}}
    state = make_init(types.SimpleNamespace(init=lambda key: params), OPTIMIZER)(key)
    (adam, *rest) = state.opt
    moved = adam._replace(mu=jax.tree.map(jnp.sin, params), nu=jax.tree.map(jnp.square, params))
    return state._replace(step=jnp.asarray(7, jnp.int32), ema=jax.tree.map(jnp.cos, params), opt=(moved, *rest))


def made(axes: dict, seed: int = 0):
    return jit_mode(make_mesh(**axes)).create(init, jax.random.key(seed))


def abstract(axes: dict):
    return jit_mode(make_mesh(**axes)).abstract(init)


def write(workdir, *steps: int, keep: int = 9, axes: dict = LAYOUTS["data"]):
    with open_manager(workdir, keep) as manager:
        for step in steps:
            save(manager, step, made(axes, step)._replace(step=jnp.asarray(step, jnp.int32)), CONFIG)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize(("before", "after"), [("fsdp", "data"), ("data", "fsdp")])
def test_a_state_comes_back_to_the_last_bit_on_another_mesh(before, after, tmp_path):
    state, wanted = made(LAYOUTS[before]), abstract(LAYOUTS[after])
    with open_manager(tmp_path, 2) as manager:
        save(manager, 7, state, CONFIG)
    with open_manager(tmp_path, 2) as manager:
        done, restored = restore(manager, wanted, CONFIG)
    assert done == 7 and int(restored.step) == 7
    same(restored, state)
    assert not np.array_equal(*(x.params["params"]["blocks"]["mlp"]["in"]["kernel"] for x in (state, made({}, 1))))
    as_asked = jax.tree.map(lambda x, asked: x.sharding.is_equivalent_to(asked.sharding, x.ndim), restored, wanted)
    assert all(jax.tree.leaves(as_asked))
    kernel = restored.ema["params"]["blocks"]["mlp"]["in"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, {"fsdp": 2, "data": 16}[after], 8)


def test_the_average_can_be_read_alone_and_is_not_the_parameters(tmp_path):
    write(tmp_path, 3)
    with open_reader(tmp_path) as reader:
        ema = restore_ema(reader, abstract(LAYOUTS["fsdp"]).ema)
    same(ema, made({}, 3).ema)
    kernel = ema["params"]["blocks"]["mlp"]["in"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 2, 8)


def test_it_is_the_newest_that_is_read_and_it_says_of_itself_what_it_is(tmp_path):
    write(tmp_path, 3, 12)
    with open_reader(tmp_path) as reader:
        meta = read_meta(reader)
        same(restore_ema(reader, abstract({}).ema), made({}, 12).ema)
    assert meta["step"] == 12 and meta["config"] == CONFIG and meta["versions"]["jax"] == jax.__version__
    assert "source" not in meta


@pytest.mark.parametrize("keep", [1, 3])
def test_the_newest_stay_and_no_others(keep, tmp_path):
    write(tmp_path, 1, 2, 3, 4, 5, keep=keep)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["1", "2", "3", "4", "5"][-keep:]


def test_options_that_are_newer_than_a_checkpoint_are_no_reason_to_refuse_it(tmp_path):
    write(tmp_path, 4)
    config = copy.deepcopy(CONFIG)
    config["model"]["new"] = "none"
    config["streams"]["image"]["newer"] = 3
    with open_manager(tmp_path, 9) as manager:
        assert restore(manager, abstract({}), config)[0] == 4


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("model", lambda model: model.update(width=32)),
        ("model", lambda model: model.pop("heads")),
        ("streams", lambda streams: streams["image"].update(patch=4)),
        ("streams", lambda streams: streams["image"].update(shape=[8, 8, 3])),
        ("streams", lambda streams: streams["image"].pop("patch")),
        ("streams", lambda streams: streams.pop("label")),
        ("streams", lambda streams: streams.update(label="a label")),
    ],
)
def test_another_network_is_refused_whatever_has_changed_in_it_and_however_deep(section, change, tmp_path):
    write(tmp_path, 4)
    config = copy.deepcopy(CONFIG)
    change(config[section])
    with open_manager(tmp_path, 9) as manager, pytest.raises(CheckpointError, match=rf"another network.* {section}"):
        restore(manager, abstract({}), config)


def test_weights_from_elsewhere_can_be_drawn_from_and_not_trained_further(tmp_path):
    ema = made({}).ema
    save_weights(tmp_path, ema, CONFIG, "a paper")
    with open_reader(tmp_path) as reader:
        meta = read_meta(reader)
        same(restore_ema(reader, abstract(LAYOUTS["fsdp"]).ema), ema)
    assert meta["step"] == 0 and meta["source"] == "a paper" and meta["config"] == CONFIG
    with open_manager(tmp_path, 9) as manager, pytest.raises(CheckpointError, match="the weights of a paper"):
        restore(manager, abstract({}), CONFIG)


def test_weights_are_never_written_over_a_checkpoint(tmp_path):
    write(tmp_path / "trained", 4)
    save_weights(tmp_path / "converted", made({}, 1).ema, CONFIG, "a paper")
    for workdir, seed in ((tmp_path / "trained", 4), (tmp_path / "converted", 1)):
        with pytest.raises(CheckpointError, match="already; choose another --workdir"):
            save_weights(workdir, made({}, 2).ema, CONFIG, "another")
        with open_reader(workdir) as reader:
            same(restore_ema(reader, abstract({}).ema), made({}, seed).ema)


def test_what_cannot_be_read_is_named_with_the_newest_step_before_it(tmp_path):
    write(tmp_path, 2, 10, 30)
    shutil.rmtree(tmp_path / "checkpoints" / "30" / "ema")
    with open_reader(tmp_path) as reader, pytest.raises(CheckpointError, match=r"/30 cannot be read .*from step 10$"):
        restore_ema(reader, abstract({}).ema)
    for step in ("2", "10"):
        shutil.rmtree(tmp_path / "checkpoints" / step)
    with open_reader(tmp_path) as reader, pytest.raises(CheckpointError, match=r"/30 cannot .*there is no earlier one"):
        restore_ema(reader, abstract({}).ema)


def test_where_there_is_no_checkpoint_the_error_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*train with this --workdir first"):
        open_reader(tmp_path)
    assert not [*tmp_path.iterdir()]
    with (
        open_manager(tmp_path, 1) as manager,
        pytest.raises(CheckpointError, match=r"there is no checkpoint in .*first"),
    ):
        read_meta(manager)
    with open_reader(tmp_path) as reader, pytest.raises(CheckpointError, match=r"there is no checkpoint in .*first"):
        read_meta(reader)


def test_a_reader_changes_nothing_even_what_is_half_written(tmp_path):
    """It may be what another process is writing; a run that goes on removes it, because nobody else is."""
    write(tmp_path, 1, 2, 3)
    half = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    (half / "params").mkdir(parents=True)
    there = lambda: {str(path): path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    before = there()
    with open_reader(tmp_path) as reader:
        assert read_meta(reader)["step"] == 3
        restore_ema(reader, abstract({}).ema)
    assert there() == before
    write(tmp_path, 5)
    assert {path.name for path in half.parent.iterdir()} == {"1", "2", "3", "5"}
