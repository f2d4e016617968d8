"""Conditions from the command line: 'label=3' -> {"label": its values, which samples take in turn}."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dit_jax.diffusion.stream import Streams
from dit_jax.media.paths import is_file


class Given(NamedTuple):
    """What is known of samples before they are drawn: {name: [k, *shape]}, of which sample i takes value i % k."""

    given: dict[str, np.ndarray]
    prefix: dict[str, int]
    start: dict[str, np.ndarray]


def parse_given(streams: Streams, text: str) -> tuple[str, str, int | None]:
    r"""'STREAM=VALUE[:prefix=K]' -> (stream, value, K or None); nothing is read. Raises ValueError for anything else.

    A value that is a file, or '@FILE', is taken whole; in any other \:prefix= is a part of the value.
    """
    name, separator, value = text.partition("=")
    readable = [name for name, stream in streams.items() if stream.view.read is not None]
    if not separator or name not in readable:
        raise ValueError(f"--given={text} should be STREAM=VALUE, where STREAM is one of: {', '.join(readable)}")
    parts = re.fullmatch(r"(.*)(?<!\\):prefix=(.*)", value, re.DOTALL)
    if is_file(value.removeprefix("@")):
        return name, value, None
    if parts is None:
        return name, value.replace(r"\:prefix=", ":prefix="), None
    value, count = parts.groups()
    groups = streams[name].groups
    if not (count.isdigit() and 0 < int(count) < groups):
        most = f"1 ... {groups - 1}" if groups > 1 else "left out"
        raise ValueError(
            f"--given={text}: the prefix of {name}, {groups} groups, should be {most}; "
            r"where it is part of the value, write \:prefix="
        )
    return name, value.replace(r"\:prefix=", ":prefix="), int(count)


def read_given(streams: Streams, texts: Sequence[str]) -> Given:
    """'STREAM=VALUE' texts -> {name: [k, *shape]}; several values of a stream take turns.

    'STREAM=VALUE:prefix=K' gives the first K groups, such as frames, of a value. A value with hidden tokens, such as
    text with a gap, is where the stream starts from. A condition whose every value is the mask, as label=none is, is
    not given: it is absent, at t = 1. Among other values the mask is one of them, which is the same, for a masked
    stream's network is told no level, but for one that training never hid. Raises ValueError for anything else that
    cannot be read.
    """
    found = Given({}, {}, {})
    for text in texts:
        name, value, count = parse_given(streams, text)
        if count is not None:
            found.prefix[name] = count
        stream = streams[name]
        assert stream.view.read is not None
        values = stream.view.read(value)
        unknown = np.isnan(values).reshape(len(values), stream.groups, -1).any(-1)  # such as the frames after a still
        if unknown[:, :count].any():
            known = unknown.argmax(1)[unknown.any(1)].min()
            has = f"there are {known} of {stream.groups} groups of {name}"
            raise ValueError(f"--given={text}: {has}: add :prefix={known}")
        values, is_mask = np.nan_to_num(values), stream.process.is_mask(values)
        if stream.always_given and np.any(is_mask):
            raise ValueError(f"--given={text}: this run has no null class: in training {name} was never hidden")
        if stream.head is not None and np.any(is_mask):
            found.start[name] = values
        elif not np.all(is_mask):
            found.given[name] = values
    return found
