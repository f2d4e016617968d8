"""One job of several processes, such as one on each host."""

import re

import jax


def initialize(spec: str) -> None:
    """jax.distributed.initialize for this process of a job, before anything is computed.

    spec: 'HOST:PORT,COUNT,INDEX', where process 0 listens, how many there are and which one this is; or 'auto', which
    asks what started it: a TPU pod, Slurm or Open MPI. Raises ValueError for anything else.
    """
    if spec == "auto":
        return jax.distributed.initialize()
    words = re.fullmatch(r"([^,]+:\d+),(\d+),(\d+)", spec)
    if words is None or not int(words[3]) < int(words[2]):
        raise ValueError(f"--distributed={spec} should be auto, or HOST:PORT,COUNT,INDEX with INDEX = 0 ... COUNT - 1")
    address, count, index = words[1], int(words[2]), int(words[3])
    # Unless told otherwise, process 0 would listen on every network that its host is on.
    jax.distributed.initialize(address, count, index, coordinator_bind_address=address if index == 0 else None)
