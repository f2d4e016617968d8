"""Files of weights: those of old torch, keys to skip, what stands around a state dict, and where a directory has one.
More is in test_convert.py."""

import argparse
import collections
import fractions
import pathlib
import pickle
import types

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dit_jax.pretrained import entries, weights
from dit_jax.pretrained.legacy import Inert


def save_legacy(state, file):
    torch.save(state, file, _use_new_zipfile_serialization=False)
    return file


@pytest.fixture
def legacy(tmp_path):
    """A file of transposed arrays, parts of others, and what is no weight; and what is in it."""
    whole = torch.arange(24.0).reshape(2, 3, 4)
    state = {"whole": whole, "turned": whole.permute(2, 0, 1), "part": whole[1, 1:], "count": torch.tensor(3)}
    return save_legacy(state, tmp_path / "legacy.pth"), state


def test_legacy_weights_are_read_as_torch_reads_them(legacy):
    file, state = legacy
    found = weights.read_legacy_torch(file)
    assert found.keys() == {"whole", "turned", "part"}
    for name, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, state[name].numpy())


def test_nothing_in_a_legacy_file_is_run(tmp_path):
    file = save_legacy({"evil": print}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match=r"evil\.pth .*builtin.*print was not run"):
        weights.read_legacy_torch(file)


def test_a_legacy_file_that_lies_is_one_line_that_names_it(legacy, tmp_path):
    whole = legacy[0].read_bytes()
    broken = [whole[:size] for size in (0, 7, 100, len(whole) // 2, len(whole) - 1)]
    at = whole.rindex((24).to_bytes(8, "little"))  # how many numbers are in the storage
    broken += [whole[:at] + (2**62).to_bytes(8, "little") + whole[at + 8 :], pickle.dumps([1, 2]) * 5]
    broken += [save_legacy({"x": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "large.pth").read_bytes()]
    for content in broken:
        (tmp_path / "broken.pth").write_bytes(content)
        with pytest.raises(
            ValueError, match=r"broken\.pth is not a whole file of torch < 1\.6 .*; download it"
        ) as error:
            weights.read_legacy_torch(tmp_path / "broken.pth")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_to_be_skipped_may_be_of_any_type_and_the_rest_may_not(suffix, tmp_path):
    state, file = {"x": np.ones(2, np.float32), "ids": np.arange(3)}, tmp_path / f"a.{suffix}"
    if suffix == "pt":
        torch.save({key: torch.from_numpy(array) for key, array in state.items()}, file)
    else:
        save_file(state, file)
    found = weights.read(file, skip=("ids", "absent"))
    assert found.keys() == {"x"} and np.array_equal(found["x"], state["x"])
    for options, key in (({}, "ids"), ({"dtypes": ["F16"], "skip": ["ids"]}, "x")):
        with pytest.raises(ValueError, match=rf"a\.{suffix} has '{key}'"):
            weights.read(file, **options)


def test_a_directory_is_that_of_a_model_or_of_a_pipeline_with_one(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"there is no file .*/diffusion_pytorch_model\.safetensors; look there$"
    ):
        weights.find(tmp_path, "vae", "look there")
    for folder in ("transformer", "vae"):
        (tmp_path / folder).mkdir()
        for name in weights.NAMES[::-1]:  # the first is the safest
            (tmp_path / folder / name).touch()
            assert weights.find(tmp_path, folder) == tmp_path / folder / name
    assert weights.find(tmp_path / "vae") == tmp_path / "vae" / weights.NAMES[0]
    assert weights.find(tmp_path / "vae" / weights.NAMES[1]) == tmp_path / "vae" / weights.NAMES[1]


def test_a_directory_with_one_file_is_that_file_and_with_several_they_are_listed(tmp_path):
    for name in ("notes.txt", "0050000.pt"):
        (tmp_path / name).touch()
    assert weights.find(tmp_path) == tmp_path / "0050000.pt"
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match=r"has 0050000.pt and model.safetensors: say which$"):
        weights.find(tmp_path)
    (tmp_path / weights.NAMES[1]).touch()
    assert weights.find(tmp_path) == tmp_path / weights.NAMES[1]


def test_an_index_stands_for_its_shards_and_a_whole_file_before_it(tmp_path):
    shards = [tmp_path / f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = tmp_path / "model.safetensors.index.json"
    for file in (*shards, index):
        file.touch()
    assert [weights.find(path) for path in (tmp_path, *shards)] == [index] * 3
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*/model.safetensors.index.json; give a .pt"):
        weights.find(shards[0])


DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


@pytest.mark.parametrize("zipped", [True, False], ids=["", "legacy"])
def test_every_type_of_floats_is_read_as_it_is_and_doubles_as_floats(zipped, tmp_path, capsys):
    x = torch.tensor([1 / 3, -2.5, 1e-3]).double()
    state = {str(dtype)[6:]: x.to(dtype) for dtype in DTYPES}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = weights.read(tmp_path / "a.pt")
    assert capsys.readouterr().out == f"{tmp_path}/a.pt: float64 is read as float32\n"
    for name, array in found.items():
        assert array.dtype == {"bfloat16": ml_dtypes.bfloat16, "float64": np.float32}.get(name, name)
        np.testing.assert_array_equal(array.astype(np.float32), state[name].float().numpy())
    with pytest.raises(ValueError, match=r"has 'float64' \(torch.float64\), and only F32 and F16 and BF16 are read"):
        weights.read(tmp_path / "a.pt", ("F32", "F16", "BF16"))


@pytest.mark.parametrize("zipped", [True, False], ids=["", "legacy"])
def test_what_training_keeps_beside_weights_is_inert(zipped, tmp_path):
    """Words and numbers are known by their names, and of other objects no class is looked up."""
    args = argparse.Namespace(num_classes=5, lr=0.1, out=pathlib.Path("x"), dtype=torch.bfloat16, size=torch.Size([2]))
    args.inner, args.best, args.counts = types.SimpleNamespace(depth=7), np.float32(2), [1, 2]
    rest = {"args": args, "device": torch.device("cpu"), "version": torch.torch_version.TorchVersion("2.0"), "epoch": 3}
    x = torch.arange(6.0).reshape(2, 3)
    torch.save({"model": {"x.weight": x}, **rest}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    found = weights.read(tmp_path / "a.pt", keys=["x.weight"])
    assert found.keys() == {"x.weight"} and np.array_equal(found["x.weight"], x)
    said = weights.read_settings(tmp_path / "a.pt")
    assert said == {"num_classes": 5, "lr": 0.1, "depth": 7, "epoch": 3}
    assert Inert("anything", 3) == {}


@pytest.mark.parametrize("zipped", [True, False], ids=["", "legacy"])
@pytest.mark.parametrize("thing", [print, fractions.Fraction(1, 2), collections.defaultdict(int)])
def test_what_is_not_known_to_be_inert_is_refused_by_its_name(zipped, thing, tmp_path):
    torch.save({"model": {}, "thing": thing}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    name = getattr(thing, "__name__", type(thing).__name__)
    with pytest.raises(ValueError, match=rf"a.pt holds .*{name}.* was not run; give a plain state dict of tensors$"):
        weights.read(tmp_path / "a.pt")


def test_another_pickle_protocol_is_read_or_one_sentence(tmp_path):
    """torch runs nothing in the second protocol alone; what is here reads them all."""
    state, file = {"x.weight": torch.arange(3.0)}, tmp_path / "a.pt"
    torch.save(state, file, pickle_protocol=4)
    with (
        pytest.warns(UserWarning, match="protocol 4"),
        pytest.raises(ValueError, match="holds another pickle than") as e,
    ):
        weights.read(file)
    assert str(e.value).endswith("which was not run; give a plain state dict of tensors") and "\n" not in str(e.value)
    torch.save(state, file, pickle_protocol=4, _use_new_zipfile_serialization=False)
    assert np.array_equal(weights.read(file)["x.weight"], state["x.weight"])


@pytest.mark.parametrize("zipped", [True, False], ids=["", "legacy"])
def test_what_is_not_wanted_stays_on_disk(zipped, tmp_path):
    """Arrays are views of the mapped file: nothing else is in memory."""
    torch.save({"ema": {"x.weight": torch.ones(3)}, "model": {"x.weight": torch.zeros(3)}}, tmp_path / "a.pt")
    torch.save(torch.load(tmp_path / "a.pt"), tmp_path / "b.pt", _use_new_zipfile_serialization=zipped)
    found = weights.read(tmp_path / "b.pt", keys=["x.weight"])["x.weight"]
    np.testing.assert_array_equal(found, np.ones(3))
    assert not found.flags.owndata and found.base is not None


def test_a_legacy_checkpoint_that_lies_or_is_cut_is_one_line_that_names_it(tmp_path):
    state = {"model": {"x.weight": torch.arange(24.0)}, "args": argparse.Namespace(num_classes=3)}
    whole = save_legacy(state, tmp_path / "whole.pt").read_bytes()
    for size in (33, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "a.pt").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"a.pt is not a whole file of torch < 1.6 .*; download it again"):
            weights.read(tmp_path / "a.pt")


def views(count):
    """So many tensors of 10,000 numbers each, and one storage."""
    x = torch.ones(10_000)
    return {str(i): x.view(100, 100) for i in range(count)}


def test_tensors_that_share_one_storage_are_no_more_than_the_file(tmp_path):
    for zipped in (True, False):
        torch.save(views(50), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"a.pt has tensors of 2,000,000 bytes in fewer; save them as copies"):
            weights.read(tmp_path / "a.pt")


KEYS = ["a.weight"]


@pytest.mark.parametrize(
    ("contents", "wanted"),
    [
        ({"a.weight": 1, "b": 2}, {".": {"a.weight": 1, "b": 2}}),
        ({"module.a.weight": 1, "module.b": 2, "count": 3}, {".": {"a.weight": 1, "b": 2}}),
        ({"net": {"module.a._orig_mod.weight": 1, "module.c.module.b": 2}}, {"net": {"a.weight": 1, "c.b": 2}}),
        ({"data.weight": 1}, {}),  # which ends in the same letters
        ({"model": {"a.weight": 1}, "EMA": {"a.weight": 2}}, {"EMA": {"a.weight": 2}, "model": {"a.weight": 1}}),
        (
            {"model": {"a.weight": 1}, "ema_0.999": {"a.weight": 2}},
            {"ema_0.999": {"a.weight": 2}, "model": {"a.weight": 1}},
        ),
        ({"schema": {"a.weight": 1}, "net": {"a.weight": 2}}, {"schema": {"a.weight": 1}, "net": {"a.weight": 2}}),
        ({"x.a.weight": 1, "x.y.a.weight": 2, "z": 3}, {"x": {"a.weight": 1}, "x.y": {"a.weight": 2}}),
        ({"opt": {"exp_avg": {"a.weight": 1}}, "net": {"a.weight": 2}}, {"net": {"a.weight": 2}}),
        ({"a.weight": 1, "args": {"lr": 3}}, {".": {"a.weight": 1}}),
        ([{"a.weight": 1}], {}),
    ],
)
def test_networks_are_found_by_a_key_that_they_have_averaged_ones_first(contents, wanted):
    found = entries.networks(contents, KEYS)
    assert found == wanted and list(found) == list(wanted)


def test_without_known_keys_it_is_the_largest_dict():
    x = np.ones(())
    net = {"b.weight": x, "b.bias": x, "c": 3}
    assert entries.state_dict("f", {"args": {"lr": 1, "d": 2, "e": 3}, "model": net, "epoch": x}, KEYS) == net
    assert entries.state_dict("f", {"model": net, "ema": {**net, "c": 4}}) == {**net, "c": 4}
