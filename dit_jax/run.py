"""What a run is made of. `config.py` makes one of these from a configuration; everything else reads it."""

import dataclasses
import re
from collections.abc import Mapping

import optax

from dit_jax.data.sources import DATA_DIR
from dit_jax.diffusion.guidance import COMBINE, Excess, Guidance, autoguided, classifier_freed, excess
from dit_jax.diffusion.stream import Predict, Streams
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
    """steps: updates in all. objective: a row of diffusion.objective.OBJECTIVES. levels: how those of several streams
    go together, a row of diffusion.joint_levels.JOINT_LEVELS. ema: decay of the averaged parameters. accumulation:
    micro-batches an update."""

    steps: int = 1000
    objective: str = "denoise"
    levels: str = "independent"
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

    given: what is given, as on the shell: ("label=all",). guidance: its scale, 1 for none, or "name=2,image=1.5", one
    for each given stream. interval: the levels at which it acts. combine: how it acts (see diffusion/guidance.py).
    channels: on how many of an image's, 0 for all. weak: a workdir whose newest checkpoint it leads away from, instead
    of from the same network without what is given. reveal: which tokens a step shows (see diffusion/masked.py). grid:
    how the levels of the steps are spaced (see diffusion/grids.py). first: streams that are drawn before the others,
    one by one, and then guide them as if they had been given: ("name",). drawn: which are drawn at all, () for all that
    are not given; any other is marginalised out. rollout: "clip=32:2", a stream that is to be that long, and the groups
    of it that each window sees of the one before (see diffusion/rollout.py).
    """

    every: int = 0
    num: int = 64
    given: tuple = ()
    guidance: float | str = 1.0
    interval: tuple = (0.0, 1.0)
    combine: str = "linear"
    channels: int = 0
    weak: str = ""
    steps: int = 25
    solver: str = "2m"
    reveal: str = "ancestral"
    grid: str = "uniform"
    shift: float = 1.0
    first: tuple = ()
    drawn: tuple = ()
    rollout: str = ""
    seed: int = 0
    batch: int = 64

    def guide(self, weak: Predict | None = None, w: Excess | None = None) -> Guidance | None:
        """None at scale 1; else autoguidance where there is a weak network, and classifier-free guidance where not.
        w: `excess()`, where that is traced."""
        w, how = self.excess() if w is None else w, (self.interval, COMBINE[self.combine], self.channels)
        if w is None:
            return None
        if weak is None:
            return classifier_freed(w, *how)
        if isinstance(w, Mapping):
            raise ValueError(f"guidance = {self.guidance!r} is for given streams; a weak network leads by one scale")
        return autoguided(weak, w, *how)

    def excess(self) -> Excess | None:
        """The guidance scale less one, or that of each stream; None where nothing is guided."""
        scale = self.scale()
        return None if scale == 1.0 else excess(scale)

    def scale(self) -> float | dict[str, float]:
        """Of guidance. Raises ValueError if it is neither a number nor numbers with the names of streams."""
        try:
            if "=" not in str(self.guidance):
                return float(self.guidance)
            words = (word.split("=") for word in str(self.guidance).split(","))
            return {name: float(value) for name, value in words}
        except ValueError:
            raise ValueError(f"guidance = {self.guidance!r} should be a number, or STREAM=NUMBER,...") from None

    def longer(self) -> tuple[str, int, int] | None:
        """(stream, length, overlap) of a rollout. Raises ValueError if it is not said so."""
        if not self.rollout:
            return None
        words = re.fullmatch(r"(\w+)=(\d+):(\d+)", self.rollout)
        if words is None:
            raise ValueError(f"rollout = {self.rollout!r} should be STREAM=LENGTH:OVERLAP, such as clip=32:2")
        name, length, overlap = words.groups()
        return name, int(length), int(overlap)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
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
