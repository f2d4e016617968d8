"""What data are, in a few words that a checkpoint can hold: so that a run notices if it is to go on with others."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from dit_jax.data.folder import Folder, class_of
from dit_jax.data.sources import Source, original
from dit_jax.diffusion.stream import Streams


def identity(name: str, source: Source) -> dict[str, Any]:
    """Name, version, number of examples, class names and a digest of the listing of a split, as JSON.

    Of a folder, each class has how many files it has and a digest of their names, as those have that are in no class:
    where the folder is does not matter. Where a share of its images is held out, that is there too, and its images are
    counted with the others: which they are follows from their names.
    """
    source = original(source)
    if isinstance(source, Folder):
        share, names = source.images.holdout, [*source.images.names]
        names += source.images.held_out if share else ()
        found = {"name": "a folder", "examples": len(names), "classes": _classes_of(source.classes, names)}
        rest = [name for name in names if not class_of(name)]
        return found | ({"holdout": share} if share else {}) | ({"listing": _digest_of(rest)} if rest else {})
    records = getattr(source, "records", None)
    if records is None:
        return {"name": name, "examples": len(source)}
    info, split = records.dataset_info, records.dataset_info.splits[records.split]
    named = sorted(info.features.items(), key=lambda item: item[0] != "label")  # that of labels, or else the first
    names = [feature.names for _, feature in named if getattr(feature, "names", None)]
    listing = [split.shard_lengths, split.num_bytes, (info.metadata or {}).get("splits", {}).get(split.name)]
    return {
        "name": info.name,
        "version": str(info.version),
        "examples": len(source),
        "classes": [{"name": name} for name in names[0]] if names else [],
        "listing": _digest(json.dumps(listing, sort_keys=True)),
    }


def with_names(streams: Streams, data: dict[str, Any] | None) -> Streams:
    """The streams of a run, whose labels are read and shown by the names of the classes of its data, if it is known
    what those are."""
    names, label = [entry["name"] for entry in (data or {}).get("classes", [])], streams.get("label")
    if label is None or label.view.named is None or len(names) != label.process.vocabulary:
        return streams
    return {**streams, "label": dataclasses.replace(label, view=label.view.named(names))}


def differences(was: dict[str, Any], now: dict[str, Any], most: int = 3) -> str:
    """What has changed, in words, the first few of them; nothing if nothing has."""
    found = [
        f"{what} was {was[key]} and is {now.get(key)}"
        for key, what in (("name", "the name"), ("version", "the version"), ("examples", "the number of examples"))
        if key in was and was[key] != now.get(key)
    ]
    shares = was.get("holdout", 0), now.get("holdout", 0)
    found += ["data.holdout was {} and is {}".format(*shares)] * (shares[0] != shares[1])
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


def _classes_of(classes: Iterable[str], names: Iterable[str]) -> list[dict[str, Any]]:
    files: dict[str, list[str]] = {name: [] for name in classes}
    for name in names:
        if of := class_of(name):
            files[of].append(name.removeprefix(f"{of}/"))
    return [{"name": name, "examples": len(names), "listing": _digest_of(names)} for name, names in files.items()]


def _digest_of(names: Iterable[str]) -> str:
    return _digest("\n".join(sorted(names)))[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
