"""State dicts in files of published weights: safetensors and torch's .pt and .bin -> {key: array}. Nothing that is in a
file is ever run.

A file is a stranger's: whatever is wrong with it, cut off, or not what it says it is, ends in one ValueError that names
the file and what to do.
"""

import argparse
import collections
import functools
import json
import math
import os
import pickle
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import IO, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
STORAGES = {"torch.FloatStorage": "<f4", "torch.LongStorage": "<i8"}  # of legacy files; dtypes of their elements
TORCH = (2, 10)  # before, weights_only=True could be talked into running code
FIX = "give a .pt or .safetensors file, or a directory that has one"


def find(path: str | os.PathLike, part: str = "transformer", fix: str = FIX) -> Path:
    """The file itself, or the one in a directory as diffusers writes them: of a model, or of a pipeline, which has the
    model in its folder `part`. Raises FileNotFoundError, which ends in `fix`."""
    path = Path(path).expanduser()
    candidates = [path / folder / name for folder in ("", part) for name in NAMES] if path.is_dir() else [path]
    for file in candidates:
        if file.is_file():
            return file
    raise FileNotFoundError(f"there is no file {candidates[0]}; {fix}")


def read(file: Path, dtypes: Collection[str] = tuple(DTYPES), skip: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The state dict in a file, without the keys to `skip`: float32, float16 or bfloat16.

    dtypes: those that are read; an array of any other is a ValueError, as is everything else that is wrong with a file.
    """
    return read_safetensors(file, dtypes, skip) if file.suffix == ".safetensors" else read_torch(file, dtypes, skip)


def read_config(file: Path) -> dict:
    """The config.json beside a file, or {} where there is none. Raises ValueError."""
    config = file.with_name("config.json")
    try:
        entries = json.loads(config.read_text()) if config.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{config} cannot be read ({error}); download it again") from None
    if not isinstance(entries, dict):
        raise ValueError(f"{config} is not the config of a model; put the published one there")
    return entries


def read_safetensors(file: Path, dtypes: Collection[str], skip: Collection[str]) -> dict[str, np.ndarray]:
    """The state dict of a safetensors file, whose header is checked against its length before anything is read."""
    try:
        with safe_open(file, framework="numpy") as weights:
            keys = [key for key in weights.keys() if key not in skip]  # noqa: SIM118, it is no dict
            for key in keys:
                if (dtype := weights.get_slice(key).get_dtype()) not in dtypes:
                    raise ValueError(f"{file} has {key!r} as {dtype}, and only {' and '.join(dtypes)} are read")
            return {key: weights.get_tensor(key) for key in keys}
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file ({_line(error)}); download it again") from None


def read_torch(file: Path, dtypes: Collection[str], skip: Collection[str]) -> dict[str, np.ndarray]:
    """The state dict that torch.save wrote, or that a checkpoint of it has under `ema` or `model`, in float32.

    Arrays are views of the mapped file as far as they are float32 there. The averaged weights are preferred, and what
    else a checkpoint holds, such as an optimizer, stays on disk.
    """
    torch = _torch(file)
    _check_archive(file)
    try:
        # The published training script keeps its arguments in a Namespace, which is inert.
        with torch.serialization.safe_globals([argparse.Namespace]):
            state = torch.load(file, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:  # a broken file can fail anywhere in there
        if isinstance(error, pickle.UnpicklingError) and (name := re.search(r"GLOBAL (\S+)", str(error))):
            raise ValueError(f"{file} holds {name[1]}, which was not run; give a plain state dict of tensors") from None
        raise ValueError(f"{file} cannot be read by torch ({_line(error)}); download it again") from None
    state = next((state[name] for name in ("ema", "model") if isinstance(state, dict) and name in state), state)
    if not isinstance(state, dict):
        raise ValueError(f"{file} holds a {type(state).__name__}, and no state dict; give the weights of a network")
    state = {key: tensor for key, tensor in state.items() if key not in skip}
    known = {getattr(torch, DTYPES[dtype]) for dtype in dtypes}
    for key, tensor in state.items():
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if not isinstance(key, str) or not plain or tensor.device.type != "cpu" or tensor.dtype not in known:
            what = getattr(tensor, "dtype", type(tensor).__name__)
            raise ValueError(
                f"{file} has {key!r} ({what}), which is no array of {' or '.join(dtypes)}; give a plain state dict"
            )
    total = sum(tensor.nbytes for tensor in state.values())
    if total > file.stat().st_size:  # strides of zero make a petabyte of a few bytes
        raise ValueError(f"{file} has tensors of {total:,} bytes in fewer; save them as copies, with tensor.clone()")
    return {key: tensor.detach().float().numpy() for key, tensor in state.items()}


def read_legacy_torch(file: Path) -> dict[str, np.ndarray]:
    """The float32 arrays of a state dict that torch.save wrote before torch 1.6: pickles, and then the storages.

    torch is not needed. Raises ValueError for any other file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        try:
            return _read_legacy(stream, size)
        except Exception as error:  # a broken file can fail anywhere in there
            raise ValueError(f"{file} is not a whole file of torch < 1.6 ({_line(error)}); download it again") from None


def _read_legacy(stream: IO[bytes], size: int) -> dict[str, np.ndarray]:
    """`read_legacy_torch` of an open file of so many bytes."""
    for _ in ("magic number", "version", "system"):
        LegacyUnpickler(stream).load()
    tensors, storages, found = LegacyUnpickler(stream).load(), {}, {}
    dtypes = {key: np.dtype(STORAGES[storage]) for (key, storage), *_ in tensors.values()}
    for key in LegacyUnpickler(stream).load():
        length = int.from_bytes(stream.read(8), "little") * dtypes[key].itemsize
        if length > size - stream.tell():
            raise ValueError(f"it ends before its storage {key!r}")
        storages[key] = np.frombuffer(stream.read(length), dtypes[key])
    if sum(math.prod(shape) * dtypes[key].itemsize for (key, _), _, shape, _ in tensors.values()) > size:
        raise ValueError("its tensors are larger than the file")  # strides of zero make a petabyte of a few bytes
    for name, ((key, _), first, shape, strides) in tensors.items():
        offsets = (np.arange(count) * stride for count, stride in zip(shape, strides, strict=True))
        found[name] = storages[key][functools.reduce(np.add.outer, offsets, first)]
    return {name: array for name, array in found.items() if array.dtype == np.float32}


class LegacyUnpickler(pickle.Unpickler):
    """An unpickler for which a tensor is (storage, its first element there, shape, strides), and a storage (key, its
    class, a key of STORAGES). No other name is looked up, so nothing is run."""

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path in STORAGES:
            return path
        if path == "torch._utils._rebuild_tensor_v2":
            return lambda *tensor: tensor[:4]
        if path == "collections.OrderedDict":
            return collections.OrderedDict
        raise pickle.UnpicklingError(f"{path} was not run")

    def persistent_load(self, reference: Any) -> tuple[str, str]:
        _, storage, key, *_ = reference
        return key, storage


def write(directory: Path, tensors: dict[str, np.ndarray], config: dict) -> Path:
    """Write weights as diffusers does, with the config.json of their model; returns the file of the weights."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / NAMES[0]
    contiguous = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    save_file(contiguous, file, metadata={"format": "pt"})  # the mark of arrays laid out as torch's
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return file


def _check_archive(file: Path):
    """torch.save writes a zip archive and compresses nothing: what unpacks to more than the file is something else."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{file} is not a whole file of torch.save ({_line(error)}); download it again") from None
    size = sum(entry.file_size for entry in entries)
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or size > file.stat().st_size:
        raise ValueError(f"{file} would unpack to {size:,} bytes; torch.save compresses nothing, do not trust it")


def _torch(file: Path):
    """torch, which this one function imports. Raises ValueError if it is missing or too old."""
    wanted = ".".join(map(str, TORCH))
    fix = f"pip install 'torch>={wanted}', or give a .safetensors file"
    try:
        import torch
    except ImportError:
        raise ValueError(f"reading {file} takes torch; {fix}") from None
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < TORCH:
        raise ValueError(f"reading {file} takes torch {wanted}, not {torch.__version__}, whose loader has holes; {fix}")
    return torch


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
