"""Configs: numbers and names in, objects out. The only file that reads a configuration.

A config file's `get_config()` starts from `default()`, adds its streams and changes what it wants. `build` turns every
section into an object by calling a function with the section's entries as arguments, so the functions' signatures are
the schema: unknown keys, missing keys and wrong types are errors that name the key, before anything compiles.
"""

import dataclasses
import json
import types
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_collections
from ml_collections import config_flags

from dit_jax.data.pipeline import AUGMENTATIONS
from dit_jax.diffusion.gaussian import PREDICTIONS
from dit_jax.diffusion.grids import GRIDS
from dit_jax.diffusion.guidance import COMBINE
from dit_jax.diffusion.joint_levels import JOINT_LEVELS
from dit_jax.diffusion.masked import REVEALS
from dit_jax.diffusion.meanflow import SPAN
from dit_jax.diffusion.objective import OBJECTIVES
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream, Streams
from dit_jax.names import ConfigError, choose
from dit_jax.network.dit import REMAT, WEIGHTS, DiT
from dit_jax.network.layers import BLOCKS, CHOICES
from dit_jax.network.layout import frame_count
from dit_jax.parallel.modes import MODES
from dit_jax.run import Checkpoint, Data, Parallel, Run, Sample, Train
from dit_jax.schema import call, check_keys, defaults, parameters
from dit_jax.streams import audio, duration, image, label, past, span, text, video
from dit_jax.streams.given import read_given
from dit_jax.training.optimizer import make_optimizer

# Sections ------------------------------------------------------------------------------------------------------------


def _model(
    streams: Streams,
    width: int = 384,
    depth: int = 12,
    heads: int = 6,
    mlp_ratio: float = 4.0,
    block: str = "published",
    attention: str = "full",
    experts: str = "none",
    dtype: str = "float32",
    remat: str = "dots",
    unroll: int = 1,
    weights: str = "alike",
) -> DiT:
    choose(REMAT, remat, "model.remat")
    choose(WEIGHTS, weights, "model.weights")
    choose(dict.fromkeys(CHOICES["attention"]), attention, "model.attention")
    choose(dict.fromkeys(CHOICES["experts"]), experts, "model.experts")
    if heads < 1 or width % heads:
        raise ConfigError(f"model.heads = {heads} does not divide model.width = {width}")
    if attention == "factorised":
        frame_count(streams, depth)
    return DiT(
        streams,
        width,
        depth,
        heads,
        mlp_ratio,
        block=dataclasses.replace(choose(BLOCKS, block, "model.block"), attention=attention, experts=experts),
        dtype=choose({"float32": jnp.float32, "bfloat16": jnp.bfloat16}, dtype, "model.dtype"),
        remat=remat,
        unroll=unroll,
        weights=weights,
    )


def _past(above: Streams, of: str = "text") -> Stream:
    return past(choose(above, of, "of"), of)


def _duration(above: Streams, of: str = "speech", dropout_rate: float = 0.1) -> Stream:
    return duration(choose(above, of, "of"), of, dropout_rate)


STREAMS: dict[str, Callable[..., Stream]] = {
    "audio": audio,
    "duration": _duration,
    "image": image,
    "label": label,
    "past": _past,
    "span": span,
    "text": text,
    "video": video,
}
SECTIONS: dict[str, Callable[..., Any]] = {
    "model": _model,
    "data": Data,
    "optimizer": make_optimizer,
    "train": Train,
    "checkpoint": Checkpoint,
    "parallel": Parallel,
    "sample": Sample,
}


# In ------------------------------------------------------------------------------------------------------------------


def default() -> ml_collections.ConfigDict:
    """All sections with their defaults, and no streams yet. Locked: only keys that exist can be set."""
    sections = {
        name: {key: _field(value, parameters(function)[key].annotation) for key, value in defaults(function).items()}
        for name, function in SECTIONS.items()
    }
    config = ml_collections.ConfigDict({"streams": ml_collections.ConfigDict(), **sections})
    config.streams.unlock()
    return config.lock()


def stream(kind: str, **entries: Any) -> dict:
    """The config of a stream: its kind, all of its defaults, and the entries given."""
    return {"kind": kind, **defaults(choose(STREAMS, kind, "kind")), **entries}


def define_flag():
    """--config=FILE[:VARIANT], with --config.section.key=value."""
    return config_flags.DEFINE_config_file("config", None, "config file, with an optional :VARIANT")


def build(config: ml_collections.ConfigDict | dict) -> Run:
    """A ConfigDict, or the dict that a checkpoint holds -> the objects of a run."""
    try:
        config = json.loads(json.dumps(config) if isinstance(config, dict) else config.to_json())
    except OSError as error:  # how ml_collections says that a config file could not be loaded
        raise ConfigError(f"--config: {str(error).strip().splitlines()[-1].strip()}") from None
    check_keys(config, {"streams", *SECTIONS}, "config")
    streams: Streams = {}
    for name, entries in config["streams"].items():
        streams[name] = _stream(entries, f"streams.{name}", streams)
    if not any(stream.positions is not None for stream in streams.values()):
        raise ConfigError("streams needs at least one with tokens, such as config.stream('image', shape=(8, 8, 1))")
    train = call(Train, config.get("train", {}), "train", {})
    context = {"model": {"streams": streams}, "optimizer": {"steps": train.steps}}
    sections = {
        name: call(function, config.get(name, {}), name, context.get(name, {})) for name, function in SECTIONS.items()
    }
    run = Run(config=config, streams=streams, **sections)
    _check(run)
    return run


def _stream(entries: dict, path: str, above: Streams) -> Stream:
    entries = dict(entries)
    kind = entries.pop("kind", None)
    function = choose(STREAMS, kind, f"{path}.kind")
    return call(function, entries, path, {"above": above} if "above" in parameters(function) else {})


def _check(run: Run):
    """Raises ConfigError for entries that do not go together, and for rows of tables that do not exist."""
    drawn = [name for name, stream in run.streams.items() if stream.head is not None]
    _check_counts(run)
    _check_training(run, drawn)
    _check_sampling(run.streams, run.sample, drawn)
    if run.sample.weak and run.sample.every:
        raise ConfigError(f"sample.weak = {run.sample.weak!r}: training draws with one network; use sample.py --weak")


def _check_counts(run: Run):
    positive = {
        "data.batch_size": run.data.batch_size,
        "train.steps": run.train.steps,
        "train.accumulation": run.train.accumulation,
        "train.log_every": run.train.log_every,
        "checkpoint.every": run.checkpoint.every,
        "checkpoint.keep": run.checkpoint.keep,
        "sample.num": run.sample.num,
        "sample.steps": run.sample.steps,
        "sample.batch": run.sample.batch,
    }
    for path, value in positive.items():
        if value < 1:
            raise ConfigError(f"{path} = {value} must be at least 1")
    if run.data.batch_size % run.train.accumulation:
        raise ConfigError(
            f"data.batch_size = {run.data.batch_size} is not divisible by train.accumulation = {run.train.accumulation}"
        )


def _check_training(run: Run, drawn: list[str]):
    choose(AUGMENTATIONS, run.data.augment, "data.augment")
    choose(MODES, run.parallel.mode, "parallel.mode")
    choose(OBJECTIVES, run.train.objective, "train.objective")
    choose(JOINT_LEVELS, run.train.levels, "train.levels")
    if run.data.augment == "flip" and "image" not in run.streams:
        raise ConfigError(f"data.augment = 'flip' mirrors a stream 'image'; there are: {', '.join(run.streams)}")
    if not 0 <= run.train.ema < 1:
        raise ConfigError(f"train.ema = {run.train.ema} should be at least 0 and below 1")
    if run.train.levels == "corners" and len(drawn) < 2:
        raise ConfigError("train.levels = 'corners' needs two streams or more to draw; there is " + ", ".join(drawn))
    if run.train.objective != "denoise":
        _check_meanflow(run, drawn)


def _check_meanflow(run: Run, drawn: list[str]):
    objective = f"train.objective = {run.train.objective!r}"
    if SPAN not in run.streams or len(drawn) != 1:
        raise ConfigError(
            f"{objective} needs one stream to draw, and a stream {SPAN!r} = config.stream('span'); there are: "
            f"{', '.join(run.streams)}"
        )
    stream = run.streams[drawn[0]]
    if stream.groups > 1:
        raise ConfigError(f"{objective} is for streams without groups, such as frames")
    if not stream.process.predicts(PREDICTIONS["velocity"]):
        raise ConfigError(
            f"{objective} needs a stream that predicts velocities: streams.{drawn[0]}.process = "
            "\"gaussian(prediction='velocity')\""
        )


def _check_sampling(streams: Streams, options: Sample, drawn: list[str]):
    for name in options.first:
        choose(dict.fromkeys(drawn), name, "sample.first")
    for name in options.drawn:
        choose(dict.fromkeys(drawn), name, "sample.drawn")
    choose(SOLVERS, options.solver, "sample.solver")
    choose(REVEALS, options.reveal, "sample.reveal")
    choose(GRIDS, options.grid, "sample.grid")
    choose(COMBINE, options.combine, "sample.combine")
    levels = [level for level in options.interval if isinstance(level, int | float)]
    if not (len(levels) == len(options.interval) == 2 and 0 <= levels[0] <= levels[1] <= 1):
        raise ConfigError(f"sample.interval = {options.interval} should be two levels, 0 <= low <= high <= 1")
    shapes = [stream.shape for stream in streams.values() if stream.process.is_continuous]
    most = max((shape[-1] for shape in shapes if shape), default=0)
    if not 0 <= options.channels <= most:
        raise ConfigError(f"sample.channels = {options.channels} should be at most {most}, or 0 for all")
    try:
        read_given(streams, options.given, 1)
    except (ValueError, OSError) as error:
        raise ConfigError(f"sample.given: {error}") from None
    try:
        options.scale(), options.longer()
    except ValueError as error:
        raise ConfigError(f"sample.{error}") from None


def _field(default: Any, annotation: Any) -> Any:
    """A default in a ConfigDict, which takes values of another type only where it is told that there are several."""
    several = isinstance(annotation, types.UnionType)
    return ml_collections.FieldReference(default, field_type=object) if several else default
