"""Configs: numbers and names in, objects out. The only file that reads a configuration.

A config file's `get_config()` starts from `default()`, adds its streams and changes what it wants. `build` turns every
section into an object by calling a function with the section's entries as arguments, so the functions' signatures are
the schema (schema.py): unknown keys, missing keys, wrong types and ranges are errors that name the key, before anything
compiles.
"""

import contextlib
import inspect
import itertools
import json
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from dit_jax.diffusion.gaussian import PREDICTIONS
from dit_jax.diffusion.joint_levels import JOINT_LEVELS, independent
from dit_jax.diffusion.meanflow import SPAN
from dit_jax.diffusion.stream import Stream, Streams, drawable
from dit_jax.names import ConfigError, abbreviates, choose, closest, nearest
from dit_jax.network.dit import DiT
from dit_jax.network.layout import token_counts
from dit_jax.run import CheckpointOptions, DataOptions, ParallelOptions, Run, SampleOptions, TrainOptions
from dit_jax.sampling.given import parse_given
from dit_jax.schema import call, check_keys, defaults, parameters, plain
from dit_jax.streams import audio, duration, image, label, past, span, text, video
from dit_jax.training.optimizer import make_optimizer

SHIPPED = Path(__file__).parent / "configs"
LIKE = f"{SHIPPED / 'digits.py'} is one"

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

    Raises ConfigError for a name that does not exist and, with the file and the line, for a file that is no config.
    """
    path, colon, variant = name.partition(":")
    file = _file(path)
    module = types.ModuleType("config_file")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where dataclasses look for it
    with _named(file):
        exec(compile(file.read_bytes(), file, "exec"), module.__dict__)
    if not callable(get_config := getattr(module, "get_config", None)):
        raise ConfigError(f"--config={name}: {file} has no get_config(), which returns a config; {LIKE}")
    given = [variant] if colon else []
    _check_variant(module, path, given)
    with _named(file):
        config = get_config(*given)
    config = ml_collections.ConfigDict(config) if isinstance(config, dict) else config
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(f"{file}: get_config() returns a {type(config).__name__}, and should return a config; {LIKE}")
    return config.lock()


def shipped() -> list[str]:
    """The names of the configs that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("[a-z]*.py"))


def _file(path: str) -> Path:
    """That of a config that comes with the package, by its name, or of a path."""
    names, file = shipped(), Path(path).expanduser()
    if "/" not in path and not path.endswith(".py"):
        if path not in names:
            raise ConfigError(f"--config={path} is no config that comes with the package; {nearest(path, names)}")
        return SHIPPED / f"{path}.py"
    if not file.is_file():
        hint = f"--config={file.stem} comes with the package" if file.stem in names else f"paths start in {Path.cwd()}"
        raise ConfigError(f"--config={path}: there is no such file; {hint}")
    return file


def _check_variant(module: types.ModuleType, path: str, given: list[str]) -> None:
    """Raises ConfigError where get_config() of a file has no such variant, has none, or needs one."""
    variants = list(getattr(module, "VARIANTS", ()))
    if given and variants and given[0] not in variants:
        raise ConfigError(f"--config={path}:{given[0]} is no variant of it; {nearest(given[0], variants)}")
    try:
        inspect.signature(module.get_config).bind(*given)
    except TypeError:
        if given:
            raise ConfigError(f"--config={path}:{given[0]} has no variants; say --config={path}") from None
        names = f", which is one of: {', '.join(variants)}" if variants else ""
        raise ConfigError(f"--config={path} needs a variant, --config={path}:VARIANT{names}") from None


@contextlib.contextmanager
def _named(file: Path) -> Iterator[None]:
    """What is wrong with a config file is a ConfigError that names the file, the line and the reason."""
    try:
        yield
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        name, lines = str(file), [frame.lineno for frame in frames if frame.filename == str(file)]
        if isinstance(error, SyntaxError) and error.filename:  # of the file itself, or of one that it imports
            name, lines = error.filename, [error.lineno]
        where = f"{name}, line {lines[-1]}" if lines else name
        raise ConfigError(f"{where}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What an error of somebody else's code says, in one line."""
    words = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split())
    kind = type(error).__name__
    return f"{kind}: {words}" if isinstance(error, KeyError | SyntaxError) else words or kind


def define_flag(holder: flags.FlagValues, words: Sequence[str]) -> flags.FlagHolder:
    """--config=NAME[:VARIANT], with --config.section.key=value among the words of the command line."""
    about = f"a config by name, or its file: {', '.join(shipped())}; --config=NAME:VARIANT where there are some"
    flag = config_flags.DEFINE_config_file("config", None, about, flag_values=holder, sys_argv=["", *words])
    holder["config"].parser = _ConfigParser(holder, words)
    return flag


class _ConfigParser(flags.ArgumentParser):
    """Reads --config=NAME for ml_collections, which then sets what --config.section.key=value among the words says."""

    def __init__(self, holder: flags.FlagValues, words: Sequence[str]):
        self.holder, self.words = holder, words

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        config = load(argument)
        keys = [*_keys(config)]
        for word in self.words:
            name = word.partition("=")[0].removeprefix("--")
            if word.startswith("--config.") and "[" not in name:
                _check_key(name.removeprefix("config."), keys)
            elif word.startswith("--") and name not in self.holder and (meant := _elsewhere(name, keys)):
                raise ConfigError(f"--{name} does not exist; did you mean {meant}?")
        return config


def _keys(config: ml_collections.ConfigDict, above: str = "") -> Iterator[str]:
    """Every section and entry, as section.key."""
    for key, value in config.items(preserve_field_references=True):
        yield f"{above}{key}"
        if isinstance(value, ml_collections.ConfigDict):
            yield from _keys(value, f"{above}{key}.")


def _check_key(name: str, keys: list[str]) -> None:
    """Raises ConfigError for a key that no entry has, with those that may be meant."""
    if name in keys:
        return
    section, _, own = name.rpartition(".")
    beside = {key.rpartition(".")[2]: key for key in keys if key.rpartition(".")[0] == section}
    if meant := _elsewhere(own, keys):
        hint = f"did you mean {meant}?"
    elif close := closest(own, beside):
        hint = f"did you mean --config.{beside[close]}?"
    else:
        there = f"--config.{section}" if section and beside else "--config"
        hint = f"{there} has {', '.join(beside or (key for key in keys if '.' not in key))}"
    raise ConfigError(f"--config.{name} does not exist; {hint}")


def _elsewhere(own: str, keys: list[str]) -> str:
    """The flags of entries in any section whose last word is this, or abbreviated so."""
    words = {key: key.rpartition(".")[2] for key in keys}
    return " or ".join(f"--config.{key}" for key, word in words.items() if own == word or abbreviates(own, word))


def config_first(words: Sequence[str]) -> list[str]:
    """The words of a command line with --config=NAME, the last if there are several, in front of what changes it."""
    names: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--config":
            names = [word, *itertools.islice(rest, 1)]
        elif word.startswith("--config="):
            names = [word]
        else:
            others.append(word)
    return [*names, *others]


def build(config: ml_collections.ConfigDict | dict) -> Run:
    """A ConfigDict, or the dict that a checkpoint holds -> the objects of a run.

    Raises ConfigError, naming the key, the value and the fix.
    """
    try:
        config = json.loads(json.dumps(config) if isinstance(config, dict) else config.to_json())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config holds what is no number, word or list of them: {_reason(error)}") from None
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
