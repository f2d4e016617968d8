"""Shards: samples on disk as they are drawn, each batch a file that is moved into place whole, and all merged into one.

OUT/shards/00000064-00000127.npz holds samples 64 ... 127. A process that is killed leaves whole shards and a file whose
name begins with `unfinished-`, which counts for nothing. `merge` copies the bytes of all shards into OUT/samples.npz, a
piece at a time, so that memory does not grow with the number of samples; a samples.npz that is there is one shard.
"""

import contextlib
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

SHARDS, SAMPLES = "shards", "samples.npz"
PIECE = 2**20  # bytes that are copied at a time
ABOUT = ("seed", "protocol")  # what samples.npz says of its samples, beside their arrays


class Shard(NamedTuple):
    """A file that holds samples start ... stop - 1."""

    start: int
    stop: int
    path: Path


class Header(NamedTuple):
    """What an array in a file says of itself. shape: [k, *shape] of k samples."""

    shape: tuple[int, ...]
    dtype: np.dtype

    def bytes_each(self) -> int:
        """Of one sample."""
        return int(np.prod(self.shape[1:], dtype=int)) * self.dtype.itemsize


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """An atomic write: yields the temporary file to write, beside `path`, and moves it there when the block ends.

    If it fails nothing is left, and an OSError, such as that of a full disk, names the path.
    """
    part = path.with_name(f"unfinished-{path.name}")
    try:
        yield part
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
    except OSError as error:
        why = error.strerror or error
        raise OSError(f"{path} cannot be written: {why}; the same command goes on from what is there") from error
    finally:
        part.unlink(missing_ok=True)


def write_shard(out: Path, start: int, arrays: dict[str, np.ndarray]) -> None:
    """Write samples from `start` on, {name: [k, *shape]}. Raises OSError if that fails."""
    last = start + len(next(iter(arrays.values()))) - 1
    (out / SHARDS).mkdir(parents=True, exist_ok=True)
    with written_whole(out / SHARDS / f"{start:08d}-{last:08d}.npz") as part:
        np.savez(part, **arrays)  # type: ignore[arg-type]


def shards_in(out: Path) -> list[Shard]:
    """The files of a folder that hold samples, by their ends. Raises ValueError for a samples.npz that is none."""
    found = []
    for path in (out / SHARDS).glob("[0-9]*-[0-9]*.npz"):
        first, last = map(int, path.stem.split("-"))
        found.append(Shard(first, last + 1, path))
    if (out / SAMPLES).exists():
        with _opened(out / SAMPLES) as file:
            found.append(Shard(0, min(_header(file, name).shape[0] for name in _names(file)), out / SAMPLES))
    return sorted(found, key=lambda shard: (shard.stop, shard.start))


def missing(out: Path, rows: range) -> list[range]:
    """Which of these samples no file of a folder holds, as ranges in order."""
    is_there = np.zeros(rows.stop, bool)
    for shard in shards_in(out):
        is_there[shard.start : shard.stop] = True
    left = np.flatnonzero(~is_there[rows.start :]) + rows.start
    runs = np.split(left, np.flatnonzero(np.diff(left) > 1) + 1)
    return [range(int(run[0]), int(run[-1]) + 1) for run in runs if len(run)]


def merge(out: Path, num: int, about: dict[str, Any]) -> Path:
    """Write OUT/samples.npz, samples 0 ... num - 1 of all shards, and what it says about them; then the shards go.

    Raises ValueError for samples that are not there, and for a shard that is damaged; OSError if it cannot be written.
    """
    whole = out / SAMPLES
    pieces = _pieces(out, num)
    if [piece.path for piece in pieces] != [whole]:
        with _opened(pieces[0].path) as file:
            names = _names(file)
        with written_whole(whole) as part, zipfile.ZipFile(part, "w") as into:
            for name in names:
                with into.open(f"{name}.npy", "w", force_zip64=True) as stream:
                    _concatenate(stream, name, pieces, num)
            for name, value in about.items():
                with into.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, np.asanyarray(value))
    shutil.rmtree(out / SHARDS, ignore_errors=True)
    return whole


def first_samples(path: Path, most: int) -> dict[str, np.ndarray]:
    """The first samples of a file, {name: [at most `most`, *shape]}, and nothing else is read."""
    found = {}
    with _opened(path) as file:
        for name in _names(file):
            with file.open(f"{name}.npy") as stream:
                header = _read_header(stream)
                shape = (min(most, header.shape[0]), *header.shape[1:])
                data = stream.read(shape[0] * header.bytes_each())
            found[name] = np.frombuffer(data, header.dtype).reshape(shape)
    return found


def _pieces(out: Path, num: int) -> list[Shard]:
    """Which samples to take of which file: each of 0 ... num - 1 once, in order."""
    pieces, done = [], 0
    for shard in shards_in(out):
        if shard.start <= done < min(shard.stop, num):
            pieces.append(Shard(done, min(shard.stop, num), shard.path))
            done = pieces[-1].stop
    if done < num:
        raise ValueError(f"{out} does not have sample {done}, and cannot be merged; the same command draws it")
    return pieces


def _concatenate(into: IO[bytes], name: str, pieces: list[Shard], num: int) -> None:
    """Write one array of all pieces as .npy, by copying their bytes."""
    for piece in pieces:
        with _opened(piece.path) as file, file.open(f"{name}.npy") as stream:
            header = _read_header(stream)
            begun = 0 if piece.path.name == SAMPLES else int(piece.path.stem.split("-")[0])
            if piece.start == 0:
                shape = {"shape": (num, *header.shape[1:]), "fortran_order": False}
                descr = np.lib.format.dtype_to_descr(header.dtype)
                np.lib.format.write_array_header_1_0(into, {**shape, "descr": descr})
            _copy(stream, None, (piece.start - begun) * header.bytes_each())
            _copy(stream, into, (piece.stop - piece.start) * header.bytes_each())
            _copy(stream, None, (begun + header.shape[0] - piece.stop) * header.bytes_each())  # to where its CRC is


def _copy(stream: IO[bytes], into: IO[bytes] | None, count: int) -> None:
    """So many bytes from one file to the other, or to nowhere."""
    while count > 0:
        data = stream.read(min(PIECE, count))
        if not data:
            raise zipfile.BadZipFile("it ends too early")
        if into is not None:
            into.write(data)
        count -= len(data)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """An .npz file, for `with`. Raises ValueError, naming it, if it is none or is damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            yield file
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged: {error}; remove it, and the same command draws its samples anew"
        ) from None


def _names(file: zipfile.ZipFile) -> list[str]:
    names = [name.removesuffix(".npy") for name in file.namelist()]
    return [name for name in names if name not in ABOUT]


def _header(file: zipfile.ZipFile, name: str) -> Header:
    with file.open(f"{name}.npy") as stream:
        return _read_header(stream)


def _read_header(stream: IO[bytes]) -> Header:
    try:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise zipfile.BadZipFile(f"{stream.name} is no array ({error})") from None
    if dtype.hasobject:
        raise zipfile.BadZipFile(f"{stream.name} holds Python objects, which are never read")
    return Header(shape, dtype)


def _sync(path: Path) -> None:
    """Have what was written of a file, or of the names in a folder, on the disk, where a power cut does not reach."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
