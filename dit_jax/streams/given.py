"""What the shell gives: 'label=3' -> {"label": an array with one value for each sample}."""

from collections.abc import Sequence

import numpy as np

from dit_jax.diffusion.stream import Streams


def read_given(streams: Streams, texts: Sequence[str], num: int) -> dict[str, np.ndarray]:
    """'STREAM=VALUE' texts -> {name: [num, *shape]}; several values of a stream take turns."""
    given = {}
    for text in texts:
        name, separator, value = text.partition("=")
        readers = {name: stream.read for name, stream in streams.items() if stream.read is not None}
        if not separator or name not in readers:
            raise ValueError(f"--given={text} should be STREAM=VALUE, where STREAM is one of: {', '.join(readers)}")
        values = readers[name](value)
        given[name] = values[np.arange(num) % len(values)]
    return given
