"""Anybody's pictures, a batch at a time: an .npz file as ADM's evaluator reads it, or a folder of image files.

Nothing is unpickled, and whatever is wrong with a stranger's file ends in one sentence that names it.
"""

import contextlib
import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from dit_jax.data.folder import listing
from dit_jax.evaluation.frechet import Moments, moments_of
from dit_jax.media.image import fit, opened, to_uint8

ARRAY = "arr_0"  # the array of pictures in an .npz file
FIX = "np.savez(FILE, arr_0=x) writes one of x, uint8 [n, height, width, 3]"
STATISTICS = {"features": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}  # of Inception's outputs, in ADM's batches
READ = 256  # pictures that are looked through at a time

Batches = Callable[[int], Iterator[np.ndarray]]  # of at most so many pictures, uint8 [k, height, width, channels]


class Pictures(NamedTuple):
    """number pictures of shape (height, width, 1 or 3). sha256: of their bytes, in order. is_grey: all channels are the
    same. statistics: those that a reference batch has of Inception's outputs, of these or more real pictures. drawn:
    the protocol by which dit_jax.sample drew them."""

    path: str
    shape: tuple[int, ...]
    number: int
    batches: Batches
    sha256: str = ""
    is_grey: bool = False
    statistics: dict[str, Moments] = {}  # noqa: RUF012, nothing writes to it
    drawn: dict[str, Any] | None = None


def open_pictures(path: str, size: tuple[int, ...] | None = None) -> Pictures:
    """The pictures in an .npz file, or below a folder; of a folder, in colour and fitted to (height, width) as ADM
    prepared ImageNet, or all of one size where none is said.

    In a file they are the array arr_0, [n, height, width, 1 or 3] or [n, height, width]: uint8, or floats in [-1, 1].
    All are looked at once, to see whether they are what they seem. Raises OSError for what is not there or cannot be
    read, and ValueError for what holds no pictures; both name it.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    found = _of_folder(place, size) if place.is_dir() else _of_file(place)
    digest, is_grey = hashlib.sha256(str(found.shape).encode()), True
    for batch in found.batches(READ):
        digest.update(batch.tobytes())
        is_grey = is_grey and bool(np.all(batch == batch[..., :1]))
    return found._replace(sha256=digest.hexdigest(), is_grey=is_grey)


def alike(samples: Pictures, reference: Pictures) -> tuple[Pictures, Pictures]:
    """Both with one channel if all are grey, and with three if not. Raises ValueError unless they are of one size, and
    for samples or a reference of one channel where the other has colours."""
    (height, width, _), (h, w, _) = samples.shape, reference.shape
    if (height, width) != (h, w):
        raise ValueError(
            f"{samples.path} has pictures of {height} x {width} pixels, and {reference.path} of {h} x {w}: resize one "
            "of them, as the reference was made, and say how"
        )
    for one, other in ((samples, reference), (reference, samples)):
        if one.shape[-1] == 1 and not other.is_grey:
            raise ValueError(
                f"{one.path} is grey and {other.path} has colours: make both grey, or repeat the grey in three channels"
            )
    channels = 1 if samples.is_grey and reference.is_grey else 3
    return _with_channels(samples, channels), _with_channels(reference, channels)


def _with_channels(pictures: Pictures, channels: int) -> Pictures:
    def batches(size: int) -> Iterator[np.ndarray]:
        for batch in pictures.batches(size):
            yield np.broadcast_to(batch[..., :channels], (*batch.shape[:-1], channels))

    return pictures._replace(shape=(*pictures.shape[:2], channels), batches=batches)


def _of_folder(folder: Path, size: tuple[int, ...] | None) -> Pictures:
    files = [folder / name for name in listing(folder).names]
    with opened(files[0]) as image:
        first = (image.height, image.width)
    height, width = size or first

    def read(file: Path) -> np.ndarray:
        with opened(file) as image:
            found, pixels = (image.height, image.width), fit(image, (height, width, 3))
        if size is None and found != first:
            raise ValueError(
                f"{file} is {found[1]} x {found[0]} pixels, and {files[0].name} {first[1]} x {first[0]}: samples have "
                "to be of one size"
            )
        return to_uint8(pixels)

    def batches(most: int) -> Iterator[np.ndarray]:
        for i in range(0, len(files), most):
            yield np.stack([read(file) for file in files[i : i + most]])

    return Pictures(str(folder), (height, width, 3), len(files), batches)


def _of_file(file: Path) -> Pictures:
    with _archive(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if ARRAY not in names:
            there = f"the arrays {', '.join(names)}" if names else "no arrays"
            raise ValueError(f"{file} has {there}, and no pictures called {ARRAY}; {FIX}")
        with archive.open(f"{ARRAY}.npy") as stream:
            shape, dtype = _header(file, stream)
        statistics = {
            kind: moments_of(*(_small(file, archive, name) for name in pair))
            for kind, pair in STATISTICS.items()
            if {*pair} <= {*names}
        }
        drawn = _drawn(file, archive) if "protocol" in names else None
    height, width, channels = (*shape[1:], 1)[:3]
    if dtype != np.uint8:
        _check_floats(file, dtype, _raw(file))

    def batches(size: int) -> Iterator[np.ndarray]:
        for batch in _raw(file, size):
            batch = batch.reshape(-1, height, width, channels)
            yield batch if dtype == np.uint8 else to_uint8(batch)

    return Pictures(str(file), (height, width, channels), shape[0], batches, statistics=statistics, drawn=drawn)


@contextlib.contextmanager
def _archive(file: Path) -> Iterator[zipfile.ZipFile]:
    """An .npz file, for `with`. Raises ValueError, naming it, if it is none, then or later."""
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise ValueError(f"{file} is not a whole .npz file ({error}); {FIX}") from None


def _header(file: Path, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array of pictures. Raises ValueError for what are no pictures."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
    except ValueError as error:
        raise ValueError(f"{file} has an {ARRAY} that is no array ({error}); {FIX}") from None
    if dtype.hasobject:
        raise ValueError(f"{file} has Python objects in {ARRAY}, which are pickled and not read; {FIX}")
    if is_fortran:
        raise ValueError(f"{file} has {ARRAY} in Fortran's order; save np.ascontiguousarray of it")
    if 0 in shape:
        raise ValueError(f"{file} has no pictures: {ARRAY} is of shape {list(shape)}")
    if len(shape) == 4 and shape[1] in (1, 3) and shape[3] not in (1, 3):
        raise ValueError(f"{file} has channels first, {list(shape)}; save x.transpose(0, 2, 3, 1)")
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)):
        raise ValueError(f"{file} has {ARRAY} of shape {list(shape)}, and not [n, height, width, 3]; {FIX}")
    if dtype != np.uint8 and dtype.kind != "f":
        raise ValueError(
            f"{file} has {ARRAY} of {dtype}, and not uint8: save x.astype(np.uint8) of pixels in 0 ... 255"
        )
    return shape, dtype


def _raw(file: Path, size: int = READ) -> Iterator[np.ndarray]:
    """The array of pictures as it is, `size` of them at a time."""
    with _archive(file) as archive, archive.open(f"{ARRAY}.npy") as stream:
        shape, dtype = _header(file, stream)
        each = int(np.prod(shape[1:], dtype=object)) * dtype.itemsize
        for i in range(0, shape[0], size):
            count = min(size, shape[0] - i)
            data = stream.read(count * each)
            if len(data) < count * each:
                raise ValueError(f"{file} ends after {i + len(data) // each} of {shape[0]} pictures; {FIX}")
            yield np.frombuffer(data, dtype).reshape(count, *shape[1:])


def _check_floats(file: Path, dtype: np.dtype, batches: Iterator[np.ndarray]) -> None:
    """Raises ValueError for floats that are not in [-1, 1], or seem to be in [0, 1]."""
    low, high = np.inf, -np.inf
    for batch in batches:
        low, high = np.minimum(low, batch.min()), np.maximum(high, batch.max())  # which keep what is no number
    if not np.isfinite([low, high]).all():
        raise ValueError(f"{file} has values that are not finite; draw those samples anew, or leave them out")
    if high > 1.5 or low < -1.5:
        raise ValueError(
            f"{file} has {dtype} from {low:.4g} to {high:.4g}, and floats have to be in [-1, 1]: save pixels in "
            "0 ... 255 as uint8"
        )
    if low >= 0:
        raise ValueError(
            f"{file} has {dtype} from {low:.4g} to {high:.4g}, and floats have to be in [-1, 1]: save "
            "np.uint8(np.round(255 * x)) if they are in [0, 1]"
        )


def _small(file: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Another array of the file, whole. Raises ValueError if it would have to be unpickled."""
    try:
        with archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"{file} has a {name} that is no plain array ({error}); save it without") from None


def _drawn(file: Path, archive: zipfile.ZipFile) -> dict[str, Any] | None:
    """What dit_jax.sample says of how it drew; None if somebody else calls something a protocol."""
    try:
        said = json.loads(str(_small(file, archive, "protocol")))
    except ValueError:
        return None
    return said if isinstance(said, dict) else None
