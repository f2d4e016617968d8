"""One writer a directory: a lock file that says who holds it, and that the system frees when the holder is gone."""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from dit_jax.parallel import hosts

NAME = "train.lock"


class LockedError(OSError):
    """A directory that another process writes to."""


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the lock of a directory, an flock on WORKDIR/train.lock; of several processes of a job, process 0 does.

    The file stays and the lock goes with its process, even one that was killed. Raises LockedError, naming who holds
    it, if another process does.
    """
    if not hosts.is_first():
        yield
        return
    file = workdir / NAME
    with os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT, 0o644), "r+") as opened:
        _take(opened.fileno(), file, opened.read())
        opened.seek(0)
        opened.truncate()
        since = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        json.dump({"host": socket.gethostname(), "pid": os.getpid(), "since": since}, opened)
        opened.flush()
        yield


def _take(descriptor: int, file: Path, held: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(f"{file.parent} is being written to {_holder(held, file)}") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL):
            raise LockedError(f"{file} cannot be locked ({error.strerror})") from error
        print(f"{file} cannot be locked ({error.strerror}): nothing keeps a second train.py out of {file.parent}")


def _holder(held: str, file: Path) -> str:
    """By whom, and what to do."""
    try:
        holder = json.loads(held)
        who = f"by process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (ValueError, KeyError, TypeError):  # it has just taken the lock, and not said so yet
        return "by another process; choose another --workdir"
    if holder["host"] == socket.gethostname():
        return f"{who}: stop it, or choose another --workdir"
    return f"{who}: stop it there, or choose another --workdir; if that host is gone for good, remove {file}"
