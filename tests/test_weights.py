"""Files of weights: those of old torch, keys to skip, and where a directory has them. More is in test_convert.py."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from dit_jax.pretrained import weights


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
