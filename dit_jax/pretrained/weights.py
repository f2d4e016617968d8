"""Published weights as files: torch's .pt and safetensors -> {key: array}. Nothing that is in a file is ever run.

A file is a stranger's: whatever is wrong with it, cut off, or not what it says it is, ends in one ValueError that names
the file and what to do.
"""

import argparse
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
TORCH = (2, 10)  # before, weights_only=True could be talked into running code


def find(path: str | os.PathLike) -> Path:
    """The file itself, or the one in a directory as diffusers writes them. Raises FileNotFoundError."""
    path = Path(path).expanduser()
    candidates = [path / folder / name for folder in ("", "transformer") for name in NAMES] if path.is_dir() else [path]
    for file in candidates:
        if file.is_file():
            return file
    wanted = f"{NAMES[0]} in {path}" if path.is_dir() else f"file {path}"
    raise FileNotFoundError(f"there is no {wanted}; give a .pt or .safetensors file, or a directory that has one")


def read(file: Path) -> dict[str, np.ndarray]:
    """The weights in a file, in float32, float16 or bfloat16. Raises ValueError."""
    return read_safetensors(file) if file.suffix == ".safetensors" else read_torch(file)


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


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Names and arrays of a safetensors file, whose header is checked against its length before anything is read."""
    try:
        with safe_open(file, framework="numpy") as weights:
            found = {key: weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118, it is no dict
            for key, dtype in found.items():
                if dtype not in DTYPES:
                    raise ValueError(f"{file} has {key!r} as {dtype}; weights are one of: {', '.join(DTYPES)}")
            return {key: weights.get_tensor(key) for key in found}
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file ({_line(error)}); download it again") from None


def read_torch(file: Path) -> dict[str, np.ndarray]:
    """Names and arrays of what torch.save wrote: a state dict, or a checkpoint with one under `ema` or `model`.

    They are views of the mapped file as far as they are float32. The averaged weights are preferred, and what else a
    checkpoint holds, such as an optimizer, stays on disk.
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
        raise ValueError(f"{file} holds a {type(state).__name__}, and no state dict; give the weights of a DiT")
    dtypes = {getattr(torch, name) for name in DTYPES.values()}
    for key, tensor in state.items():
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
        if not isinstance(key, str) or not plain or tensor.device.type != "cpu" or tensor.dtype not in dtypes:
            what = getattr(tensor, "dtype", type(tensor).__name__)
            raise ValueError(f"{file} has {key!r} ({what}), which is no array of weights; give a plain state dict")
    total = sum(tensor.nbytes for tensor in state.values())
    if total > file.stat().st_size:  # strides of zero make a petabyte of a few bytes
        raise ValueError(f"{file} has tensors of {total:,} bytes in fewer; save them as copies, with tensor.clone()")
    return {key: tensor.detach().float().numpy() for key, tensor in state.items()}


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
