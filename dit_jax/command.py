"""How every command starts and ends: the flags are the arguments of its `main`, whose signature is their schema.

An argument without a default is a word of the command line, any other a flag. An annotation with a dataclass of options
stands for a flag for each of its fields that has a line for --help, and main gets those that are given, in a dict. An
annotation with a function has that define its flag.
"""

import dataclasses
import errno
import importlib.util
import inspect
import os
import re
import sys
import traceback
import typing
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from PIL import Image

from dit_jax.names import ConfigError, closest
from dit_jax.schema import EACH, checked, notes, parameters, plain

Rewrite = Callable[[Sequence[str]], Sequence[str]]

BUG = "error: this is a bug, and no mistake of yours: please report it, with what is above, as an issue of dit_jax"
SMALLER = (
    "make less at a time, by a smaller --batch, or in training by a smaller --config.data.batch_size or a larger "
    "--config.train.accumulation"
)
FIXES = {  # by what the operating system says
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.EROFS: "choose a path that can be written to",
    errno.ENOSPC: "make room, or choose a path on another disk",
    errno.EDQUOT: "make room, or choose a path on another disk",
    errno.EEXIST: "a file is where a directory should be: choose another path",
    errno.ENOTDIR: "a file is where a directory should be: choose another path",
    errno.EISDIR: "it is a directory, and should be a file",
    errno.ENOENT: "check the path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit, by ulimit -n 4096",
}
PEERS = ("Gloo", "NCCL", "Connection closed by peer", "coordination service")  # who speaks of other processes, and how
# What a flag should be, by how its parser calls it.
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "tuple": "values such as (32, 32, 3)"}


def run_command(main: Callable[..., None], defaults: Sequence[str] = (), rewrite: Rewrite = list) -> None:
    """Run main with the command line's flags, and those of `defaults` that are not given. rewrite: all of them, before
    they are parsed.

    What the user can mend ends in one line and status 1 (see `mistake`), Ctrl-C in 130, and a reader of the output that
    has left, as `head` does, in 141. Any other error is a bug: it keeps its traceback, whose last line says so.
    """
    logging.set_verbosity(logging.WARNING)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # media/image.py refuses what it is about
    try:
        check_cache(os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))
        main(**parse(main, sys.argv[1:], defaults, rewrite))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it when it ends
        sys.exit(141)
    except Exception as error:
        if (sentence := mistake(error)) is None:
            traceback.print_exc()
            sys.exit(BUG)
        sys.exit(f"error: {sentence}")


def check_cache(folder: str) -> None:
    """Make the folder where JAX keeps what it has compiled, for this user alone. Raises ValueError for one that others
    can write to: it holds programs, which this process would run."""
    if not folder or "://" in folder:
        return
    Path(folder).mkdir(0o700, parents=True, exist_ok=True)
    about = os.stat(folder)
    if about.st_mode & 0o022 or about.st_uid not in (os.getuid(), 0):
        raise ValueError(
            f"JAX_COMPILATION_CACHE_DIR={folder} can be written to by others, whose programs would run here: chmod 700 "
            "it, or choose another"
        )


def mistake(error: Exception) -> str | None:
    """What an error says to the user, if it is not a bug: one of files, memory, devices and packages, wherever it was
    raised, and any ValueError that this package raises itself. None for a bug."""
    words = " ".join(str(error).split())
    if isinstance(error, OSError):
        return _of_file(error) if error.errno else str(error)
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in words:
        return f"out of memory: {SMALLER} ({words[:200] or 'no more is known'})"
    if isinstance(error, RuntimeError) and any(name in words for name in PEERS):
        return f"another process of this job has ended, or cannot be reached: what it said is why ({words[:200]})"
    if isinstance(error, RuntimeError) and "backend" in words and "initialize" in words:
        return f"JAX has no such device: {words}; install jax for it, or unset JAX_PLATFORMS"
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        if importlib.util.find_spec(package) is None:
            return f"the Python package {package} is not installed: pip install {package}"
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    if isinstance(error, ValueError) and Path(__file__).parent in raised_in.parents:
        return str(error)
    return None


def _of_file(error: OSError) -> str:
    """An error of the operating system's: the file, the reason and what to do."""
    files = " -> ".join(str(file) for file in (error.filename, error.filename2) if file is not None)
    fix = FIXES.get(error.errno or 0, "")
    if error.errno == errno.ENOENT and files and not Path(files).is_absolute():
        fix = f"paths that do not begin with / start in {Path.cwd()}"
    return f"{files and f'{files}: '}{error.strerror}{fix and f'; {fix}'}"


def parse(
    main: Callable[..., None], words: Sequence[str], defaults: Sequence[str] = (), rewrite: Rewrite = list
) -> dict[str, Any]:
    """The arguments of main that a command line gives. Raises ValueError for one that means nothing; --help ends the
    process."""
    schema, holder = parameters(main), flags.FlagValues()
    words = [re.sub(r"^-(?=[a-zA-Z]\w)", "--", word) for word in words]
    given = {word.partition("=")[0] for word in words}
    words = rewrite([*(flag for flag in defaults if flag.partition("=")[0] not in given), *words])
    for name, parameter in schema.items():
        _define(name, parameter, schema, holder, words)
    if {"--help", "-h"} & given:
        print(_help_of(main, holder))
        sys.exit(0)
    return _arguments(schema, holder, _left(holder, words))


def options_of(record: type, but: Mapping[str, Any] = {}) -> dict[str, Any]:
    """{name: annotation} of a dataclass's fields that are flags: those with a line for --help, but the ones named."""
    annotations = {name: parameter.annotation for name, parameter in parameters(record).items()}
    return {name: annotation for name, annotation in annotations.items() if _line(annotation) and name not in but}


def _record(annotation: Any) -> Any:
    """The dataclass of options that an annotation stands for, if it does."""
    return next((note for note in notes(annotation) if isinstance(note, type) and dataclasses.is_dataclass(note)), None)


def _line(annotation: Any) -> str:
    """What --help says."""
    return next((note for note in notes(annotation) if isinstance(note, str)), "")


def _define(name: str, parameter: inspect.Parameter, schema: Mapping, holder: flags.FlagValues, words: Sequence[str]):
    annotation = parameter.annotation
    if (record := _record(annotation)) is not None:
        for option, of_option in options_of(record, but=schema).items():
            _define_flag(option, of_option, None, holder)
    elif own := next(filter(inspect.isfunction, notes(annotation)), None):
        own(holder, words)
    elif parameter.default is not inspect.Parameter.empty:
        _define_flag(name, annotation, parameter.default, holder)


def _define_flag(name: str, annotation: Any, default: Any, holder: flags.FlagValues) -> None:
    define: dict[Any, Callable] = {
        bool: flags.DEFINE_bool,
        int: flags.DEFINE_integer,
        float: flags.DEFINE_float,
        tuple: flags.DEFINE_multi_string if EACH in notes(annotation) else flags.DEFINE_list,
    }
    kind, default = plain(annotation), list(default) if isinstance(default, tuple) else default
    define_kind = define.get(typing.get_origin(kind) or kind, flags.DEFINE_string)
    define_kind(name, default, _line(annotation), flag_values=holder)


def _left(holder: flags.FlagValues, words: Sequence[str]) -> list[str]:
    """Parse flags, of which the last counts if there are several, and return the words that are none. Raises ValueError
    for a flag that does not exist, and for one that has no such value."""
    try:
        return holder(["", *words])[1:]
    except flags.UnrecognizedFlagError as error:
        name = error.flagname.partition("=")[0]
        raise ValueError(f"--{name} does not exist; {_meant(name, holder)}") from None
    except flags.IllegalFlagValueError as error:
        raise _of_value(error, holder) from None
    except flags.Error as error:
        raise ValueError(str(error).strip().splitlines()[-1].strip()) from None
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if "ml_collections" not in Path(traceback.extract_tb(error.__traceback__)[-1].filename).parts:
            raise
        raise ValueError(f"--config has no such key: {' '.join(str(error).split())}") from None


def _meant(name: str, holder: flags.FlagValues) -> str:
    """What to type instead of a flag that does not exist: one with nearly this name, or another command."""
    if name.partition(".")[0] == "config":
        return "it is a flag of python -m dit_jax.train: a run that is there knows its config"
    close = closest(name, holder)
    return f"did you mean --{close}?" if close else "--help has all flags"


def _of_value(error: flags.IllegalFlagValueError, holder: flags.FlagValues) -> ValueError:
    """What is wrong with the value of a flag. A config is wrong in its own words."""
    reason = error.__context__
    if isinstance(reason, ConfigError):
        return reason
    typed = str(error).removeprefix("flag ").removesuffix(f": {reason}")
    kind = holder[typed.partition("=")[0].removeprefix("--")].parser.flag_type()
    return ValueError(f"{typed} should be {KINDS[kind]}" if kind in KINDS else f"{typed}: {reason}")


def _arguments(schema: Mapping[str, inspect.Parameter], holder: flags.FlagValues, words: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, parameter in schema.items():
        if (record := _record(parameter.annotation)) is not None:
            values[name] = _options(record, schema, holder)
        elif name in holder:
            value = _value(holder, name, parameter.annotation)
            if value == "" and parameter.default:
                raise ValueError(f"--{name} is empty; where it is left out, it is {parameter.default}")
            values[name] = checked(value, parameter.annotation, f"--{name}")
        elif words:
            values[name] = words.pop(0)
        else:
            raise ValueError(f"{name.upper()} is missing, the first word after the command; --help says more")
    if words:
        raise ValueError(f"what is {words[0]!r}? Flags are written --name=value; --help has them all")
    return values


def _options(record: type, schema: Mapping[str, inspect.Parameter], holder: flags.FlagValues) -> dict[str, Any]:
    """The options of a record that are given. Raises ValueError for those that no record has, whatever the others
    are."""
    annotations = options_of(record, but=schema)
    found = {option: _value(holder, option, annotation) for option, annotation in annotations.items()}
    given = {option: value for option, value in found.items() if value is not None}
    try:
        record(**given)
    except ConfigError as error:
        raise ConfigError(f"--{error}") from None
    return given


def _value(holder: flags.FlagValues, name: str, annotation: Any) -> Any:
    value, kinds = holder[name].value, typing.get_args(plain(annotation))
    if not isinstance(value, list) or not kinds or kinds[-1] is Ellipsis:
        return tuple(value) if isinstance(value, list) else value
    try:
        return tuple(kind(word) for kind, word in zip(kinds, value, strict=True))
    except ValueError:
        raise ValueError(f"--{name}={','.join(value)} should be {len(kinds)} numbers") from None


def _help_of(main: Callable, holder: flags.FlagValues) -> str:
    """The docstring of the command's module, and a line for every flag."""
    lines = [f"  --{name}: {holder[name].help}{_default(holder[name])}" for name in sorted(holder)]
    return "\n".join([str(inspect.getdoc(inspect.getmodule(main))), "", *lines])


def _default(flag: flags.Flag) -> str:
    return "" if not flag.default else f" (default: {flag.default_as_str})"
