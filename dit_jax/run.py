"""What a run is made of. `config.py` makes one of these from a configuration; everything else reads it."""

import dataclasses

import optax

from dit_jax.data.sources import DATA_DIR
from dit_jax.diffusion.guidance import Guidance, classifier_free
from dit_jax.diffusion.stream import Streams
from dit_jax.network.dit import DiT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """name: a data set (see data/sources.py). batch_size: examples an update, over all devices and micro-batches."""

    name: str = "digits"
    dir: str = DATA_DIR
    batch_size: int = 64
    augment: str = "none"
    threads: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    """steps: updates in all. ema: decay of the averaged parameters. accumulation: micro-batches an update."""

    steps: int = 1000
    seed: int = 0
    ema: float = 0.999
    accumulation: int = 1
    log_every: int = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """every: updates between checkpoints; one is always written at the end. keep: how many stay."""

    every: int = 1000
    keep: int = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parallel:
    """mode: jit over a mesh, or pmap. data, fsdp, context, tensor: the mesh; -1 takes the devices that are left."""

    mode: str = "jit"
    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """How samples are drawn: by `sample.py` unless it is told otherwise, and in training every `every` updates (0:
    never).

    given: what is given, as on the shell: ("label=all",). interval: the levels at which guidance acts.
    """

    every: int = 0
    num: int = 64
    given: tuple = ()
    guidance: float = 1.0
    interval: tuple = (0.0, 1.0)
    steps: int = 25
    solver: str = "2m"
    shift: float = 1.0
    seed: int = 0
    batch: int = 64

    def guide(self) -> Guidance | None:
        return None if self.guidance == 1.0 else classifier_free(self.guidance, self.interval)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """All of it. `config` is the plain dict that it was built from, as checkpoints keep it."""

    config: dict
    streams: Streams
    model: DiT
    data: Data
    optimizer: optax.GradientTransformation
    train: Train
    checkpoint: Checkpoint
    parallel: Parallel
    sample: Sample
