"""How every command starts and ends: the flags are the arguments of its `main`, whose signature is their schema.

An argument without a default is a word of the command line, any other a flag. An annotation with a dataclass of options
stands for a flag for each of its fields that has a line for --help, and main gets those that are given, in a dict. An
annotation with a function has that define its flag.
"""

import dataclasses
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from dit_jax.schema import EACH, notes, parameters, plain

Rewrite = Callable[[Sequence[str]], Sequence[str]]


def run_command(main: Callable[..., None], defaults: Sequence[str] = (), rewrite: Rewrite = list) -> None:
    """Run main with the command line's flags, and those of `defaults` that are not given. rewrite: all of them, before
    they are parsed.

    A mistake of the user's ends in one line and status 1, and Ctrl-C in 130. Mistakes are the ValueErrors and OSErrors
    that this package raises itself; one that comes from below it is a bug, and keeps its traceback.
    """
    logging.set_verbosity(logging.WARNING)
    try:
        main(**parse(main, sys.argv[1:], defaults, rewrite))
    except (ValueError, OSError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if Path(__file__).parent not in raised_in.parents:
            raise
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def parse(
    main: Callable[..., None], words: Sequence[str], defaults: Sequence[str] = (), rewrite: Rewrite = list
) -> dict[str, Any]:
    """The arguments of main that a command line gives. Raises ValueError for one that means nothing; --help ends the
    process."""
    schema, holder = parameters(main), flags.FlagValues()
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
    """Parse flags, and return the words that are none; ml_collections raises an AttributeError, or a KeyError, for
    a config key that does not exist."""
    try:
        return holder(["", *words])[1:]
    except flags.Error as error:
        raise ValueError(str(error).strip().splitlines()[-1].strip().removeprefix("ValueError: ")) from None
    except (AttributeError, KeyError) as error:
        raised_at = traceback.extract_tb(error.__traceback__)[-1]
        if "ml_collections" not in Path(raised_at.filename).parts:  # by a config file's own code
            raise ValueError(f"{raised_at.filename}, line {raised_at.lineno}: {error}") from None
        text = " ".join(str(error).encode().decode("unicode_escape").replace("'", "").split())
        raise ValueError(f"--config has no key {text}") from None


def _arguments(schema: Mapping[str, inspect.Parameter], holder: flags.FlagValues, words: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, parameter in schema.items():
        if (record := _record(parameter.annotation)) is not None:
            annotations = options_of(record, but=schema)
            found = {option: _value(holder, option, annotation) for option, annotation in annotations.items()}
            values[name] = {option: value for option, value in found.items() if value is not None}
        elif name in holder:
            values[name] = _value(holder, name, parameter.annotation)
            if values[name] == "" and parameter.default:
                raise ValueError(f"--{name} is empty; where it is left out, it is {parameter.default}")
        elif words:
            values[name] = words.pop(0)
        else:
            raise ValueError(f"{name.upper()} is missing, the first word after the command; --help says more")
    if words:
        raise ValueError(f"what is {words[0]!r}? Flags are written --name=value; --help has them all")
    return values


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
