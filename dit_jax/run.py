"""What a run is made of. `config.py` makes one of these from a configuration; everything else reads it."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal

from dit_jax.data.pipeline import AUGMENTATIONS
from dit_jax.data.sources import DATA_DIR
from dit_jax.diffusion.grids import GRIDS
from dit_jax.diffusion.guidance import COMBINE, Excess, Guidance, autoguided, classifier_freed, excess
from dit_jax.diffusion.joint_levels import JOINT_LEVELS
from dit_jax.diffusion.masked import REVEALS
from dit_jax.diffusion.objective import OBJECTIVES
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Predict, Streams
from dit_jax.names import ConfigError
from dit_jax.network.dit import DiT
from dit_jax.parallel.mesh import AXES
from dit_jax.parallel.modes import MODES
from dit_jax.schema import EACH, Local, Range, check_fields
from dit_jax.training.optimizer import Optimizer

Count = Annotated[int, Range(at_least=1)]
Batch = Annotated[int, Range(at_least=1, at_most=2**20)]
Seed = Annotated[int, Range(at_least=0, below=2**32)]  # all bits of a seed count, and JAX takes 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The data section: a data set by name (see data/sources.py), and the examples of an update, over all devices and
    micro-batches."""

    name: Local = "digits"
    dir: Local = DATA_DIR
    batch_size: Batch = 64
    holdout: Annotated[float, Range(at_least=0, below=1)] = 0.0  # share of a folder's images that is not trained on
    augment: Annotated[str, AUGMENTATIONS] = "none"
    threads: Annotated[int, Range(at_least=0, at_most=1024)] = 1  # that prepare batches ahead
    unreadable: Literal["stop", "skip"] = "stop"  # at a record that cannot be read, or take the next one
    changed: Literal["refuse", "allow"] = "refuse"  # whether a run goes on with other data than it was trained on

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """The train section: how many updates, of which loss."""

    steps: Count = 1000  # updates in all
    objective: Annotated[str, OBJECTIVES] = "denoise"
    levels: Annotated[str, JOINT_LEVELS] = "independent"  # how those of several streams go together
    seed: Seed = 0
    ema: Annotated[float, Range(at_least=0, below=1)] = 0.999  # decay of the averaged parameters
    accumulation: Count = 1  # micro-batches of an update
    log_every: Count = 50
    patience: Count = 50  # skipped updates in a row, after which training ends
    spike: Annotated[float, Range(at_least=0)] = 0.0  # standard deviations of a gradient norm that is skipped; 0: none
    rollback: Annotated[int, Range(at_least=0)] = 0  # times that training goes back to a checkpoint when it diverges
    init: Local = ""  # a workdir or a file of published weights, whose weights step 0 has
    freeze: str = ""  # a regular expression: parameters whose path has it are not trained
    watchdog: Annotated[float, Range(at_least=-1)] = -1.0  # seconds without a step; -1: of itself, 0: no limit
    stopped_status: Annotated[int, Range(at_least=0, at_most=255)] = 0  # of a process that a signal stops

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """The checkpoint section: how often, and how many stay. One is always written at the end."""

    every: Count = 1000
    keep: Count = 2

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelOptions:
    """The parallel section: jit over a mesh, or pmap; and the sizes of the mesh, of which -1 takes the devices that are
    left."""

    mode: Annotated[str, MODES] = "jit"
    data: int = -1
    fsdp: int = 1
    context: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        check_fields(self)

    def axes(self) -> dict[str, int]:
        """The sizes of the mesh, by the names of its axes."""
        return {axis: getattr(self, axis) for axis in AXES}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleOptions:
    """The sample section: how samples are drawn, in training, by the sample command and for scores; flags of commands
    have these names and meanings, and what they do not say is as in the run."""

    every: Annotated[int, Range(at_least=0)] = 0  # updates between pictures in training; 0 for none
    num: Annotated[Count, "how many samples"] = 64
    given: Annotated[
        tuple[str, ...],
        EACH,
        "STREAM=VALUE: label=all, label=none (the null class), image=FILE, text=In*, text=@FILE, clip=FILE:prefix=2; "
        r"a backslash takes a sign as it is: \* anywhere in a text, \@ in front, \:prefix=",
    ] = ()
    guidance: Annotated[float | str, "scale, 1 for none; or one for each given stream: name=2,image=1.5"] = 1.0
    interval: Annotated[tuple[float, float], "LOW,HIGH: the noise levels at which guidance acts"] = (0.0, 1.0)
    combine: Annotated[str, COMBINE, "how guidance combines two predictions"] = "linear"
    channels: Annotated[int, Range(at_least=0), "how many channels are guided; 0 is all"] = 0
    weak: Annotated[Local, "WORKDIR of a worse run, for autoguidance"] = ""
    steps: Annotated[Count, "solver steps; of text in blocks, steps of each block"] = 25
    solver: Annotated[str, SOLVERS, "how to move from level to level"] = "2m"
    reveal: Annotated[str, REVEALS, "which hidden tokens a step shows"] = "ancestral"
    grid: Annotated[str, GRIDS, "how the levels of the steps are spaced"] = "uniform"
    shift: Annotated[float, Range(above=0), "of the levels, towards noise where it is above 1"] = 1.0
    first: Annotated[tuple[str, ...], "streams that are drawn first, one by one, and then guide the others: name"] = ()
    drawn: Annotated[
        tuple[str, ...], "streams to draw, others are marginalised out; default: all that are not given"
    ] = ()
    rollout: Annotated[str, "STREAM=LENGTH:OVERLAP: longer than it was trained, in windows: clip=32:2"] = ""
    seed: Annotated[Seed, "sample i of a seed is the same for every num, batch and number of devices"] = 0
    batch: Annotated[Batch, "samples drawn at a time"] = 64

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "given", tuple(text for text in self.given if text))
        if not 0 <= self.interval[0] <= self.interval[1] <= 1:
            raise ConfigError(f"interval = {self.interval} should be two levels, 0 <= low <= high <= 1")
        self.scale(), self.longer()

    def guide(self, weak: Predict | None = None, w: Excess | None = None) -> Guidance | None:
        """The guidance of these options, None at scale 1: autoguidance where there is a weak network, and
        classifier-free guidance where not. w: `excess()`, where that is traced."""
        w, options = self.excess() if w is None else w, (self.interval, COMBINE[self.combine], self.channels)
        if w is None:
            return None
        if weak is None:
            return classifier_freed(w, *options)
        if isinstance(w, Mapping):
            raise ValueError(f"guidance = {self.guidance!r} is for given streams; a weak network leads by one scale")
        return autoguided(weak, w, *options)

    def excess(self) -> Excess | None:
        """The guidance scale less one, or that of each stream; None where nothing is guided."""
        scale = self.scale()
        return None if scale == 1.0 else excess(scale)

    def scale(self) -> float | dict[str, float]:
        """Of guidance. Raises ConfigError if it is neither a number nor numbers with the names of streams."""
        try:
            if "=" not in str(self.guidance):
                scale = float(self.guidance)
                assert math.isfinite(scale)
                return scale
            words = (word.split("=") for word in str(self.guidance).split(","))
            scales = {name: float(value) for name, value in words}
            assert all(map(math.isfinite, scales.values()))
            return scales
        except (ValueError, AssertionError):
            raise ConfigError(f"guidance = {self.guidance!r} should be a number, or STREAM=NUMBER,...") from None

    def longer(self) -> tuple[str, int, int] | None:
        """(stream, length, overlap) of a rollout. Raises ConfigError if it is not written so."""
        if not self.rollout:
            return None
        words = re.fullmatch(r"(\w+)=(\d+):(\d+)", self.rollout)
        if words is None:
            raise ConfigError(f"rollout = {self.rollout!r} should be STREAM=LENGTH:OVERLAP, such as clip=32:2")
        name, length, overlap = words.groups()
        return name, int(length), int(overlap)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """All of it. config: the plain dict that it was built from, as checkpoints keep it. step: the updates that its
    weights have had; None where there are no weights yet, or they come from elsewhere."""

    config: dict
    streams: Streams
    model: DiT
    data: DataOptions
    optimizer: Optimizer
    train: TrainOptions
    checkpoint: CheckpointOptions
    parallel: ParallelOptions
    sample: SampleOptions
    step: int | None = None
