"""What data are, in a few words that a checkpoint can hold: so that a run notices if it is to go on with others."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

from dit_jax.data.folder import Folder
from dit_jax.data.sources import Source


def identity(name: str, source: Source) -> dict[str, Any]:
    """Name, version, number of examples, class names and a digest of the listing of a split, as JSON.

    Of a folder, each class has how many files it has and a digest of their names: where the folder is does not matter.
    """
    while hasattr(source, "source"):  # what remembers or replaces examples of another
        source = source.source
    if isinstance(source, Folder):
        return {"name": "a folder", "examples": len(source), "classes": _classes_of(source)}
    records = getattr(source, "records", None)
    if records is None:
        return {"name": name, "examples": len(source)}
    info, split = records.dataset_info, records.dataset_info.splits[records.split]
    names = [feature.names for feature in info.features.values() if getattr(feature, "names", None)]
    listing = [split.shard_lengths, split.num_bytes, (info.metadata or {}).get("splits", {}).get(split.name)]
    return {
        "name": info.name,
        "version": str(info.version),
        "examples": len(source),
        "classes": [{"name": name} for name in names[0]] if names else [],
        "listing": _digest(json.dumps(listing, sort_keys=True)),
    }


def differences(was: dict[str, Any], now: dict[str, Any], most: int = 3) -> str:
    """What has changed, in words, the first few of them; nothing if nothing has."""
    found = [
        f"{what} was {was[key]} and is {now.get(key)}"
        for key, what in (("name", "the name"), ("version", "the version"), ("examples", "the number of examples"))
        if key in was and was[key] != now.get(key)
    ]
    found += _class_differences(was.get("classes", []), now.get("classes", []))
    if not found and was != now:
        found = ["the listing of its files is another"]
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def _class_differences(was: list[dict], now: list[dict]) -> Iterable[str]:
    before, after = ({entry["name"]: (i, entry) for i, entry in enumerate(entries)} for entries in (was, now))
    new = [name for name in after if name not in before]
    for name, (i, entry) in before.items():
        if name not in after:
            # One that has the same files, or, where none are known, the same number, goes by another name.
            same = [other for other in new if _is_same(entry, i, after[other][1], after[other][0])]
            yield f"class {name!r} is now {same[0]!r}" if same else f"class {name!r} is gone"
            new = [other for other in new if other not in same[:1]]
        elif entry.get("examples") != after[name][1].get("examples"):
            yield f"class {name!r} has {after[name][1]['examples']} files and had {entry['examples']}"
        elif entry != after[name][1]:
            yield f"class {name!r} has files of other names"
    yield from (f"class {name!r} is new" for name in new)
    if before.keys() == after.keys() and [*before] != [*after]:
        yield "the classes are in another order"


def _is_same(entry: dict, i: int, other: dict, j: int) -> bool:
    return entry["listing"] == other.get("listing") if "listing" in entry else i == j


def _classes_of(folder: Folder) -> list[dict[str, Any]]:
    files: list[list[str]] = [[] for _ in folder.classes]
    for file, label in folder.files:
        files[label].append(file.name)
    pairs = zip(folder.classes, files, strict=True)
    return [{"name": name, "examples": len(names), "listing": _digest("\n".join(names))[:16]} for name, names in pairs]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
