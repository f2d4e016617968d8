"""A checkpoint gives back what it was given, on any mesh, to who asks for the same network, and says what it lacks."""

import copy
import json
import logging
import re
import shutil
import sys
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dit_jax.parallel.mesh import make_mesh
from dit_jax.parallel.modes import jit_mode
from dit_jax.training import saving
from dit_jax.training.checkpoint import (
    CheckpointError,
    DamagedError,
    digest,
    load,
    newest_good,
    read_arrays,
    restore,
    steps,
)
from dit_jax.training.orbax_noise import hush
from dit_jax.training.saving import NotFiniteError, Saver, save_weights
from dit_jax.training.step import make_init

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


# Damage -------------------------------------------------------------------------------------------------------------


def flip(file, share=0.5):
    """One bit, so far into the file."""
    raw = bytearray(file.read_bytes())
    raw[int(share * len(raw))] ^= 1 << 4
    file.write_bytes(raw)


HARMS = {
    "a flipped bit": flip,
    "a bit flipped near the end": lambda file: flip(file, 0.95),
    "half of it": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "nothing of it": lambda file: file.write_bytes(b""),
    "no file": lambda file: file.unlink(),
}


def state_of(checkpoint):
    wanted = abstract({})
    return read_arrays(checkpoint, {name: getattr(wanted, name) for name in ("params", "ema", "opt")})


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run with checkpoints of step 3 and 12."""
    workdir = tmp_path_factory.mktemp("two")
    write(workdir, 3, 12)
    return workdir


@pytest.mark.heavy
@pytest.mark.parametrize("harm", HARMS)
def test_no_harm_to_any_file_goes_unseen(harm, two, tmp_path, capsys):
    """What is read is bitwise the newest state, or the one before it and a line that says why; nothing is changed."""
    expected = {step: made({}, step) for step in (3, 12)}
    files = sorted(file.relative_to(two) for file in (two / "checkpoints" / "12").rglob("*") if file.is_file())
    noticed = set()  # items that have been damaged, and it has been said
    assert len(files) > 30
    for i, file in enumerate(files):
        workdir = shutil.copytree(two, tmp_path / str(i))
        HARMS[harm](workdir / file)
        found, said = newest_good(workdir, state_of), capsys.readouterr().out
        used = 3 if said else 12
        same(found, {name: getattr(expected[used], name) for name in found})
        assert steps(workdir) == [3, 12]
        if said:
            assert said.startswith(f"{workdir}/checkpoints/12 is damaged: ") and said.endswith("; step 3 is used\n")
            assert said.count("\n") == 1 and len(said) < 300
            noticed.add(file.parts[2])
    assert noticed == {"params", "ema", "opt", "meta"}  # of whose files some hold nothing that is read


@pytest.mark.parametrize("item", ["params", "ema", "opt"])
def test_arrays_that_are_whole_and_not_those_that_were_written_are_damage(item, two, tmp_path, capsys):
    """Those of another step: Orbax has nothing against them."""
    at = shutil.copytree(two, tmp_path / "run") / "checkpoints"
    shutil.rmtree(at / "12" / item)
    shutil.copytree(at / "3" / item, at / "12" / item)
    same(newest_good(tmp_path / "run", state_of)["opt"], made({}, 3).opt)
    assert f"/12 is damaged: {item}/" in (said := capsys.readouterr().out) and "is not what was written; step 3" in said


def test_a_bit_of_meta_that_flips_is_damage(two, tmp_path):
    """Any bit of it, whatever it says: it is not the position in the data, nor a width, that was written."""
    file = shutil.copytree(two, tmp_path / "run") / "checkpoints" / "12" / "meta" / "metadata"
    raw, meta = file.read_bytes(), read_meta(two)
    for bit in range(0, 8 * len(raw), 37):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        try:
            assert load(file.parent.parent).meta == meta
        except CheckpointError as error:
            assert "/12 is damaged: meta" in str(error)


def test_a_run_that_goes_on_sets_aside_what_is_damaged(two, tmp_path, capsys):
    workdir = shutil.copytree(two, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "12" / "ema")
    (workdir / "checkpoints" / "20").mkdir()  # an empty husk
    done, state, _ = restore(workdir, abstract({}), CONFIG)
    assert done == 3
    same(state.opt, made({}, 3).opt)
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"3", "12.damaged", "20.damaged"}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and all(line.endswith("; step 3 is used") for line in lines)
    assert "checkpoints/20 is damaged: meta cannot be read (FileNotFoundError), and is set aside as 20.da" in lines[0]
    assert "checkpoints/12 is damaged: ema cannot be read (" in lines[1]
    write(workdir, 20)
    shutil.rmtree(workdir / "checkpoints" / "20" / "meta")
    assert restore(workdir, abstract({}), CONFIG)[0] == 3
    assert (workdir / "checkpoints" / "20.damaged-2").is_dir() and steps(workdir) == [3]


def test_where_nothing_can_be_read_nothing_is_changed_and_nothing_begun_anew(two, tmp_path):
    workdir = shutil.copytree(two, tmp_path / "run")
    for step in ("3", "12"):
        shutil.rmtree(workdir / "checkpoints" / step / "params")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"/12 is damaged: .*/3 is damaged: .*none is left") as caught:
            restore(workdir, abstract({}), CONFIG)
        assert "\n" not in str(caught.value) and steps(workdir) == [3, 12]
    same(averages(workdir, step=3), made({}, 3).ema)  # of which samples can still be drawn
    shutil.rmtree(workdir / "checkpoints" / "12" / "ema")
    with pytest.raises(CheckpointError, match=r"/12 is damaged: ema cannot be read"):
        averages(workdir, step=12)


def test_what_lies_beside_checkpoints_is_in_nobodys_way(two, tmp_path, capsys):
    workdir = shutil.copytree(two, tmp_path / "run")
    beside = workdir / "checkpoints"
    for name in ("notes", "-5", "007", "99.damaged", "tmp", "1e3", "²", "40.orbax-checkpoint-tmp"):
        (beside / name).mkdir()
    for name in ("99", "README", ".DS_Store", "13 copy"):
        (beside / name).write_text("x")
    shutil.copytree(beside / "3", beside / "copy of 3")
    assert restore(workdir, abstract({}), CONFIG)[0] == 12
    write(workdir, 14, 15, keep=2)
    assert capsys.readouterr().out == "" and steps(workdir) == [14, 15]
    same(averages(workdir), made({}, 15).ema)
    left = {"notes", "-5", "007", "99.damaged", "tmp", "1e3", "²", "99", "README", ".DS_Store", "13 copy", "copy of 3"}
    assert {path.name for path in beside.iterdir()} == left | {"14", "15"}


def test_what_a_run_removes_while_it_is_read_is_no_damage(two, tmp_path, capsys):
    """The next one is read without a word: a run that trains has newer ones, and keeps the last few."""
    workdir, read = shutil.copytree(two, tmp_path / "run"), []

    def ema(checkpoint):
        read.append(checkpoint.meta["step"])
        assert len(read) <= 2
        if checkpoint.meta["step"] == 12:
            write(workdir, 14)
            for step in ("3", "12"):
                shutil.rmtree(workdir / "checkpoints" / step)
        return read_arrays(checkpoint, {"ema": abstract({}).ema})["ema"]

    same(newest_good(workdir, ema), made({}, 14).ema)
    assert read == [12, 14] and capsys.readouterr().out == ""


def test_a_copy_under_another_number_is_no_checkpoint_of_that_step(two, tmp_path, capsys):
    workdir = shutil.copytree(two, tmp_path / "run")
    shutil.copytree(workdir / "checkpoints" / "3", workdir / "checkpoints" / "90")
    assert restore(workdir, abstract({}), CONFIG)[0] == 12
    assert "/90 is damaged: it is the checkpoint of step 3" in capsys.readouterr().out


def test_other_arrays_are_no_damage(two, tmp_path):
    """A network or an optimizer that is made otherwise today, under the same config."""
    wanted = abstract({})
    other = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*x.shape, 2), x.dtype, sharding=x.sharding), wanted.params)
    message = r"/12 holds other arrays than this run: params/params/blocks/mlp/in/bias is float32\[2,8\] there, and sh"
    for was in (two, without_fingerprints(two, tmp_path)):
        with pytest.raises(CheckpointError, match=message):
            restore(was, wanted._replace(params=other), CONFIG)
        with pytest.raises(
            CheckpointError, match=r"/12 holds other arrays than this run: opt/0/.* and should be absent"
        ):
            restore(was, wanted._replace(opt=()), CONFIG)
        assert steps(was) == [3, 12]


def without_fingerprints(workdir, to):
    """A run as older versions wrote it."""
    old = shutil.copytree(workdir, to / "old")
    for file in old.glob("checkpoints/*/meta/metadata"):
        meta = json.loads(file.read_text())
        del meta["fingerprints"], meta["digest"]
        file.write_text(json.dumps(meta))
    return old


def test_one_that_has_no_fingerprints_is_read_as_before(two, tmp_path, capsys):
    old = without_fingerprints(two, tmp_path)
    done, state, _ = restore(old, abstract(LAYOUTS["fsdp"]), CONFIG, {"name": "x"})
    assert done == 12 and capsys.readouterr().out == ""
    same(state.params, made({}, 12).params)


# What is not written ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("item", ["params", "ema", "opt"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_written(item, value, tmp_path):
    write(tmp_path, 3)
    spoil = lambda x: x.at[(0,) * x.ndim].set(value) if x.dtype == jnp.float32 else x
    state = made({}, 4)
    state = state._replace(**{item: jax.tree.map(spoil, getattr(state, item))})
    message = rf"^step 4 has values .* {item}/.*: no checkpoint .*, the newest is that of step 3$"
    with Saver(tmp_path, 1) as saver, pytest.raises(NotFiniteError, match=message):
        saver.save(4, state, ABOUT)
    assert steps(tmp_path) == [3]
    same(averages(tmp_path), made({}, 3).ema)


def test_what_is_not_finite_is_passed_over_where_an_older_version_wrote_it(two, tmp_path, monkeypatch, capsys):
    workdir, spoilt = shutil.copytree(two, tmp_path / "run"), made({}, 20)
    whole = saving.survey
    monkeypatch.setattr(saving, "survey", lambda arrays: whole(arrays)._replace(not_finite=[]))
    with Saver(workdir, 9) as saver:
        saver.save(20, spoilt._replace(ema=jax.tree.map(lambda x: x * jnp.nan, spoilt.ema)), ABOUT)
    same(averages(workdir), made({}, 12).ema)
    assert re.search("/20 is damaged: ema/.* has values that are not finite; step 12 is used", capsys.readouterr().out)


def test_saving_goes_on_in_the_background(tmp_path):
    """`save` has returned long before the checkpoint is moved into place; its arrays may be gone by then."""
    state, expected = made({}, 3), made({}, 3)
    moved, held, thread = threading.Event(), threading.Event(), threading.current_thread()

    def hold(event, arguments):
        if event == "os.rename" and str(tmp_path) in str(arguments[0]) and threading.current_thread() is not thread:
            held.set()
            moved.wait(60)

    sys.addaudithook(hold)
    with Saver(tmp_path, 1) as saver:
        saver.save(3, state, ABOUT)
        jax.tree.map(lambda x: x.delete(), (state.params, state.ema, state.opt))
        assert held.wait(60) and steps(tmp_path) == []
        moved.set()
    same(averages(tmp_path), expected.ema)


@pytest.mark.parametrize("keep", [1, 2])
def test_what_cannot_be_read_back_replaces_nothing(keep, tmp_path, monkeypatch, capsys):
    """A disk that writes one value wrong: the checkpoint is set aside, those before it stay, and the next is tried."""
    real = saving.check_on_host

    def harmed(checkpoint):
        if checkpoint.meta["step"] == 5:
            for name in ("4", "5"):
                assert (checkpoint.path.parent / name).exists()  # nothing is removed before it has been read
            shutil.rmtree(checkpoint.path / "ema")
            shutil.copytree(checkpoint.path.parent / "4" / "ema", checkpoint.path / "ema")
        real(checkpoint)

    monkeypatch.setattr(saving, "check_on_host", harmed)
    with Saver(tmp_path, keep) as saver:
        for step in (3, 4, 5):
            saver.save(step, made({}, step), ABOUT)
        saver.wait()
        assert steps(tmp_path) == [3, 4][-keep:] and saver.newest == 4
        printed = capsys.readouterr().out
        assert re.search(r"the checkpoint of step 5 could not be written \(ema/\S+ is not what was written\)", printed)
        assert "the newest is that of step 4; training goes on" in printed
        saver.save(6, made({}, 6), ABOUT)
    assert steps(tmp_path) == [4, 6][-keep:] and (tmp_path / "checkpoints" / "5.damaged").is_dir()
    same(averages(tmp_path), made({}, 6).ema)


def test_a_last_checkpoint_that_cannot_be_read_back_is_an_error(tmp_path, monkeypatch):
    def harmed(checkpoint):
        raise DamagedError(checkpoint.path, "opt/0/mu is not what was written")

    monkeypatch.setattr(saving, "check_on_host", harmed)
    with pytest.raises(CheckpointError, match=r"step 3 could not be written \(opt/0/mu is .*; there is none: see to"):  # noqa: SIM117
        with Saver(tmp_path, 1) as saver:
            saver.save(3, made({}, 3), ABOUT)


def test_a_step_is_written_once(tmp_path):
    with Saver(tmp_path, 2) as saver:
        saver.save(4, made({}, 4), ABOUT)
        assert saver.newest == 4
        saver.save(4, made({}, 5), ABOUT)
    same(averages(tmp_path), made({}, 4).ema)


# What has changed ---------------------------------------------------------------------------------------------------

DATA = {"name": "pets", "examples": 5, "classes": [{"name": "cat", "examples": 2, "listing": "ab"}]}


def test_what_has_changed_in_a_config_is_printed_key_by_key(tmp_path, capsys):
    about = {"config": {**CONFIG, "optimizer": {"learning_rate": 1e-4, "clip": 1.0}}, "keys_apart": True}
    with Saver(tmp_path, 1) as saver:
        saver.save(4, made({}, 4), about)
    now = {**CONFIG, "optimizer": {"learning_rate": 3e-4, "clip": 1.0, "newer": 1}, "data": {"batch_size": 16}}
    assert restore(tmp_path, abstract({}), now)[0] == 4
    assert capsys.readouterr().out.splitlines() == [
        "data.batch_size: 8 -> 16",
        "optimizer.learning_rate: 0.0001 -> 0.0003",
    ]
    about["config"]["optimizer"]["name"] = "adamw"
    write(tmp_path / "other", 4)
    with Saver(tmp_path, 1) as saver:
        saver.save(5, made({}, 5), about)
    now["optimizer"]["name"] = "muon"
    with pytest.raises(CheckpointError, match=r"/5 holds another optimizer: optimizer.name was 'adamw' and is 'muon'"):
        restore(tmp_path, abstract({}), now)


def test_other_data_are_refused_unless_they_may_be_others(tmp_path, capsys):
    with Saver(tmp_path, 1) as saver:
        saver.save(4, made({}, 4), {**ABOUT, "data": DATA})
    arguments = tmp_path, abstract({}), CONFIG
    assert restore(*arguments, DATA)[0] == 4 and capsys.readouterr().out == ""
    others = {**DATA, "classes": [{"name": "kitten", "examples": 2, "listing": "ab"}]}
    with pytest.raises(
        CheckpointError, match=r"/4 was trained on other data: class 'cat' is now 'kitten'; .*data.changed=allow"
    ):
        restore(*arguments, others)
    assert restore(*arguments, others, "allow")[0] == 4
    assert capsys.readouterr().out == "the data have changed: class 'cat' is now 'kitten'\n"


def test_the_digest_is_of_all_that_meta_says():
    meta = {"step": 1, "config": {"a": [1, 2.5]}, "digest": "x"}
    assert digest(meta) == digest({**meta, "digest": "y"}) != digest({**meta, "step": 2})


def test_what_orbax_leaves_behind_is_not_printed_and_what_others_do_is(monkeypatch):
    heard = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    absl, other = logging.getLogger("absl"), logging.getLogger("asyncio")
    for logger in (absl, other):
        for known in [*logger.filters]:
            logger.removeFilter(known)
    hush()
    hush()
    for error in (RuntimeError("Event loop is closed"), RuntimeError("another"), KeyError("x")):
        sys.unraisablehook(types.SimpleNamespace(object=None, exc_value=error))
    assert [str(unraisable.exc_value) for unraisable in heard] == ["another", "'x'"]
    record = lambda path: logging.LogRecord("absl", logging.ERROR, path, 1, "", None, None)
    assert absl.filter(record("/x/tensorflow/y.py")) and not absl.filter(record("/x/orbax/checkpoint/y.py"))
    for file, is_heard in (("/x/orbax/checkpoint/y.py", False), ("/x/y.py", True)):
        left = record("/x/asyncio/base_events.py")
        try:
            exec(compile("raise OSError", file, "exec"))
        except OSError as error:
            left.exc_info = (OSError, error, error.__traceback__)
        assert bool(other.filter(left)) == is_heard
