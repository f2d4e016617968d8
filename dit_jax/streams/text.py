"""Text: bytes, or tokens of a byte-pair encoding, masked one by one."""

import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import flax.linen as nn
import numpy as np
from flax.linen.initializers import normal, zeros

from dit_jax.diffusion.levels import LEVELS, Quantile
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.stream import Stream, View
from dit_jax.media import bpe
from dit_jax.network.tokens import TIME, positions
from dit_jax.schema import Range, called, checks


@checks
def text(
    length: Annotated[int, Range(at_least=1, at_most=2**20)],
    vocabulary: Annotated[int, Range(at_least=2, at_most=256)] = 256,
    levels: Quantile | str = "uniform()",
    blocks: Annotated[int, Range(at_least=1)] = 1,
    merges: str = "",
) -> Stream:
    """`length` bytes below `vocabulary`, or as many tokens; a shorter text is followed by NUL bytes, which are tokens
    like any other.

    levels: if uniform, the loss is the bound. blocks: how many equal parts are drawn one after another, if there is a
    stream `past` of this one. merges: those of a byte-pair encoding, as media/bpe.py writes them; each is a token more
    than the 256 bytes. Raises ValueError for a vocabulary that bytes do not have, for merges of less than all bytes,
    and for blocks that are not equal.
    """
    if merges and vocabulary < 256:
        raise ValueError(f"vocabulary = {vocabulary} should be 256, to which merges add")
    if length % blocks:
        raise ValueError(f"blocks = {blocks} should divide length = {length}")
    pairs = bpe.read(merges)
    tokens = vocabulary + len(pairs)
    pieces = bpe.pieces(pairs)[:tokens]
    return Stream(
        shape=(length,),
        process=Masked(tokens),
        levels=called(levels, LEVELS, "levels"),
        positions=positions((length,), (TIME,)),
        embed=lambda width, dtype, name: nn.Embed(tokens + 1, width, embedding_init=normal(0.02), name=name),
        head=lambda width, dtype, name: nn.Dense(tokens, kernel_init=zeros, dtype=dtype, name=name),
        groups=blocks,
        codec_id=merges,
        view=View(
            read=lambda value: read(value, length, vocabulary, pairs),
            show=lambda rows: show(rows, pieces),
            save=lambda row, path: save(row, path, pieces),
            to_bytes=lambda rows: to_bytes(rows, pieces),
        ),
    )


def read(value: str, length: int, vocabulary: int, merges: bpe.Merges) -> np.ndarray:
    r"""'seven' -> its tokens [1, length]; 'In the beginning*' -> with all that is left in the place of * hidden.

    One * is a gap, at the end, in front or in the middle, and a backslash before it makes it an asterisk. '@FILE' is
    what the file says, in the same way; a text that begins with @ itself is written '\@...'. Raises ValueError for a
    text that is too long, has two gaps or bytes outside the vocabulary, and OSError for a file that cannot be read.
    """
    said = contents(value[1:]) if value.startswith("@") else re.sub(r"\A\\@", "@", value).encode()
    parts = [part.replace(rb"\*", b"*") for part in re.split(rb"(?<!\\)\*", said)]
    tokens, most = [bpe.encode(part, merges) for part in parts], max(b"".join(parts), default=0)
    known, hidden = np.concatenate(tokens), vocabulary + len(merges)
    if len(parts) > 2:
        raise ValueError(rf"{value!r} has {len(parts) - 1} gaps, and may have one *; an asterisk is \*")
    if len(known) > length:
        unit = "tokens" if merges else "bytes"
        raise ValueError(f"{value!r} is {len(known)} {unit} long, and the text has {length}: shorten it")
    if most >= vocabulary:
        raise ValueError(f"{value!r} has the byte {most}, but the text's bytes are 0 ... {vocabulary - 1}")
    left = length - len(known)
    return np.insert(known, [len(tokens[0])] * left, hidden if len(parts) == 2 else 0)[None]


def contents(file: str) -> bytes:
    """What a text file says: its bytes, without a byte-order mark and one newline at the end.

    Raises OSError, naming the file, if it cannot be read, and ValueError if it is in UTF-16, as PowerShell writes.
    """
    try:
        said = Path(file).expanduser().read_bytes()
    except OSError as error:
        why = f"cannot read the text {file}: {error.strerror}"
        raise type(error)(rf"{why}; to begin a text with @ itself, write \@") from None
    if said.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{file} is in UTF-16: iconv -f UTF-16 -t UTF-8 IN > OUT")
    return re.sub(rb"\r?\n\Z", b"", said.removeprefix(codecs.BOM_UTF8))


def to_bytes(rows: np.ndarray, pieces: Sequence[bytes]) -> list[bytes]:
    """[k, length] -> the k byte strings that they are, without what is hidden."""
    return [b"".join(pieces[token] for token in row.tolist() if token < len(pieces)) for row in rows]


def show(rows: np.ndarray, pieces: Sequence[bytes]) -> list[str]:
    """[k, length] -> k texts, without NUL bytes and what is hidden, and with a mark for bytes that are not UTF-8."""
    return [said.replace(b"\0", b"").decode(errors="replace") for said in to_bytes(rows, pieces)]


def save(row: np.ndarray, path: Path, pieces: Sequence[bytes]) -> Path:
    """Write [length] as PATH.txt."""
    file = Path(f"{path}.txt")
    file.write_text(show(row[None], pieces)[0], encoding="utf-8")
    return file
