"""What the shell gives: 'label=3' -> {"label": an array with one value for each sample}."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dit_jax.diffusion.stream import Streams


class Given(NamedTuple):
    """What is known of samples before they are drawn, as `diffusion.sampler.sample` takes it."""

    given: dict[str, np.ndarray]
    prefix: dict[str, int]
    start: dict[str, np.ndarray]


def read_given(streams: Streams, texts: Sequence[str], num: int) -> Given:
    """'STREAM=VALUE' texts -> {name: [num, *shape]}; several values of a stream take turns.

    'STREAM=VALUE:prefix=K' gives the first K groups, such as frames, of a value. A value with hidden tokens, such as
    text with a gap, is where the stream starts from. Raises ValueError for anything else that cannot be read.
    """
    found = Given({}, {}, {})
    for text in texts:
        name, separator, value = text.partition("=")
        readers = {name: stream.view.read for name, stream in streams.items() if stream.view.read is not None}
        if not separator or name not in readers:
            raise ValueError(f"--given={text} should be STREAM=VALUE, where STREAM is one of: {', '.join(readers)}")
        stream = streams[name]
        value, separator, count = value.partition(":prefix=")
        if separator:
            if not (count.isdigit() and 0 < int(count) < stream.groups):
                most = f"1 ... {stream.groups - 1}" if stream.groups > 1 else "left out"
                raise ValueError(f"--given={text}: the prefix of {name}, {stream.groups} groups, should be {most}")
            found.prefix[name] = int(count)
        values = readers[name](value)
        parts = np.isnan(values).reshape(len(values), stream.groups, -1).any(-1)
        if parts[:, : found.prefix.get(name)].any():
            whole = parts.argmax(1)[parts.any(1)].min()
            has = f"there are {whole} of {stream.groups} groups of {name}"
            raise ValueError(f"--given={text}: {has}: add :prefix={whole}")
        values = np.nan_to_num(values)[np.arange(num) % len(values)]
        gaps = np.any(stream.process.is_mask(values))
        (found.start if gaps else found.given)[name] = values
    return found
