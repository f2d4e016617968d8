"""Configs: numbers and names in, objects out. The only file that reads a configuration.

A config file's `get_config()` starts from `default()`, adds its streams and changes what it wants. `build` turns every
section into an object by calling a function with the section's entries as arguments, so the functions' signatures are
the schema: unknown keys, missing keys and wrong types are errors that name the key, before anything compiles.
"""

import ast
import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import ml_collections
from jax.sharding import Mesh
from ml_collections import config_flags

from dit_jax.data.pipeline import AUGMENTATIONS
from dit_jax.diffusion.ddpm import DDPM
from dit_jax.diffusion.gaussian import CLOCKS, PREDICTIONS, Gaussian
from dit_jax.diffusion.grids import GRIDS
from dit_jax.diffusion.guidance import COMBINE
from dit_jax.diffusion.levels import LEVELS, TOGETHER
from dit_jax.diffusion.masked import REVEALS
from dit_jax.diffusion.objective import OBJECTIVES
from dit_jax.diffusion.schedules import SCHEDULES
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.span import SPAN
from dit_jax.diffusion.stream import Stream, Streams
from dit_jax.names import nearest
from dit_jax.network.dit import BLOCKS, CHOICES, REMAT, WEIGHTS, DiT, frames
from dit_jax.parallel.mesh import check_division, make_mesh
from dit_jax.parallel.modes import MODES, jit_mode
from dit_jax.run import Checkpoint, Data, Parallel, Run, Sample, Train
from dit_jax.streams import audio, duration, image, label, past, span, text, video
from dit_jax.streams.given import read_given
from dit_jax.training.checkpoint import open_reader, read_meta, restore_ema
from dit_jax.training.optimizer import make_optimizer


class ConfigError(ValueError):
    """A mistake in a configuration, with the key, the value and the fix in its message."""


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
    _choose(REMAT, remat, "model.remat")
    _choose(dict.fromkeys(WEIGHTS), weights, "model.weights")
    _choose(dict.fromkeys(CHOICES["attention"]), attention, "model.attention")
    _choose(dict.fromkeys(CHOICES["experts"]), experts, "model.experts")
    if heads < 1 or width % heads:
        raise ConfigError(f"model.heads = {heads} does not divide model.width = {width}")
    if attention == "factorised":
        frames(streams, depth)
    return DiT(
        streams,
        width,
        depth,
        heads,
        mlp_ratio,
        block=dataclasses.replace(_choose(BLOCKS, block, "model.block"), attention=attention, experts=experts),
        dtype=_choose({"float32": jnp.float32, "bfloat16": jnp.bfloat16}, dtype, "model.dtype"),
        remat=remat,
        unroll=unroll,
        weights=weights,
    )


def _gaussian(
    schedule: str = "rectified",
    prediction: str = "x",
    loss_in: str = "velocity",
    clamp: float = 0.05,
    clock: str = "thousandth",
    outputs: int = 1,
) -> Gaussian:
    return Gaussian(
        schedule=_choose(SCHEDULES, schedule, "schedule"),
        prediction=_choose(PREDICTIONS, prediction, "prediction"),
        loss_in=_choose(PREDICTIONS, loss_in, "loss_in"),
        clamp=clamp,
        clock=_choose(CLOCKS, clock, "clock"),
        outputs=outputs,
    )


def _image(
    shape: tuple,
    patch: int = 2,
    process: str = "gaussian()",
    levels: str = "logit_normal(mean=0.8, std=0.8)",
    codec: str = "",
) -> Stream:
    return image(shape, patch, _called(process, PROCESSES, "process"), _called(levels, LEVELS, "levels"), codec)


def _video(
    shape: tuple,
    patch: tuple = (1, 4, 4),
    process: str = "gaussian()",
    levels: str = "logit_normal(mean=0.8, std=0.8)",
) -> Stream:
    return video(shape, patch, _called(process, PROCESSES, "process"), _called(levels, LEVELS, "levels"))


def _audio(
    length: int,
    patch: int = 64,
    rate: int = 8000,
    process: str = "gaussian()",
    levels: str = "logit_normal(mean=0.8, std=0.8)",
    basis: str = "samples",
) -> Stream:
    return audio(length, patch, rate, _called(process, PROCESSES, "process"), _called(levels, LEVELS, "levels"), basis)


def _text(
    length: int,
    vocabulary: int = 256,
    levels: str = "uniform()",
    blocks: int = 1,
    merges: str = "",
) -> Stream:
    return text(length, vocabulary, _called(levels, LEVELS, "levels"), blocks, merges)


def _past(above: Streams, of: str = "text") -> Stream:
    return past(_choose(above, of, "of"), of)


def _duration(above: Streams, of: str = "speech", dropout_rate: float = 0.1) -> Stream:
    return duration(_choose(above, of, "of"), of, dropout_rate)


PROCESSES: dict[str, Callable[..., Gaussian]] = {"gaussian": _gaussian, "ddpm": lambda: DDPM()}
STREAMS: dict[str, Callable[..., Stream]] = {
    "audio": _audio,
    "duration": _duration,
    "image": _image,
    "label": label,
    "past": _past,
    "span": span,
    "text": _text,
    "video": _video,
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
    sections = {name: {p.name: _field(p) for p in _optional(function)} for name, function in SECTIONS.items()}
    config = ml_collections.ConfigDict({"streams": ml_collections.ConfigDict(), **sections})
    config.streams.unlock()
    return config.lock()


def stream(kind: str, **entries: Any) -> dict:
    """The config of a stream: its kind, all of its defaults, and the entries given."""
    return {"kind": kind, **_defaults(_choose(STREAMS, kind, "kind")), **entries}


def define_flag():
    """--config=FILE[:VARIANT], with --config.section.key=value."""
    return config_flags.DEFINE_config_file("config", None, "config file, with an optional :VARIANT")


def build(config: ml_collections.ConfigDict | dict) -> Run:
    """A ConfigDict, or the dict that a checkpoint holds -> the objects of a run."""
    try:
        config = json.loads(json.dumps(config) if isinstance(config, dict) else config.to_json())
    except OSError as error:  # how ml_collections says that a config file could not be loaded
        raise ConfigError(f"--config: {str(error).strip().splitlines()[-1].strip()}") from None
    _known(config, {"streams", *SECTIONS}, "config")
    streams: Streams = {}
    for name, entries in config["streams"].items():
        streams[name] = _stream(entries, f"streams.{name}", streams)
    if not any(stream.positions is not None for stream in streams.values()):
        raise ConfigError("streams needs at least one with tokens, such as config.stream('image', shape=(8, 8, 1))")
    train = _call(Train, config.get("train", {}), "train", {})
    context = {"model": {"streams": streams}, "optimizer": {"steps": train.steps}}
    sections = {
        name: _call(function, config.get(name, {}), name, context.get(name, {})) for name, function in SECTIONS.items()
    }
    run = Run(config=config, streams=streams, **sections)
    _check(run)
    return run


def restore_run(workdir: str, fsdp: int = 1) -> tuple[Run, Any, Mesh]:
    """(run, averaged parameters, mesh) of a run's newest checkpoint, which knows its own config.

    The mesh is of all devices here; `fsdp` of them share each copy of the parameters.
    """
    with open_reader(workdir) as reader:
        config, mesh = read_meta(reader)["config"], make_mesh(fsdp=fsdp)
        drawing = {
            name: section for name, section in config.items() if name != "optimizer"
        }  # which only training needs
        run = dataclasses.replace(build(drawing), config=config)
        abstract = jit_mode(mesh).abstract(run.model.init)
        check_division(abstract, mesh)
        return run, restore_ema(reader, abstract), mesh


def _stream(entries: dict, path: str, above: Streams) -> Stream:
    entries = dict(entries)
    kind = entries.pop("kind", None)
    function = _choose(STREAMS, kind, f"{path}.kind")
    return _call(function, entries, path, {"above": above} if "above" in _parameters(function) else {})


def _check(run: Run):
    _choose(AUGMENTATIONS, run.data.augment, "data.augment")
    _choose(MODES, run.parallel.mode, "parallel.mode")
    _choose(OBJECTIVES, run.train.objective, "train.objective")
    _choose(TOGETHER, run.train.levels, "train.levels")
    drawn = [name for name, stream in run.streams.items() if stream.head is not None]
    if run.train.levels == "corners" and len(drawn) < 2:
        raise ConfigError("train.levels = 'corners' needs two streams or more to draw; there is " + ", ".join(drawn))
    if run.train.objective != "denoise" and (SPAN not in run.streams or len(drawn) != 1):
        raise ConfigError(
            f"train.objective = {run.train.objective!r} needs one stream to draw, and a stream "
            f"{SPAN!r} = config.stream('span'); there are: {', '.join(run.streams)}"
        )
    if run.train.objective != "denoise" and any(run.streams[name].groups > 1 for name in drawn):
        raise ConfigError(f"train.objective = {run.train.objective!r} is for streams without groups, such as frames")
    if run.train.objective != "denoise":
        process = run.streams[drawn[0]].process
        if not isinstance(process, Gaussian) or process.prediction is not PREDICTIONS["velocity"]:
            raise ConfigError(
                f"train.objective = {run.train.objective!r} needs a stream that predicts velocities: "
                f"streams.{drawn[0]}.process = \"gaussian(prediction='velocity')\""
            )
    if run.data.augment == "flip" and "image" not in run.streams:
        raise ConfigError(f"data.augment = 'flip' mirrors a stream 'image'; there are: {', '.join(run.streams)}")
    if not 0 <= run.train.ema < 1:
        raise ConfigError(f"train.ema = {run.train.ema} should be at least 0 and below 1")
    for name in run.sample.first:
        _choose(dict.fromkeys(drawn), name, "sample.first")
    for name in run.sample.drawn:
        _choose(dict.fromkeys(drawn), name, "sample.drawn")
    _choose(SOLVERS, run.sample.solver, "sample.solver")
    _choose(REVEALS, run.sample.reveal, "sample.reveal")
    _choose(GRIDS, run.sample.grid, "sample.grid")
    _choose(COMBINE, run.sample.combine, "sample.combine")
    levels = [level for level in run.sample.interval if isinstance(level, int | float)]
    if not (len(levels) == len(run.sample.interval) == 2 and 0 <= levels[0] <= levels[1] <= 1):
        raise ConfigError(f"sample.interval = {run.sample.interval} should be two levels, 0 <= low <= high <= 1")
    shapes = [stream.shape for stream in run.streams.values() if isinstance(stream.process, Gaussian)]
    most = max((shape[-1] for shape in shapes if shape), default=0)
    if not 0 <= run.sample.channels <= most:
        raise ConfigError(f"sample.channels = {run.sample.channels} should be at most {most}, or 0 for all")
    if run.sample.weak and run.sample.every:
        raise ConfigError(f"sample.weak = {run.sample.weak!r}: training draws with one network; use sample.py --weak")
    try:
        read_given(run.streams, run.sample.given, 1)
    except (ValueError, OSError) as error:
        raise ConfigError(f"sample.given: {error}") from None
    try:
        run.sample.scale(), run.sample.longer()
    except ValueError as error:
        raise ConfigError(f"sample.{error}") from None
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


# Calling functions with sections -------------------------------------------------------------------------------------


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(function, eval_str=True).parameters)


def _optional(function: Callable) -> list[inspect.Parameter]:
    return [p for p in _parameters(function).values() if p.default is not inspect.Parameter.empty]


def _defaults(function: Callable) -> dict:
    return {p.name: p.default for p in _optional(function)}


def _field(parameter: inspect.Parameter) -> Any:
    """A default in a ConfigDict, which takes values of another type only where it is told that there are several."""
    several = isinstance(parameter.annotation, types.UnionType)
    return ml_collections.FieldReference(parameter.default, field_type=object) if several else parameter.default


def _call(function: Callable, section: Mapping, path: str, context: Mapping) -> Any:
    """function(**section), checked; arguments that come from elsewhere in the run are in `context`."""
    parameters = _parameters(function)
    _known(section, parameters.keys() - context.keys(), path)
    arguments = dict(context)
    for name, value in section.items():
        arguments[name] = _typed(value, parameters[name].annotation, f"{path}.{name}")
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in arguments]
    if missing:
        raise ConfigError(f"{path}.{missing[0]} is missing")
    try:
        return function(**arguments)
    except ConfigError as error:
        raise ConfigError(str(error) if str(error).startswith(path) else f"{path}.{error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _known(section: Mapping, allowed, path: str):
    for key in section:
        if key not in allowed:
            raise ConfigError(f"{path}.{key} does not exist; {nearest(key, allowed)}")


def _choose(table: Mapping, name: Any, path: str) -> Any:
    if name not in table:
        raise ConfigError(f"{path} = {name!r} does not exist; {nearest(name, table)}")
    return table[name]


def _typed(value: Any, wanted: Any, path: str) -> Any:
    """The value as the wanted type: an int may stand for a float and a list for a tuple, and nothing else changes."""
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if float in options and type(value) is int:
        return float(value)
    if tuple in options and isinstance(value, list | tuple):
        return tuple(value)
    if not any(type(value) is option or (value is None and option is types.NoneType) for option in options):
        names = " or ".join(getattr(option, "__name__", str(option)) for option in options)
        raise ConfigError(f"{path} = {value!r} is a {type(value).__name__}, and has to be {names}")
    return value


def _called(text: str, table: Mapping[str, Callable], path: str) -> Any:
    """'logit_normal(mean=0.8, std=0.8)' -> the function of that name in the table, called so."""
    try:
        call = ast.parse(text, mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, AssertionError, ValueError):
        known = ", ".join(f"{name}()" for name in table)
        raise ConfigError(f"{path} = {text!r} should be a call of one of: {known}, with name=value in it") from None
    return _call(_choose(table, call.func.id, path), arguments, path, {})
