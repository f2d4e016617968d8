"""Fine-tuning: a run that starts from the weights of another, or from published ones."""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from dit_jax.names import nearest

# The ends of the network belong to streams: those of other data, such as an embedding of more classes, start anew.
ENDS = ("_embed", "_head")


def fitted(fresh: Any, given: Any) -> tuple[Any, list[str]]:
    """(parameters like `fresh` with the values of `given`, where they have them; the names that start anew).

    fresh: of this run, laid out on its devices. given: of another, as arrays. What starts anew are ends of streams that
    the other lacks or has in another shape. Raises ValueError, naming the parameter, for anything else that differs.
    """
    theirs, anew = dict(_named(given)), []
    ours = dict(_named(fresh))
    for name in sorted(theirs.keys() - ours.keys()):
        if not _is_end(name):
            raise ValueError(f"train.init has {name}, and this network has none; {nearest(name, ours)}")

    def value(path: Any, leaf: Any) -> Any:
        name = _name(path)
        if name in theirs and theirs[name].shape == leaf.shape:
            return jax.device_put(np.asarray(theirs[name], leaf.dtype), leaf.sharding)
        if not _is_end(name):
            has = theirs[name].shape if name in theirs else "none"
            raise ValueError(f"train.init has {has} for {name}, and this network has {leaf.shape}")
        anew.append(name)
        return leaf

    return jax.tree_util.tree_map_with_path(value, fresh), anew


def trainable(pattern: str, params: Any) -> Callable[[Any], Any]:
    """updates -> updates, which are 0 where a parameter's path has the regular expression `pattern`: frozen weights.

    Raises ValueError for one that is in no path, or in all of them.
    """
    if not pattern:
        return lambda updates: updates
    names = [name for name, _ in _named(params)]
    frozen = {name for name in names if re.search(pattern, name)}
    if not frozen or len(frozen) == len(names):
        what = "all" if frozen else "none"
        raise ValueError(f"train.freeze = {pattern!r} is in {what} of the parameters, such as {names[0]}")
    keep = lambda path, update: update * 0 if _name(path) in frozen else update
    return lambda updates: jax.tree_util.tree_map_with_path(keep, updates)


def _named(tree: Any) -> list[tuple[str, Any]]:
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/").removeprefix("params/")


def _is_end(name: str) -> bool:
    first = name.split("/")[0]
    return first.endswith(ENDS) or first.startswith("expected_")
