"""Signatures as the schema of configs: functions called with a section's entries, checked against their annotations."""

import ast
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from dit_jax import names


class ConfigError(ValueError):
    """A mistake in a configuration, with the key, the value and the fix in its message."""


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
    """A function's parameters by name, with annotations that are types and not text."""
    return dict(inspect.signature(function, eval_str=True).parameters)


def optional(function: Callable) -> list[inspect.Parameter]:
    """Those of a function's parameters that have a default: the entries that its section may leave out."""
    return [p for p in parameters(function).values() if p.default is not inspect.Parameter.empty]


def defaults(function: Callable) -> dict[str, Any]:
    return {p.name: p.default for p in optional(function)}


def call(function: Callable, section: Mapping, path: str, context: Mapping) -> Any:
    """function(**section), checked; arguments that come from elsewhere in the run are in `context`.

    Raises ConfigError, naming the key below `path`, for one that is unknown, missing or of a wrong type, and for what
    the function itself refuses by a ValueError.
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
        raise ConfigError(str(error) if str(error).startswith(path) else f"{path}.{error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def call_text(text: str, table: Mapping[str, Callable], path: str) -> Any:
    """'logit_normal(mean=0.8, std=0.8)' -> the function of that name in the table, called so."""
    try:
        expression = ast.parse(text, mode="eval").body
        assert isinstance(expression, ast.Call) and isinstance(expression.func, ast.Name) and not expression.args
        arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in expression.keywords}
    except (SyntaxError, AssertionError, ValueError):
        rows = ", ".join(f"{name}()" for name in table)
        raise ConfigError(f"{path} = {text!r} should be a call of one of: {rows}, with name=value in it") from None
    return call(choose(table, expression.func.id, path), arguments, path, {})


def check_keys(section: Mapping, allowed: Iterable[str], path: str) -> None:
    allowed = list(allowed)
    for key in section:
        if key not in allowed:
            raise ConfigError(f"{path}.{key} does not exist; {names.nearest(key, allowed)}")


def choose(table: Mapping, name: Any, path: str) -> Any:
    """The row of a table that an entry names. Raises ConfigError if there is none."""
    try:
        return names.choose(table, name, path)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def typed(value: Any, wanted: Any, path: str) -> Any:
    """The value as the wanted type: an int may stand for a float and a list for a tuple, and nothing else changes."""
    options = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if float in options and type(value) is int:
        return float(value)
    if tuple in options and isinstance(value, list | tuple):
        return tuple(value)
    if not any(type(value) is option or (value is None and option is types.NoneType) for option in options):
        kinds = " or ".join(getattr(option, "__name__", str(option)) for option in options)
        raise ConfigError(f"{path} = {value!r} is a {type(value).__name__}, and has to be {kinds}")
    return value
