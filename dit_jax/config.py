"""Configs: numbers and names in, objects out. The only file that reads a configuration.

A config file's `get_config()` starts from `default()`, adds its streams and changes what it wants. `build` turns every
section into an object by calling a function with the section's entries as arguments, so the functions' signatures are
the schema (schema.py): unknown keys, missing keys, wrong types and ranges are errors that name the key, before anything
compiles.
"""

import json
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from dit_jax.diffusion.gaussian import PREDICTIONS
from dit_jax.diffusion.joint_levels import JOINT_LEVELS, independent
from dit_jax.diffusion.meanflow import SPAN
from dit_jax.diffusion.stream import Stream, Streams, drawable
from dit_jax.names import ConfigError, choose, nearest
from dit_jax.network.dit import DiT
from dit_jax.network.layout import token_counts
from dit_jax.run import CheckpointOptions, DataOptions, ParallelOptions, Run, SampleOptions, TrainOptions
from dit_jax.sampling.given import parse_given
from dit_jax.schema import call, check_keys, defaults, parameters, plain
from dit_jax.streams import audio, duration, image, label, past, span, text, video
from dit_jax.training.optimizer import make_optimizer

SHIPPED = Path(__file__).parent / "configs"

STREAMS: dict[str, Callable[..., Stream]] = {
    "audio": audio,
    "duration": duration,
    "image": image,
    "label": label,
    "past": past,
    "span": span,
    "text": text,
    "video": video,
}
SECTIONS: dict[str, Callable[..., Any]] = {
    "model": DiT,
    "data": DataOptions,
    "optimizer": make_optimizer,
    "train": TrainOptions,
    "checkpoint": CheckpointOptions,
    "parallel": ParallelOptions,
    "sample": SampleOptions,
}
# Arguments that do not come from a section: of a network, its streams, and what flax adds to a module's.
FROM_ELSEWHERE = {"model": ("streams", "parent", "name"), "optimizer": ("steps",)}
HOLDOUT = 0.1  # of new runs


def default() -> ml_collections.ConfigDict:
    """All sections with their defaults, and no streams yet. Locked: only keys that exist can be set.

    Some of a folder's images is held out, which a config without that entry, such as that of an older run, does not do.
    """
    config = ml_collections.ConfigDict({"streams": ml_collections.ConfigDict()})
    for name, function in SECTIONS.items():
        schema, elsewhere = parameters(function), FROM_ELSEWHERE.get(name, ())
        entries = {key: value for key, value in defaults(function).items() if key not in elsewhere}
        config[name] = {key: _field(value, plain(schema[key].annotation)) for key, value in entries.items()}
    config.streams.unlock()
    config.data.holdout = HOLDOUT
    return config.lock()


def stream(kind: str, **entries: Any) -> dict:
    """The config of a stream: its kind, all of its defaults, and the entries given. Raises ConfigError for a kind that
    does not exist."""
    return {"kind": kind, **defaults(choose(STREAMS, kind, "kind")), **entries}


def load(name: str) -> ml_collections.ConfigDict:
    """The config NAME[:VARIANT] of a file: one that comes with the package, such as "digits", or a path.

    Raises ConfigError for a name that does not exist and for a file that is none.
    """
    holder, words = flags.FlagValues(), with_paths([f"--config={name}"])
    flag = define_flag(holder, words)
    try:
        holder(["", *words])
        return flag.value
    except (flags.Error, OSError) as error:
        raise ConfigError(f"config = {name!r}: {str(error).strip().splitlines()[-1].strip()}") from None


def define_flag(holder: flags.FlagValues, words: Sequence[str]) -> flags.FlagHolder:
    """--config=FILE[:VARIANT], with --config.section.key=value among the words of the command line."""
    about = "a config by name, such as digits, or its file; --config=NAME:VARIANT where there are some"
    return config_flags.DEFINE_config_file("config", None, about, flag_values=holder, sys_argv=["", *words])


def with_paths(arguments: Sequence[str]) -> list[str]:
    """The arguments of a command, where --config=NAME is the file of that config. Raises ConfigError if there is
    none."""
    flag, found = "--config=", []
    for argument in arguments:
        name, colon, variant = argument.removeprefix(flag).partition(":")
        is_name = argument.startswith(flag) and name and "/" not in name and not name.endswith(".py")
        found.append(f"{flag}{_shipped(name)}{colon}{variant}" if is_name else argument)
    return found


def _shipped(name: str) -> Path:
    names = [file.stem for file in SHIPPED.glob("[a-z]*.py")]
    if name not in names:
        raise ConfigError(f"--config={name} is no config that comes with the package; {nearest(name, names)}")
    return SHIPPED / f"{name}.py"


def build(config: ml_collections.ConfigDict | dict) -> Run:
    """A ConfigDict, or the dict that a checkpoint holds -> the objects of a run.

    Raises ConfigError, naming the key, the value and the fix.
    """
    try:
        config = json.loads(json.dumps(config) if isinstance(config, dict) else config.to_json())
    except OSError as error:  # how ml_collections says that a config file could not be loaded
        raise ConfigError(f"--config: {str(error).strip().splitlines()[-1].strip()}") from None
    check_keys(config, {"streams", *SECTIONS}, "config")
    streams: Streams = {}
    for name, entries in config["streams"].items():
        streams[name] = _stream(entries, f"streams.{name}", streams)
    if not token_counts(streams):
        raise ConfigError("streams needs at least one with tokens, such as config.stream('image', shape=(8, 8, 1))")
    train = call(TrainOptions, config.get("train", {}), "train", {})
    context: dict[str, dict] = {
        "model": {"streams": streams, "parent": None, "name": None},
        "optimizer": {"steps": train.steps},
    }
    sections = {
        name: call(function, config.get(name, {}), name, context.get(name, {})) for name, function in SECTIONS.items()
    }
    run = Run(config=config, streams=streams, **sections)
    _check(run)
    return run


def _stream(entries: dict, path: str, above: Streams) -> Stream:
    """A stream of its section; one `of` another is made of that, which stands above it."""
    entries = dict(entries)
    function = choose(STREAMS, entries.pop("kind", None), f"{path}.kind")
    context = {}
    if "of" in parameters(function):
        of = entries.get("of", defaults(function)["of"])
        context["stream"] = choose(above, of, f"{path}.of")
    return call(function, entries, path, context)


def _check(run: Run):
    """Raises ConfigError for entries of several sections that do not go together."""
    if run.data.batch_size % run.train.accumulation:
        raise ConfigError(
            f"data.batch_size = {run.data.batch_size} is not divisible by train.accumulation = {run.train.accumulation}"
        )
    if run.data.augment == "flip" and "image" not in run.streams:
        raise ConfigError(f"data.augment = 'flip' mirrors a stream 'image'; there are: {', '.join(run.streams)}")
    names = list(drawable(run.streams))
    if JOINT_LEVELS[run.train.levels] is not independent and len(names) < 2:
        raise ConfigError(
            f"train.levels = {run.train.levels!r} needs two streams or more to draw; there is {', '.join(names)}"
        )
    if run.train.objective != "denoise":
        _check_meanflow(run, names)
    _check_sampling(run.streams, run.sample, names)


def _check_meanflow(run: Run, names: list[str]):
    objective = f"train.objective = {run.train.objective!r}"
    if SPAN not in run.streams or len(names) != 1:
        raise ConfigError(
            f"{objective} needs one stream to draw, and a stream {SPAN!r} = config.stream('span'); there are: "
            f"{', '.join(run.streams)}"
        )
    stream = run.streams[names[0]]
    if stream.groups > 1:
        raise ConfigError(f"{objective} is for streams without groups, such as frames")
    if not stream.process.predicts(PREDICTIONS["velocity"]):
        raise ConfigError(
            f"{objective} needs a stream that predicts velocities: streams.{names[0]}.process = "
            "\"gaussian(prediction='velocity')\""
        )


def _check_sampling(streams: Streams, options: SampleOptions, names: list[str]):
    """What is given is not read: a file may have moved since, and be no hindrance to draw without it."""
    for name in options.first:
        choose(dict.fromkeys(names), name, "sample.first")
    for name in options.drawn:
        choose(dict.fromkeys(names), name, "sample.drawn")
    shapes = [stream.shape for stream in streams.values() if stream.process.is_continuous]
    most = max((shape[-1] for shape in shapes if shape), default=0)
    if options.channels > most:
        raise ConfigError(f"sample.channels = {options.channels} should be at most {most}, or 0 for all")
    try:
        for given in options.given:
            parse_given(streams, given)
    except ValueError as error:
        raise ConfigError(f"sample.given: {error}") from None
    if options.weak and options.every:
        raise ConfigError(f"sample.weak = {options.weak!r}: training draws with one network; use sample.py --weak")


def _field(default: Any, annotation: Any) -> Any:
    """A default in a ConfigDict, which takes values of another type only where it is told that there are several."""
    several = isinstance(annotation, types.UnionType) and not isinstance(default, str)
    return ml_collections.FieldReference(default, field_type=object) if several else default
