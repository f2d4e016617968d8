"""One job of several processes, such as one on each host: how they join, check that they are one job, and agree.

Every process runs the same program on the same global arrays, and process 0 alone writes and speaks. What a process
decides by itself, such as to stop because a signal came, has to be agreed on, or the others wait for it forever.
"""

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

FLAG = "one of several processes: auto (Slurm, Open MPI or TPU pods say which), off, or HOST:PORT,COUNT,INDEX"

# How long, in seconds: until all have joined; until one that died is missed by the others, which end then; and how long
# one that ends waits for the others.
JOINING, HEARTBEAT, SHUTDOWN = 300, 30, 10

# What starts processes -> the environment variables that it sets for each, of which the first two are how many there
# are and which one this is.
STARTERS: dict[str, tuple[str, ...]] = {
    "Open MPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_MCA_orte_hnp_uri"),
    "Slurm": ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST"),
}
LAG = 2  # steps after which all know what one of them wants, so that no step waits for the answer


# Joining -------------------------------------------------------------------------------------------------------------


def join(spec: str, environment: Mapping[str, str] = os.environ) -> None:
    """jax.distributed.initialize for this process of a job, before anything is computed; nothing if it is alone.

    spec: 'HOST:PORT,COUNT,INDEX', where process 0 listens, how many there are and which one this is; 'auto', which
    asks what started it; 'off' or '' for a process by itself. Processes but the first print nothing from here on.

    Raises ValueError for anything else, for an environment that says only half of it, and for '' where this is one of
    several processes.
    """
    if spec in ("", "off"):
        if not spec and (starter := _started_several(environment)):
            raise ValueError(
                f"this is one of several processes that {starter} started: say --distributed=auto to make them one "
                "job, or --distributed=off for each by itself"
            )
        return
    waiting: dict[str, Any] = {
        "initialization_timeout": JOINING,
        "heartbeat_timeout_seconds": HEARTBEAT,
        "shutdown_timeout_seconds": SHUTDOWN,
    }
    jax.config.update("jax_enable_preemption_service", False)  # which swallows signals: stopping.py answers them
    # Of two programs at once, CPUs of two processes may begin with different ones, and wait for each other forever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if spec == "auto":
        starter = _starter(environment)
        jax.distributed.initialize(**waiting)
    else:
        starter = "--distributed"
        jax.distributed.initialize(**_explicit(spec), **waiting)
    here, count = jax.process_index(), jax.process_count()
    print(f"process {here} of {count} by {starter}, on {socket.gethostname()}: {jax.local_device_count()} devices")
    if here:
        sys.stdout.flush()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends


def _explicit(spec: str) -> dict[str, Any]:
    words = re.fullmatch(r"([^,]+):(\d+),(\d+),(\d+)", spec)
    if words is None or not int(words[4]) < int(words[3]):
        raise ValueError(
            f"--distributed={spec} should be auto, off, or HOST:PORT,COUNT,INDEX with INDEX = 0 ... COUNT - 1"
        )
    address, count, index = f"{words[1]}:{words[2]}", int(words[3]), int(words[4])
    # Unless told otherwise, process 0 would listen on every network that its host is on.
    listens = {"coordinator_bind_address": address} if index == 0 else {}
    return {"coordinator_address": address, "num_processes": count, "process_id": index, **listens}


def _starter(environment: Mapping[str, str]) -> str:
    """What has started this process. Raises ValueError where it says only half of what is to be known."""
    for name, variables in STARTERS.items():
        there = [variable for variable in variables if variable in environment]
        if len(there) == len(variables):
            return name
        if there:
            absent = next(variable for variable in variables if variable not in environment)
            raise ValueError(
                f"--distributed=auto: {there[0]} is set and {absent} is not, as in a shell inside a job of {name}, "
                "which is no process of it: start it by srun or mpirun, or say HOST:PORT,COUNT,INDEX or off"
            )
    return "the TPU pod"


def _started_several(environment: Mapping[str, str]) -> str:
    """What has started this process as one of several, if it is one."""
    for name, (count, *rest) in STARTERS.items():
        if environment.get(count, "1") != "1" and all(variable in environment for variable in rest):
            return name
    return ""


# Agreeing ------------------------------------------------------------------------------------------------------------


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return jax.process_index() == 0


def check_agreement(facts: Mapping[str, Any]) -> None:
    """Raises ValueError, naming the first key that differs and both values, unless all processes hold the same facts,
    a nest of dicts as JSON."""
    first, *others = (dict(_flat(told)) for told in _everybody(facts))
    for i, other in enumerate(others, 1):
        for key in {**first, **other}:
            if first.get(key) != other.get(key):
                raise ValueError(
                    f"process {i} has {key} = {other.get(key)!r}, and process 0 has {first.get(key)!r}: the processes "
                    "of a job need the same"
                )


def from_first(value: Any) -> Any:
    """What process 0 holds here, as JSON, for all of them."""
    return _everybody(value)[0]


def _everybody(value: Any) -> list[Any]:
    """What each process holds, as JSON, in their order."""
    text = json.dumps(value, default=str).encode()
    if jax.process_count() == 1:
        return [json.loads(text)]
    longest = int(multihost_utils.process_allgather(np.array(len(text))).max())
    every = multihost_utils.process_allgather(np.frombuffer(text.ljust(longest), np.uint8))
    return [json.loads(bytes(told)) for told in every]


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a nest of dicts, by the names on its way."""
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{key}.{name}".strip("."))


def code_digest() -> str:
    """The sha256 of this package's source, in short."""
    package, found = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        found.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return found.hexdigest()[:16]


def agreed(wish: Callable[[], bool]) -> Callable[[], bool]:
    """Whether any process of a job wishes, asked once a step by all of them: all hear of it at the same step, which is
    `LAG` later, so that none waits for the devices to catch up."""
    if jax.process_count() == 1:
        return wish
    mesh = Mesh(np.array(jax.devices()), ("all",))
    any_of = jax.jit(jnp.any, out_shardings=NamedSharding(mesh, P()))
    asked: deque[jax.Array] = deque()

    def answer() -> bool:
        own = np.full(jax.local_device_count(), wish())
        asked.append(any_of(jax.make_array_from_process_local_data(NamedSharding(mesh, P("all")), own)))
        return len(asked) > LAG and bool(asked.popleft())

    return answer


def anywhere(flag: bool) -> bool:
    """Whether it is so in any process of a job, all of which ask here."""
    return any(_everybody(flag))


def on_host(arrays: Any) -> Any:
    """A tree of arrays, wherever their parts are, whole in the memory of this process."""

    def whole(x: Any) -> np.ndarray:
        is_here = not isinstance(x, jax.Array) or x.is_fully_addressable
        return np.asarray(x) if is_here else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, arrays)


def barrier(name: str) -> None:
    """Wait until all processes of a job are here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def together(name: str) -> Iterator[None]:
    """Processes leave this block together, unless one of them fails."""
    yield
    barrier(name)
