"""Signatures as schemas: of the sections of a config, of the flags of a command, and of calls in a notebook.

The annotation of an argument says what may stand there: a type and, by `typing.Annotated`, more:

    depth: Annotated[int, Range(at_least=1)] = 12
    norm: Literal["layer", "rms"] = "layer"
    solver: Annotated[str, SOLVERS] = "2m"                  # the name of a row of a table
    schedule: Annotated[Schedule, SCHEDULES] = rectified    # a row of a table, or its name
    num: Annotated[int, Range(at_least=1), "how many samples"] = 64     # with a line for --help
    given: Annotated[tuple, EACH, "STREAM=VALUE"] = ()      # a flag that may be given several times
    out: Annotated[Local, "where files go"] = "samples"     # a path of this machine
"""

import ast
import dataclasses
import functools
import inspect
import math
import reprlib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, cast

import numpy as np
from jax import Array

from dit_jax.names import ConfigError, choose, nearest

Row = TypeVar("Row")
P = ParamSpec("P")

EACH = object()  # of a tuple: each of its values is a flag of its own
LOCAL = object()  # of a text: a path that this machine can open, or a name
Local = Annotated[str, LOCAL]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that an option may have. What is not a number is in none."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    or_infinite: bool = False

    def __contains__(self, value: float) -> bool:
        if math.isinf(value):
            return self.or_infinite and value > 0
        return (
            not math.isnan(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        bounds = {"at least": self.at_least, "above": self.above, "at most": self.at_most, "below": self.below}
        words = [f"{word} {bound}" for word, bound in bounds.items() if bound is not None] or ["finite"]
        return " and ".join(words) + (", or inf" if self.or_infinite else "")


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """A function's parameters by name, with annotations that are types and not text."""
    return dict(inspect.signature(function, eval_str=True).parameters)


def defaults(function: Callable) -> dict[str, Any]:
    """The arguments that a function has if it is given none, as a config writes them: {name: value}."""
    found = {p.name: p for p in parameters(function).values() if p.default is not inspect.Parameter.empty}
    return {name: _written(p.default, p.annotation) for name, p in found.items()}


def call(function: Callable, section: Mapping, path: str, context: Mapping) -> Any:
    """function(**section); arguments that come from elsewhere in the run are in `context`.

    Raises ConfigError, naming the key below `path`, for one that is unknown, missing or of a wrong type, and for what
    the function itself refuses by a ValueError, as `checks` and `check_fields` make it do.
    """
    schema = parameters(function)
    check_keys(section, schema.keys() - context.keys(), path)
    arguments = dict(context)
    for name, value in section.items():
        arguments[name] = typed(value, schema[name].annotation, f"{path}.{name}")
    missing = [p.name for p in schema.values() if p.default is p.empty and p.name not in arguments]
    if missing:
        raise ConfigError(f"{path}.{missing[0]} is missing")
    try:
        return function(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def called(value: Row | str, table: Mapping[str, Callable[..., Row]], key: str) -> Row:
    """'logit_normal(mean=0.8, std=0.8)' -> the row of that name in the table, called so; any other object as it is.

    Raises ConfigError, naming the option `key`, for a text that is no such call. A name alone is a call of it.
    """
    if not isinstance(value, str):
        return value
    row, arguments = _parsed(value, table, key)
    return call(row, arguments, key, {})


def meaning(value: str, table: Mapping[str, Callable]) -> Any:
    """What a call of a row, or its name, comes to: the row and all of its arguments, which are equal for two texts that
    mean the same. A text that is no call means itself."""
    try:
        row, arguments = _parsed(value, table, "")
    except ConfigError:
        return value
    schema = parameters(row)
    whole = {name: parameter.default for name, parameter in schema.items()} | arguments
    for name in whole.keys() & schema.keys():
        rows = [note for note in notes(schema[name].annotation) if isinstance(note, Mapping)]
        whole[name] = rows[0].get(whole[name], whole[name]) if rows and isinstance(whole[name], str) else whole[name]
    return row, whole


def _parsed(value: str, table: Mapping[str, Callable[..., Row]], key: str) -> tuple[Callable[..., Row], dict[str, Any]]:
    """(row, arguments) of the text of a call."""
    try:
        expression = ast.parse(value, mode="eval").body
        expression = ast.Call(expression, [], []) if isinstance(expression, ast.Name) else expression
        assert isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name) and not expression.args
        bare = [keyword for keyword in expression.keywords if isinstance(keyword.value, ast.Name)]
        whole = [keyword for keyword in expression.keywords if keyword not in bare]
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in whole}
    except (SyntaxError, AssertionError, ValueError, RecursionError, MemoryError):
        rows = ", ".join(f"{name}()" for name in table)
        raise ConfigError(
            f"{key} = {value!r} should be a call of one of: {rows}, with name=value in it, and quotes around words"
        ) from None
    if bare:
        raise ConfigError(_without_quotes(value, expression, bare, key))
    return choose(table, expression.func.id, key), arguments


def _without_quotes(value: str, call: ast.Call, bare: list[ast.keyword], key: str) -> str:
    """What is wrong with a call whose words have no quotes, which a shell takes away, and what to type instead."""
    words = [cast(ast.Name, keyword.value).id for keyword in bare]
    for keyword, word in zip(bare, words, strict=True):
        keyword.value = ast.Constant(word)
    right, bare_words = f'{key}="{ast.unparse(call)}"', ", ".join(words)
    return f"{right} is what to write, after --config. in a shell: {value} has no quotes around {bare_words}"


def check_keys(section: Mapping, allowed: Iterable[str], path: str) -> None:
    allowed = list(allowed)
    for key in section:
        if key not in allowed:
            raise ConfigError(f"{path}.{key} does not exist; {nearest(key, allowed)}")


def typed(value: Any, wanted: Any, path: str) -> Any:
    """The value as the wanted type: an int may stand for a float and a list for a tuple, and nothing else changes.

    Raises ConfigError for another type. Rows of a table are written by their names.
    """
    about = next((note for note in notes(wanted) if isinstance(note, str)), "")
    wanted = str if any(isinstance(note, Mapping) for note in notes(wanted)) else plain(wanted)
    options, kinds = _kinds(wanted)
    if float in kinds and type(value) is int:
        return float(value)
    if tuple in kinds and isinstance(value, list | tuple):
        return _typed_tuple(value, typing.get_args(options[kinds.index(tuple)]), path, about)
    if not any(type(value) is kind or (value is None and kind is types.NoneType) for kind in kinds):
        raise ConfigError(_of_another_type(value, options, path))
    return value


def argument(value: Any, annotation: Any, name: str) -> Any:
    """The value of an argument of a call in Python, if it is of the annotation's type: as `typed`, but that it may be
    an object too, and a number of numpy's. Arrays are left to those who read them.

    Raises ConfigError for another type.
    """
    options, kinds = _kinds(plain(annotation))
    value = value.item() if isinstance(value, np.generic) else value
    is_name = isinstance(value, str) and any(isinstance(note, Mapping) for note in notes(annotation))
    if is_name or {Array, Any, inspect.Parameter.empty} & {*kinds} or not all(isinstance(kind, type) for kind in kinds):
        return value
    if isinstance(value, int | float | str | list | tuple) and {int, float, tuple, str, bool} & {*kinds}:
        return typed(value, annotation if tuple in kinds else plain(annotation), name)
    if not isinstance(value, tuple(kinds)):
        raise ConfigError(_of_another_type(value, options, name))
    return value


def _kinds(wanted: Any) -> tuple[tuple, list]:
    """(options, kinds): the types that a value may have, as annotated and without what is in their brackets."""
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    return options, [typing.get_origin(option) or option for option in options]


def _of_another_type(value: Any, options: tuple, path: str) -> str:
    named = ["a function" if typing.get_origin(option) is Callable else option for option in options]
    words = " or ".join(getattr(option, "__name__", str(option)) for option in named)
    return f"{path} = {reprlib.repr(value)} is a {type(value).__name__}, and has to be {words}"


def _typed_tuple(values: Iterable, wanted: tuple, path: str, about: str) -> tuple:
    """Values as a tuple[wanted], such as tuple[int, int] or tuple[str, ...]; anything where nothing is wanted. about:
    what they are."""
    values = tuple(values)
    if not wanted:
        return values
    if wanted[-1] is Ellipsis:
        wanted = wanted[:1] * len(values)
    if len(values) != len(wanted):
        raise ConfigError(f"{path} = {values} should be {len(wanted)} numbers{about and f', {about}'}")
    return tuple(typed(value, kind, f"{path}[{i}]") for i, (value, kind) in enumerate(zip(values, wanted, strict=True)))


def checked(value: Any, annotation: Any, key: str) -> Any:
    """The value of an option, if its annotation allows it; where a row of a table is meant, the row of a name.

    Raises ConfigError for a number that is out of range, for a name of no row, and for a path such as gs://BUCKET,
    which would be a folder of that name here.
    """
    for note in notes(annotation):
        if note is LOCAL and isinstance(value, str) and "://" in value:
            raise ConfigError(
                f"{key} = {value} is no path of this machine: mount it, as gcsfuse does buckets, and say where that is"
            )
        if isinstance(note, Range) and isinstance(value, int | float) and value not in note:
            raise ConfigError(f"{key} = {value} should be {note}")
        if isinstance(note, Mapping) and isinstance(value, str):
            row = choose(note, value, key)
            value = value if plain(annotation) is str else row
    return value


def checks(function: Callable[P, Row]) -> Callable[P, Row]:
    """Decorates a function whose arguments have to be as their annotations allow; the name of a row becomes the row.

    Raises ConfigError as `argument` and `checked` do, and TypeError for arguments that the function does not have.
    """
    annotations = {name: p.annotation for name, p in parameters(function).items()}
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> Row:
        for name in kwargs.keys() - annotations.keys():
            raise TypeError(f"{function.__name__}() has no argument {name!r}; {nearest(name, annotations)}")
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            bound.arguments[name] = checked(argument(value, annotations[name], name), annotations[name], name)
        return function(*bound.args, **bound.kwargs)

    return checking


def check_fields(record: Any) -> None:
    """What `__post_init__` of a dataclass does, as `checks` does for a function: every field is as its annotation
    allows, and a name becomes its row.

    Raises ConfigError as `argument` and `checked` do.
    """
    for name, parameter in parameters(type(record)).items():
        if notes(parameter.annotation):
            value = argument(getattr(record, name), parameter.annotation, name)
            object.__setattr__(record, name, checked(value, parameter.annotation, name))


def plain(annotation: Any) -> Any:
    """An annotation without its notes."""
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is Annotated else annotation


def notes(annotation: Any) -> tuple:
    """What an annotation says beside the type: `Annotated`'s notes, and the table of names that `Literal` is."""
    if typing.get_origin(annotation) is Literal:
        return ({name: name for name in typing.get_args(annotation)},)
    return annotation.__metadata__ if typing.get_origin(annotation) is Annotated else ()


def _written(value: Any, annotation: Any) -> Any:
    """A default as a config writes it: a row of a table by its name."""
    for table in notes(annotation):
        if isinstance(table, Mapping) and not isinstance(value, str):
            return next(name for name, row in table.items() if row is value)
    return value
