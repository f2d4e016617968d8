"""Accelerators and how many there are of them: what a plan is held against, by the vendors' data sheets."""

import math
import re
from typing import NamedTuple

from dit_jax.names import ConfigError, choose
from dit_jax.training.flops import PEAK

GIB = 2**30


class Chip(NamedTuple):
    """One accelerator. memory: bytes that a program may use; bandwidth: of that memory, bytes/s; peak: dense bf16
    operations/s; link: bytes/s to one neighbour, in one direction; dimensions: of the torus that links make, 0 for
    chips that all reach each other; ring: the length from which a dimension's ends are linked."""

    memory: float
    bandwidth: float
    peak: float
    link: float
    dimensions: int = 0
    ring: int = 0


# TPUs: Google Cloud's pages of each version, and the memory that its compiler says there is. GPUs: NVIDIA's data sheets
# of the SXM versions; a link is NVLink's share of one direction.
CHIPS = {
    "v4": Chip(31.25 * GIB, 1.228e12, PEAK["TPU v4"], 45e9, 3, 4),
    "v5e": Chip(15.75 * GIB, 0.819e12, PEAK["TPU v5 lite"], 45e9, 2, 16),
    "v5p": Chip(95 * GIB, 2.765e12, PEAK["TPU v5p"], 90e9, 3, 4),
    "v6e": Chip(31.25 * GIB, 1.64e12, PEAK["TPU v6 lite"], 90e9, 2, 16),
    "a100": Chip(80e9, 2.039e12, PEAK["NVIDIA A100-SXM4-80GB"], 300e9),
    "h100": Chip(80e9, 3.35e12, PEAK["NVIDIA H100 80GB HBM3"], 450e9),
    "h200": Chip(141e9, 4.8e12, PEAK["NVIDIA H200"], 450e9),
}
EXAMPLES = "v5e:16x16, v5p:8x8x8, v6e:16x16, v4:4x4x4, h100:8, h200:8 or a100:8"


class Topology(NamedTuple):
    """So many chips of a kind, and how they are wired: shape (16, 16) is a torus of 256, (8,) are 8 in one host."""

    kind: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def number(self) -> int:
        """How many chips there are."""
        return math.prod(self.shape)

    @property
    def is_tpu(self) -> bool:
        return self.chip.dimensions > 0

    def bandwidth(self, count: int) -> float:
        """Bytes/s that one chip can send in a collective of `count` chips: by every link of the dimensions that they
        lie along, both ways round where the dimension is a ring."""
        if not self.is_tpu:
            return self.chip.link
        used, left = 0, count
        for size in sorted(self.shape, reverse=True):
            if left > 1 and size > 1:
                used += 2 if size % self.chip.ring == 0 else 1
                left = -(-left // size)
        return max(used, 1) * self.chip.link


def parse_topology(text: str) -> Topology:
    """'v5e:16x16' or 'h100:8' -> the chips and how many. Raises ConfigError for anything else."""
    kind, _, shape = text.partition(":")
    chip = choose(CHIPS, kind, "--topology: the chip")
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise ConfigError(f"--topology={text} should be CHIP:SHAPE, such as {EXAMPLES}")
    sizes = tuple(map(int, shape.split("x")))
    if len(sizes) != max(chip.dimensions, 1):
        raise ConfigError(f"--topology={text}: a shape of {kind} has {max(chip.dimensions, 1)} sizes, as in {EXAMPLES}")
    return Topology(kind, chip, sizes)
