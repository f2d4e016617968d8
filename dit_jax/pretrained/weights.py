"""State dicts in files of weights, as published and as training writes them: safetensors, torch's .pt and .bin, and
shards of either -> {key: array}. Nothing that is in a file is ever run.

A file is a stranger's: whatever is wrong with it, cut off, or not what it says it is, ends in one ValueError that names
the file and what to do.
"""

import functools
import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dit_jax.pretrained import entries, legacy
from dit_jax.pretrained.legacy import INERT, Inert, Stored

NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
INDEX = ".index.json"  # ends the name of the file that says which shard has which key
SHARD = re.compile(r"-\d{5}-of-\d{5}(\.\w+)$")
DTYPES = tuple(legacy.DTYPES.values())
TORCH = (2, 10)  # before, weights_only=True could be talked into running code
FIX = "give a .pt or .safetensors file, or a directory that has one"


def find(path: str | os.PathLike, part: str = "transformer", fix: str = FIX) -> Path:
    """The file itself, or the one in a directory: as diffusers names it, of a model or of a pipeline, which has the
    model in its folder `part`, whole or the index of its shards; or the only one. Raises FileNotFoundError, which ends
    in `fix`."""
    path = Path(path).expanduser()
    folders = [path, path / part] if path.is_dir() else []
    known = [folder / f"{name}{end}" for folder in folders for name in NAMES for end in ("", INDEX)]
    if SHARD.search(path.name):
        known.append(path.with_name(SHARD.sub(r"\1", path.name) + INDEX))
    for file in known or [path]:
        if file.is_file():
            return file
    for folder in folders:
        files = sorted(file for file in folder.glob("*") if file.suffix in SUFFIXES or file.name.endswith(INDEX))
        whole = [file for file in files if not SHARD.search(file.name)]
        if len(whole) > 1:
            raise FileNotFoundError(f"{folder} has {' and '.join(file.name for file in whole)}: say which")
        if whole:
            return whole[0]
    raise FileNotFoundError(f"there is no file {(known or [path])[0]}; {fix}")


def sha256(file: Path) -> str:
    """The sha256 of a file, in hex: which weights they are."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read(
    file: Path,
    dtypes: Collection[str] = DTYPES,
    skip: Collection[str] = (),
    keys: Collection[str] = (),
    entry: str = "",
) -> dict[str, np.ndarray]:
    """The state dict in a file, or in the shards of an index, without the keys to `skip`, as NumPy arrays of the dtypes
    there; float64 becomes float32. keys, entry: which of several, see `entries.state_dict`.

    What else a file holds, such as an optimizer, stays on disk, and arrays are views of it as far as it is mapped.

    dtypes: those that are read; an array of any other is a ValueError, as is everything else that is wrong with a file.
    """
    state, found = entries.state_dict(file, _contents(file), keys, entry), {}
    for key, value in ((key, value) for key, value in state.items() if key not in skip):
        if not isinstance(key, str) or not isinstance(value, Stored) or value.dtype not in dtypes:
            words = value.words if isinstance(value, Stored) else f"({type(value).__name__})"
            only = " and ".join(dtypes)
            raise ValueError(f"{file} has {key!r} {words}, and only {only} are read; give a plain state dict")
        found[key] = value.array()
    total = sum(array.nbytes for array in found.values())
    if total > sum(part.stat().st_size for part in _parts(file)):  # strides of zero make a petabyte of a few bytes
        raise ValueError(f"{file} has tensors of {total:,} bytes in fewer; save them as copies, with tensor.clone()")
    if any(array.dtype == np.float64 for array in found.values()):
        print(f"{file}: float64 is read as float32")
    return {key: array.astype(np.float32) if array.dtype == np.float64 else array for key, array in found.items()}


def read_settings(file: Path) -> dict[str, Any]:
    """What a file says of its own training, such as {"num_classes": 10}: see `entries.settings`. Raises ValueError."""
    return entries.settings(_contents(file))


def read_config(file: Path) -> dict:
    """The config.json beside a file, or {} where there is none. Raises ValueError."""
    config = file.with_name("config.json")
    return _json(config, "config of a model") if config.is_file() else {}


def _json(file: Path, what: str) -> dict:
    """A dict in JSON. Raises ValueError."""
    try:
        found = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({error}); download it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} is not the {what}; put the published one there")
    return found


def _parts(file: Path) -> list[Path]:
    """The file itself, or the shards that an index names, which lie beside it. Raises ValueError and
    FileNotFoundError."""
    if not file.name.endswith(INDEX):
        return [file]
    names = _json(file, "index of shards").get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{file} has no weight_map from keys to files; download it again")
    parts = [file.with_name(Path(name).name) for name in sorted({*names.values()})]
    for part in parts:
        if part.suffix not in SUFFIXES or not part.is_file():
            raise FileNotFoundError(f"there is no shard {part}, which {file.name} names; download it too")
    return parts


def _contents(file: Path) -> Any:
    """What is in a file, or in the shards of an index: dicts in dicts, with arrays that have not been read."""
    if not file.name.endswith(INDEX):
        return _contents_of_one(file)
    merged: dict[str, Any] = {}
    for part in _parts(file):
        contents = _contents_of_one(part)
        merged |= contents if isinstance(contents, dict) else {}
    for key, name in _json(file, "index of shards")["weight_map"].items():
        if key not in merged:
            raise ValueError(f"{file} has {key} in {name}, which lacks it; download both again")
    return merged


def _contents_of_one(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return _safetensors(file)
    with file.open("rb") as stream:
        is_legacy = legacy.MAGIC in stream.read(32)
    return legacy.contents(file) if is_legacy else _torch_archive(file)


def _safetensors(file: Path) -> dict[str, Stored]:
    """The arrays of a safetensors file, whose header is checked against its length before anything is read."""
    try:
        weights = safe_open(file, framework="numpy")
        dtypes = {key: weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118, it is no dict
    except SafetensorError as error:
        raise ValueError(f"{file} is not a whole safetensors file ({_line(error)}); download it again") from None
    return {
        key: Stored(dtype, f"as {dtype}", functools.partial(weights.get_tensor, key)) for key, dtype in dtypes.items()
    }


def _torch_archive(file: Path) -> Any:
    """What torch.save wrote, mapped and not read. Classes are not looked up, but for those of tensors: Inert stands for
    the names in INERT, and any other is refused."""
    torch = _torch(file)
    _check_archive(file)
    try:
        with torch.serialization.safe_globals([(Inert, name) for name in INERT]):
            return _mapped(torch, torch.load(file, weights_only=True, map_location="cpu", mmap=True), {})
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        what = name[1] if name else "another pickle than torch.save writes of tensors"
        raise ValueError(f"{file} holds {what}, which was not run; give a plain state dict of tensors") from None
    except Exception as error:  # a broken file can fail anywhere in there
        raise ValueError(f"{file} cannot be read by torch ({_line(error)}); download it, or save it, again") from None


def _mapped(torch: Any, value: Any, seen: dict[int, Any]) -> Any:
    """Dicts and lists, with arrays in place of torch's tensors. seen: {id of one: what it became}, for a file may have
    one in itself."""
    if isinstance(value, torch.Tensor):
        plain = type(value) in (torch.Tensor, torch.nn.Parameter) and value.layout is torch.strided
        dtype = legacy.DTYPES.get(str(value.dtype).removeprefix("torch."), "")
        readable = plain and value.device.type == "cpu"
        return Stored(dtype if readable else "", f"({value.dtype})", functools.partial(_array, torch, value))
    if isinstance(value, dict) and id(value) not in seen:
        seen[id(value)] = {}
        seen[id(value)].update({key: _mapped(torch, inner, seen) for key, inner in value.items()})
    elif isinstance(value, list | tuple) and id(value) not in seen:
        seen[id(value)] = []
        seen[id(value)].extend(_mapped(torch, inner, seen) for inner in value)
    return seen.get(id(value), value)


def _array(torch: Any, tensor: Any) -> np.ndarray:
    """A tensor as an array that shares its memory."""
    tensor = tensor.detach()
    return tensor.view(torch.int16).numpy().view(jnp.bfloat16) if tensor.dtype == torch.bfloat16 else tensor.numpy()


def read_legacy_torch(file: Path) -> dict[str, np.ndarray]:
    """The float32 arrays of a state dict that torch.save wrote before torch 1.6. torch is not needed. Raises ValueError
    for any other file."""
    state = entries.state_dict(file, legacy.contents(file))
    arrays = {key: value.array() for key, value in state.items() if isinstance(value, Stored)}
    return {key: array for key, array in arrays.items() if array.dtype == np.float32}


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
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise ValueError(f"{file} is not a whole file of torch.save ({_line(error)}); download it again") from None
    size = sum(member.file_size for member in members)
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or size > file.stat().st_size:
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
