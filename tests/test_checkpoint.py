"""A checkpoint gives back what it was given, on any mesh, to who asks for the same network, and says what it lacks."""

import copy
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dit_jax.parallel.mesh import make_mesh
from dit_jax.parallel.modes import jit_mode
from dit_jax.training.checkpoint import CheckpointError, newest_good, read_arrays, restore, steps
from dit_jax.training.saving import Saver, save_weights
from dit_jax.training.step import make_init

pytestmark = pytest.mark.usefixtures("quick")

OPTIMIZER = optax.adam(1e-3)
CONFIG = {
    "streams": {"image": {"kind": "image", "shape": [8, 8, 1], "patch": 2}, "label": {"kind": "label", "classes": 10}},
    "model": {"width": 16, "depth": 2, "heads": 2},
    "data": {"batch_size": 8},
}
ABOUT = {"config": CONFIG, "keys_apart": True}
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


def write(workdir, *numbers: int, keep: int = 9, axes: dict = LAYOUTS["data"]):
    with Saver(workdir, keep) as saver:
        for number in numbers:
            saver.save(number, made(axes, number), ABOUT)


def averages(workdir, axes: dict | None = None, step: int | None = None):
    """Those of the newest good checkpoint, or of that of a step."""
    wanted = {"ema": abstract(axes or {}).ema}
    return newest_good(workdir, lambda checkpoint: read_arrays(checkpoint, wanted), step)["ema"]


def read_meta(workdir, step: int | None = None) -> dict:
    return newest_good(workdir, lambda checkpoint: checkpoint.meta, step)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.mark.parametrize(("before", "after"), [("fsdp", "data"), ("data", "fsdp")])
def test_a_state_comes_back_to_the_last_bit_on_another_mesh(before, after, tmp_path):
    state, wanted = made(LAYOUTS[before]), abstract(LAYOUTS[after])
    with Saver(tmp_path, 2) as saver:
        saver.save(7, state, ABOUT)
    done, restored, keys_apart = restore(tmp_path, wanted, CONFIG)
    assert done == 7 and int(restored.step) == 7 and keys_apart
    same(restored, state)
    assert not np.array_equal(*(x.params["params"]["blocks"]["mlp"]["in"]["kernel"] for x in (state, made({}, 1))))
    as_asked = jax.tree.map(lambda x, asked: x.sharding.is_equivalent_to(asked.sharding, x.ndim), restored, wanted)
    assert all(jax.tree.leaves(as_asked))
    kernel = restored.ema["params"]["blocks"]["mlp"]["in"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, {"fsdp": 2, "data": 16}[after], 8)


def test_the_average_can_be_read_alone_and_is_not_the_parameters(tmp_path):
    write(tmp_path, 3)
    ema = averages(tmp_path, LAYOUTS["fsdp"])
    same(ema, made({}, 3).ema)
    kernel = ema["params"]["blocks"]["mlp"]["in"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 2, 8)


def test_it_is_the_newest_that_is_read_and_it_says_of_itself_what_it_is(tmp_path):
    write(tmp_path, 3, 12)
    meta = read_meta(tmp_path)
    same(averages(tmp_path), made({}, 12).ema)
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
    assert restore(tmp_path, abstract({}), config)[0] == 4


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("model", lambda model: model.update(width=32), "model.width was 16 and is 32"),
        ("model", lambda model: model.pop("heads"), "model.heads was 2 and is absent"),
        ("streams", lambda streams: streams["image"].update(patch=4), "streams.image.patch was 2 and is 4"),
        (
            "streams",
            lambda streams: streams["image"].update(shape=[8, 8, 3]),
            r"streams.image.shape was \[8, 8, 1\] and is \[8, 8, 3\]",
        ),
        ("streams", lambda streams: streams["image"].pop("patch"), "streams.image.patch was 2 and is absent"),
        ("streams", lambda streams: streams.pop("label"), "streams.label was a stream of kind 'label' and is absent"),
        ("streams", lambda streams: streams.update(label="a label"), "streams.label was a stream of kind 'label' and"),
        (
            "streams",
            lambda streams: streams.update(other={"kind": "text"}),
            "streams.other was absent and is a stream of kind 'text'",
        ),
    ],
)
def test_another_network_is_refused_by_key_whatever_has_changed_in_it_and_however_deep(
    section, change, message, tmp_path
):
    write(tmp_path, 4)
    config = copy.deepcopy(CONFIG)
    change(config[section])
    with pytest.raises(CheckpointError, match=rf"/4 holds another network: {message}.*; choose another --workdir"):
        restore(tmp_path, abstract({}), config)
    assert steps(tmp_path) == [4]


def test_weights_from_elsewhere_can_be_drawn_from_and_not_trained_further(tmp_path):
    ema = made({}).ema
    save_weights(tmp_path, ema, CONFIG, "a paper")
    meta = read_meta(tmp_path)
    same(averages(tmp_path, LAYOUTS["fsdp"]), ema)
    assert meta["step"] == 0 and meta["source"] == "a paper" and meta["config"] == CONFIG
    with pytest.raises(CheckpointError, match="the weights of a paper"):
        restore(tmp_path, abstract({}), CONFIG)


def test_weights_are_never_written_over_a_checkpoint(tmp_path):
    write(tmp_path / "trained", 4)
    save_weights(tmp_path / "converted", made({}, 1).ema, CONFIG, "a paper")
    for workdir, seed in ((tmp_path / "trained", 4), (tmp_path / "converted", 1)):
        with pytest.raises(CheckpointError, match="already; choose another --workdir"):
            save_weights(workdir, made({}, 2).ema, CONFIG, "another")
        same(averages(workdir), made({}, seed).ema)


def test_where_there_is_no_checkpoint_the_error_says_what_to_do(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*train with this --workdir first"):
        averages(tmp_path)
    assert not [*tmp_path.iterdir()]
    assert restore(tmp_path, abstract({}), CONFIG) == (0, None, True)
    write(tmp_path, 3, 12)
    with pytest.raises(CheckpointError, match=r"checkpoints has no checkpoint 4; it has 3, 12$"):
        averages(tmp_path, step=4)
    same(averages(tmp_path, step=3), made({}, 3).ema)
    assert read_meta(tmp_path, 3)["step"] == 3


def test_a_reader_changes_nothing_even_what_is_half_written(tmp_path):
    """It may be what another process is writing; a run that goes on removes it, because nobody else is."""
    write(tmp_path, 1, 2, 3)
    half = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp"
    (half / "params").mkdir(parents=True)
    there = lambda: {str(path): path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    before = there()
    assert read_meta(tmp_path)["step"] == 3
    averages(tmp_path)
    assert there() == before
    write(tmp_path, 5)
    assert {path.name for path in half.parent.iterdir()} == {"1", "2", "3", "5"}
