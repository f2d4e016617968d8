"""Roofline: how long a chip takes at least for what it has to do, and which of its parts decides it.

Williams, Waterman & Patterson 2009: a program takes at least the time of the part that is busy longest, here matrix
units, memory and links; and at most, if nothing overlaps with sending, that of the first two and the links after each
other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from dit_jax.planning.chips import Topology


class Sent(NamedTuple):
    """Collectives of a kind over axes of the mesh: bytes of the whole arrays on one chip."""

    kind: str
    axes: tuple[str, ...]
    bytes: float


class Work(NamedTuple):
    """Of one chip, in one update or one batch of samples. operations: in matrix products, recomputed ones too; model:
    three forward passes' worth of training, the convention of MFU; state, temporaries, traffic: bytes."""

    operations: float
    model: float
    state: float
    temporaries: float
    traffic: float
    sent: Sequence[Sent]


class Bound(NamedTuple):
    """Seconds of each part; overlapped, serial: of all, if sending is hidden behind the rest, and if not."""

    parts: Mapping[str, float]
    overlapped: float
    serial: float

    @property
    def binds(self) -> str:
        """The part that decides."""
        return max(self.parts, key=lambda name: self.parts[name])


def bound(work: Work, topology: Topology, sizes: Mapping[str, int]) -> Bound:
    """The roofline of work on a topology, whose mesh has axes of these sizes."""
    chip = topology.chip
    parts = {
        "matrix units": work.operations / chip.peak,
        "memory": work.traffic / chip.bandwidth,
        "links": sum(seconds(sent, topology, sizes) for sent in work.sent),
    }
    busy = max(parts["matrix units"], parts["memory"])
    return Bound(parts, max(parts.values()), busy + parts["links"])


def seconds(sent: Sent, topology: Topology, sizes: Mapping[str, int]) -> float:
    """Of a collective, by rings in both directions: each chip sends all but its own part, twice for an all-reduce."""
    count = math.prod(sizes[axis] for axis in sent.axes)
    if sent.kind == "collective-permute":
        return sent.bytes / topology.chip.link
    rounds = 2 if sent.kind == "all-reduce" else 1
    return rounds * sent.bytes * (count - 1) / count / topology.bandwidth(count)


def mfu(work: Work, topology: Topology, time: float) -> float:
    """Model FLOPs utilisation: useful operations over what the chip could do in that time."""
    return work.model / topology.chip.peak / time
