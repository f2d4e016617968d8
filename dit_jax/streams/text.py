"""Text: bytes, one masked token each."""

import re
from pathlib import Path

import flax.linen as nn
import numpy as np

from dit_jax.diffusion.levels import Quantile, apart, uniform
from dit_jax.diffusion.masked import Masked, Reveal, ancestral
from dit_jax.diffusion.stream import Stream
from dit_jax.network.tokens import TIME, positions


def text(
    length: int, vocabulary: int = 256, levels: Quantile = uniform(), reveal: Reveal = ancestral, blocks: int = 1
) -> Stream:
    """`length` bytes below `vocabulary`; a shorter text is followed by NUL bytes, which are tokens like any other.

    levels: if uniform, the loss is the bound. reveal: how a sampler shows bytes, such as a row of masked.REVEALS.
    blocks: how many equal parts are drawn one after another, if there is a stream `past` of this one. Raises ValueError
    for a vocabulary that bytes do not have, and for blocks that are not equal.
    """
    if not 2 <= vocabulary <= 256:
        raise ValueError(f"vocabulary = {vocabulary} should be 2 ... 256: a token is a byte")
    if blocks < 1 or length % blocks:
        raise ValueError(f"blocks = {blocks} should divide length = {length}")
    return Stream(
        shape=(length,),
        process=Masked(vocabulary, reveal),
        levels=levels,
        positions=positions((length,), (TIME,)),
        embed=lambda width, dtype, name: nn.Embed(
            vocabulary + 1, width, embedding_init=nn.initializers.normal(0.02), name=name
        ),
        head=lambda width, dtype, name: nn.Dense(vocabulary, kernel_init=nn.initializers.zeros, dtype=dtype, name=name),
        groups=blocks,
        across=apart,
        read=lambda value: read(value, length, vocabulary),
        show=lambda tokens: show(tokens, vocabulary),
        save=lambda tokens, path: save(tokens, path, vocabulary),
    )


def read(value: str, length: int, vocabulary: int = 256) -> np.ndarray:
    """'seven' -> its bytes [1, length]; 'In the beginning*' -> with all that is left in the place of * hidden.

    One * is a gap, at the end, in front or in the middle, and a backslash before it makes it an asterisk. '@FILE' is
    what the file says, in the same way. Raises ValueError for a text that is too long, has two gaps or bytes outside
    the vocabulary, and OSError for a file that cannot be read.
    """
    said = Path(value[1:]).expanduser().read_bytes() if value.startswith("@") else value.encode()
    parts = [part.replace(rb"\*", b"*") for part in re.split(rb"(?<!\\)\*", said)]
    known, most = np.frombuffer(b"".join(parts), np.uint8), max(b"".join(parts), default=0)
    if len(parts) > 2:
        raise ValueError(rf"{value!r} has {len(parts) - 1} gaps, and may have one *; an asterisk is \*")
    if len(known) > length:
        raise ValueError(f"{value!r} is {len(known)} bytes long, and the text has {length}: shorten it")
    if most >= vocabulary:
        raise ValueError(f"{value!r} has the byte {most}, but the text's bytes are 0 ... {vocabulary - 1}")
    left = length - len(known)
    return np.insert(known.astype(np.int32), [len(parts[0])] * left, vocabulary if len(parts) == 2 else 0)[None]


def show(tokens: np.ndarray, vocabulary: int = 256) -> list[str]:
    """[k, length] -> k texts, without NUL bytes and what is hidden, and with a mark for bytes that are not UTF-8."""
    return [bytes(row[(row > 0) & (row < vocabulary)].tolist()).decode(errors="replace") for row in tokens]


def save(tokens: np.ndarray, path: Path, vocabulary: int = 256) -> Path:
    """Write [length] as PATH.txt."""
    file = Path(f"{path}.txt")
    file.write_text(show(tokens[None], vocabulary)[0], encoding="utf-8")
    return file
