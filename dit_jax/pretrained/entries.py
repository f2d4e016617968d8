"""The state dict in what a file of weights holds: training keeps several, and words of its own around them.

A file is dicts in dicts, whose innermost have arrays. What stands before the keys of a network, in the dicts around it
or in the keys themselves, is the name of an entry:

    {"ema": {"x_embedder.proj.weight": ...}}                                     ema
    {"state_dict": {"model.x_embedder.proj.weight": ..., "ema.x_emb...": ...}}   state_dict.model and state_dict.ema
    {"module.x_embedder.proj.weight": ...}                                       . for the file itself
"""

import re
from collections.abc import Collection, Iterator
from typing import Any

# What DistributedDataParallel, torch.compile and FSDP put around modules: no part of a name.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
AVERAGED = re.compile(r"(?<![a-z])(ema|swa|shadow|averag)", re.IGNORECASE)
OPTIMIZER = re.compile(r"opt", re.IGNORECASE)  # whose moments may have the keys of the network


def state_dict(file: Any, contents: Any, keys: Collection[str] = (), entry: str = "") -> dict[str, Any]:
    """The state dict of an entry, {key: what stands there}, without what wraps its keys.

    keys: some that only the wanted network has; where they are in no dict, or not known, it is that with most arrays.
    entry: its name, or "" for the averaged weights where there are some. What is chosen of several is printed.

    Raises ValueError, which names the file and what there is, for an entry that there is not, and for no state dict.
    """
    found, nameless = networks(contents, keys), _nameless(contents)
    if entry and entry not in found:
        names = ", ".join(name for name in found if name != ".") or "none, so leave it out"
        raise ValueError(f"{file} has no entry {entry!r} with a network; it has {names}")
    if not found and nameless:
        raise ValueError(
            f"{file} has arrays without names, as averages are often kept: {nameless}; copy them into the model "
            "(ema.copy_to) and give what torch.save(model.state_dict(), FILE) writes then"
        )
    if not found:
        return _largest(file, contents)
    chosen = entry or next(iter(found))
    others = [name for name in found if name != chosen]
    if chosen != "." or others:
        print(f"{file}: {chosen} is read" + (f", and not {', '.join(others)}; --entry chooses" if others else ""))
    if nameless and not AVERAGED.search(chosen):
        print(f"{file}: arrays without names, which may be averages, are left out: {nameless}")
    return found[chosen]


def networks(contents: Any, keys: Collection[str]) -> dict[str, dict[str, Any]]:
    """{entry: state dict} of each dict that has one of the keys, averaged ones first."""
    found: dict[str, dict[str, Any]] = {}
    wrapped = rf"\.(?:(?:{'|'.join(WRAPPERS)})\.)*"
    ends = [re.compile(r"((?:.*\.)?)" + wrapped.join(map(re.escape, key.split(".")))) for key in keys]
    for path, node in _dicts(contents):
        flat = {f"{path}{key}": value for key, value in node.items() if not isinstance(value, dict)}
        prefixes = list(dict.fromkeys(match[1] for name in flat for end in ends if (match := end.fullmatch(name))))
        for prefix in prefixes:
            inner = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
            own = [name for name in flat if name.startswith(prefix) and not name.startswith(inner)]
            if not OPTIMIZER.match(prefix):
                entry = _plain(prefix).rstrip(".") or "."
                found.setdefault(entry, {_plain(name.removeprefix(prefix)): flat[name] for name in own})
    return {name: found[name] for name in sorted(found, key=lambda name: not AVERAGED.search(name))}


def settings(contents: Any) -> dict[str, Any]:
    """The numbers and words in a file's dicts, by their names: what it says of itself, such as num_classes. Of those
    with the same name the outermost counts."""
    found: dict[str, Any] = {}
    for _, node in _dicts(contents):
        for key, value in node.items():
            if type(value) in (int, float, str):
                found.setdefault(str(key), value)
    return found


def _dicts(contents: Any) -> Iterator[tuple[str, dict]]:
    """Every dict in dicts, the outermost first: (what leads to it, such as "ema.", and itself)."""
    queue, entered = [("", contents)], set()
    for path, node in queue:
        if isinstance(node, dict):
            yield path, node
            if id(node) not in entered:  # a file may have one in itself
                entered.add(id(node))
                queue += [(f"{path}{key}.", value) for key, value in node.items() if isinstance(value, dict)]


def _plain(name: str) -> str:
    """A name without what wraps modules."""
    return ".".join(word for word in name.split(".") if word not in WRAPPERS)


def _largest(file: Any, contents: Any) -> dict[str, Any]:
    """The dict with the most arrays, of a file that has no network that is known; of several, the averaged one."""
    if not isinstance(contents, dict):
        what = "single array" if hasattr(contents, "dtype") else type(contents).__name__
        raise ValueError(f"{file} holds a {what}, and no state dict; give the weights of a network")
    count = lambda node: sum(hasattr(value, "dtype") for value in node.values())
    _, best = max(_dicts(contents), key=lambda pair: (count(pair[1]), bool(AVERAGED.search(pair[0]))))
    leaves = {key: value for key, value in best.items() if not isinstance(value, dict)}
    return {_plain(key) if isinstance(key, str) else key: value for key, value in leaves.items()}


def _nameless(contents: Any) -> str:
    """Where lists of arrays are, as some training keeps averages, and how many of them: '31 in ema.shadow_params'."""
    lists = ((f"{path}{key}", value) for path, node in _dicts(contents) for key, value in node.items())
    found = {name: len(value) for name, value in lists if isinstance(value, list | tuple) and _are_arrays(value)}
    return " and ".join(f"{count} in {name}" for name, count in found.items())


def _are_arrays(values: Any) -> bool:
    """Of floats, as the states of random generators are not."""
    return len(values) > 0 and all(getattr(value, "dtype", "") for value in values)
