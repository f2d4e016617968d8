"""The protocol of a folder of samples: all that decides them, beside them, so that a command that is repeated goes
on."""

import json
import os
import shutil
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import jax

from dit_jax.diffusion.stream import Streams
from dit_jax.parallel.hosts import on_host
from dit_jax.sampling.shards import SAMPLES, SHARDS, shards_in, written_whole

PROTOCOL = "protocol.json"
MENTIONED = ("step",)  # what a protocol says for people: the weights decide, and folders of older versions lack it


def check_writable(out: Path) -> None:
    """Raises OSError if samples cannot be written to `out`, which need not exist; nothing is left there."""
    nearest = next(path for path in (out, *out.absolute().parents) if os.path.exists(path))
    if not nearest.is_dir():
        raise OSError(f"--out={out}: {nearest} is a file, and should be a directory; choose another --out")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OSError(f"--out={out}: {nearest} cannot be written to: {error.strerror}; choose another --out") from None


def claim(
    out: Path, protocol: dict[str, Any], streams: Streams, num: int, overwrite: bool = False, index: int = 0
) -> None:
    """Make `out` the folder of samples of this protocol, or find that it is. overwrite: what is there of another
    protocol goes. index: of several processes; process 0 clears the folder, and the others wait for it.

    Raises ValueError for samples of another protocol, or for more of them than `num`; OSError if it cannot be written.
    """
    protocol = json.loads(json.dumps(protocol))
    if (wrong := _difference(out, protocol, num)) and not overwrite:
        raise ValueError(f"{wrong}; choose another --out, or say --overwrite, and they are lost")
    if index > 0:
        while _deciding(_written(out)) != _deciding(protocol):
            time.sleep(0.2)
    elif wrong or _deciding(_written(out)) != _deciding(protocol):
        _clear(out, streams)
        out.mkdir(parents=True, exist_ok=True)
        with written_whole(out / PROTOCOL) as part:
            part.write_text(json.dumps(protocol, indent=2) + "\n")


def digest(tree: Any) -> str:
    """A checksum, CRC-32, of the values of all arrays of a tree, such as parameters."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(on_host(leaf).tobytes(), total)
    return f"{total:08x}"


def _difference(out: Path, protocol: dict[str, Any], num: int) -> str:
    """What is wrong with going on in `out`: nothing where it holds no samples, or the first ones of this protocol."""
    shards, old, new = shards_in(out), _deciding(_written(out)), _deciding(protocol)
    if not shards or (old == new and shards[-1].stop <= num):
        return ""
    if old is None:
        return f"{out} has samples, and no {PROTOCOL} that says of what"
    if old == new:
        return f"{out} has samples up to {shards[-1].stop - 1}, which are more than --num={num}"
    keys = [key for key in old | new if old.get(key) != new.get(key)]
    changes = (f"{key}: {_said(old.get(key))} -> {_said(new.get(key))}" for key in keys)
    return f"{out} has samples of another protocol, {', '.join(changes)}"


def _deciding(protocol: Any) -> Any:
    """The entries of a protocol on which its samples depend; None of none."""
    return protocol and {key: value for key, value in protocol.items() if key not in MENTIONED}


def _said(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value)


def _written(out: Path) -> dict[str, Any] | None:
    """The protocol of a folder, if it has one. Raises ValueError if it cannot be read."""
    try:
        return json.loads((out / PROTOCOL).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{out / PROTOCOL} cannot be read: {error}; remove it, or choose another --out") from None


def _clear(out: Path, streams: Streams) -> None:
    """Remove what was written of samples: never another file."""
    shutil.rmtree(out / SHARDS, ignore_errors=True)
    for name in (SAMPLES, "samples.png", "interpolation.gif"):
        (out / name).unlink(missing_ok=True)
    for name, stream in streams.items():
        if stream.view.save is not None:
            for file in (out / name).glob("*"):
                if file.stem.isdecimal():
                    file.unlink()
