"""Mistakes in names: an error that says which was meant."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

Row = TypeVar("Row")


class ConfigError(ValueError):
    """A mistake in an option; its message begins with the option's key, and has its value and the fix."""


def choose(table: Mapping[str, Any], name: Any, key: str) -> Any:
    """table[name]. Raises ConfigError, naming the option `key`, if the table has no such row."""
    if not isinstance(name, str) or name not in table:
        raise ConfigError(f"{key} = {name!r} does not exist; {nearest(name, table)}")
    return table[name]


def row(table: Mapping[str, Row], value: Row | str, key: str) -> Row:
    """A row of the table by its name, or an object of the same kind as it is. Raises ConfigError, naming the option
    `key`, for anything else."""
    if isinstance(value, str):
        return choose(table, value, key)
    first = next(iter(table.values()))
    if not (callable(value) if callable(first) else isinstance(value, type(first))):
        raise ConfigError(f"{key} = {value!r} should be one of: {', '.join(map(repr, table))}")
    return value


def check_names(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises ValueError for the first of the names that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name!r} does not exist; {nearest(name, known)}")


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error about a name that does not exist: the one that was probably meant, or those there are."""
    known = list(known)
    close = closest(name, known)
    return f"did you mean {close!r}?" if close else f"known are {first_few(sorted(known), 20)}"


def closest(name: object, known: Iterable[str]) -> str:
    """The known name that was probably meant: written nearly so, or abbreviated; nothing if there is none."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    close = close or [word for word in known if abbreviates(name, word)]
    return close[0] if close else ""


def abbreviates(name: object, word: str) -> bool:
    """Whether a name has the initials of the words, as lr has of learning_rate."""
    return "_" in word and name == "".join(part[:1] for part in word.split("_"))


def first_few(names: Sequence[str], most: int = 10) -> str:
    """'cat, dog, emu', of at most so many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
