"""Files that torch.save wrote before torch 1.6, pickles and then the storages, mapped without torch; and what stands
for the objects in any file of torch, whose classes are never looked up."""

import collections
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import jax.numpy as jnp  # from which NumPy has bfloat16
import numpy as np

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}  # as safetensors calls them
MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")  # in a pickle, at the very beginning
STORAGES = {  # dtypes of their elements
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.BoolStorage": np.dtype(np.bool_),
}
# Classes and functions of what training keeps beside weights, such as its arguments; Inert stands for each of them.
INERT = {
    "argparse.Namespace",
    "types.SimpleNamespace",
    *(f"pathlib{module}.{kind}Path" for module in ("", "._local") for kind in ("Posix", "Windows")),
    *(f"pathlib{module}.Pure{kind}Path" for module in ("", "._local") for kind in ("Posix", "Windows")),
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
    "numpy.dtype",
    "_codecs.encode",  # of the bytes of a NumPy scalar
    "torch.Size",
    "torch.device",
    "torch.torch_version.TorchVersion",
    *(f"torch.{dtype}" for dtype in (*DTYPES, "int32", "int64")),
}


class Inert(dict):
    """What stands for an object in a file, whose class is not looked up: what the file says of it, as a dict."""

    def __init__(self, *_: Any):
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        self.update(state if isinstance(state, dict) else {})


class Stored(NamedTuple):
    """An array in a file: its dtype as safetensors calls it, "" for any but DTYPES; the words for it in an error; and
    how it is read or mapped."""

    dtype: str
    words: str
    array: Callable[[], np.ndarray]


def contents(file: Path) -> Any:
    """What is in a legacy file: dicts in dicts, with arrays that are mapped and not read. Raises ValueError."""
    try:
        with file.open("rb") as stream:
            return _read(stream, np.memmap(file, np.uint8, "r"))
    except Refused as error:
        raise ValueError(f"{file} holds more than weights: {error}; give a plain state dict of tensors") from None
    except Exception as error:  # a broken file can fail anywhere in there
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is not a whole file of torch < 1.6 ({line}); download it again") from None


def _read(stream: IO[bytes], data: np.ndarray) -> Any:
    """`contents` of an open file, whose bytes are data."""
    for _ in ("magic number", "version", "system"):
        LegacyUnpickler(stream).load()
    unpickler, storages = LegacyUnpickler(stream), {}
    found = unpickler.load()
    for key in LegacyUnpickler(stream).load():
        length, first = int.from_bytes(stream.read(8), "little") * unpickler.dtypes[key].itemsize, stream.tell()
        if length > len(data) - first:
            raise ValueError(f"it ends before its storage {key!r}")
        storages[key] = data[first : first + length]
        stream.seek(length, 1)
    for (key, dtype), first, shape, strides in unpickler.tensors:
        if math.prod(shape) * dtype.itemsize > len(data):
            raise ValueError("its tensors are larger than the file")  # strides of zero make a petabyte of a few bytes
        strides = [stride * dtype.itemsize for stride in strides]
        unpickler.arrays.append(np.ndarray(shape, dtype, storages[key], first * dtype.itemsize, strides))
    return found


class Refused(pickle.UnpicklingError):
    """A name in a pickle that is not looked up."""


class LegacyUnpickler(pickle.Unpickler):
    """An unpickler that looks no name up, so that nothing is run.

    A storage becomes (key, dtype), and a tensor Stored. tensors: (storage, first element there, shape, strides) of each
    tensor, to be filled in, in the same order, as `arrays`. dtypes: {key of a storage: its}."""

    def __init__(self, stream: IO[bytes]):
        super().__init__(stream)
        self.tensors: list[tuple] = []
        self.arrays: list[np.ndarray] = []
        self.dtypes: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        path = f"{module}.{name}"
        if path in STORAGES:
            return STORAGES[path]
        if path == "torch._utils._rebuild_tensor_v2":
            return self._tensor
        if path == "torch._utils._rebuild_parameter":
            return lambda tensor, *_: tensor
        if path == "collections.OrderedDict":
            return collections.OrderedDict
        if path in INERT:
            return Inert
        raise Refused(f"{path} was not run")

    def persistent_load(self, reference: Any) -> tuple[str, np.dtype]:
        _, dtype, key, *_ = reference
        self.dtypes[key] = dtype
        return key, dtype

    def _tensor(self, *tensor: Any) -> Stored:
        self.tensors.append(tensor[:4])
        _, dtype = tensor[0]
        place = len(self.tensors) - 1
        return Stored(DTYPES.get(dtype.name, ""), f"(torch.{dtype.name})", lambda: self.arrays[place])
