"""Mistakes in names: an error that says which was meant."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def choose(table: Mapping[str, Any], name: Any, what: str) -> Any:
    """table[name]. Raises ValueError, naming `what` was chosen, if the table has no such row."""
    if name not in table:
        raise ValueError(f"{what} = {name!r} does not exist; {nearest(name, table)}")
    return table[name]


def check_names(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises ValueError for the first of the names that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{what} {name!r} does not exist; {nearest(name, known)}")


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error about a name that does not exist: the one that was probably meant, or all there are."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"
