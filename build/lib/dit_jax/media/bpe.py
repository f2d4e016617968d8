"""Byte-pair encoding of bytes (Gage 1994; Sennrich et al. 2016, arXiv 1508.07909), fully said by its ordered merges.

Tokens 0 ... 255 are the bytes, and merge i makes token 256 + i of the two tokens that it names, so any bytes can be
encoded, and come back as they were. Nothing splits the text into words first: a token may be "of the ", as in SuperBPE
(Liu et al. 2025, arXiv 2503.13423). Merges are written as in "116,104 256,101", which makes "th" and "the".
"""

import re

import numpy as np

BYTES = 256

Merges = list[tuple[int, int]]


def learn(text: bytes, count: int) -> Merges:
    """The `count` merges of a text, each of the most frequent pair that those before it have left; of several, the one
    of the lowest tokens. Raises ValueError for a text that has no pair left."""
    tokens, merges, size = np.frombuffer(text, np.uint8).astype(np.int64), [], BYTES + count
    for new in range(BYTES, size):
        if len(tokens) < 2:
            raise ValueError(f"a text of {len(text)} bytes has no {count} pairs to merge")
        a, b = divmod(int(np.bincount(tokens[:-1] * size + tokens[1:]).argmax()), size)
        merges.append((a, b))
        tokens = _merge(tokens, a, b, new)
    return merges


def encode(text: bytes, merges: Merges) -> np.ndarray:
    """Bytes -> their tokens, int32 [n]: every merge in turn, wherever it can be done, from the left."""
    tokens = np.frombuffer(text, np.uint8).astype(np.int32)
    for new, (a, b) in enumerate(merges, start=BYTES):
        tokens = _merge(tokens, a, b, new)
    return tokens


def pieces(merges: Merges) -> list[bytes]:
    """The bytes that each token stands for."""
    known = [bytes([byte]) for byte in range(BYTES)]
    for a, b in merges:
        known.append(known[a] + known[b])
    return known


def write(merges: Merges) -> str:
    return " ".join(f"{a},{b}" for a, b in merges)


def read(said: str) -> Merges:
    """What `write` has written. Raises ValueError for anything else, and for a merge of tokens that come after it."""
    merges: Merges = []
    for new, pair in enumerate(said.split(), start=BYTES):
        if not re.fullmatch(r"\d+,\d+", pair) or max(a_b := tuple(map(int, pair.split(",")))) >= new:
            raise ValueError(f"merge {pair!r} should be two tokens below {new}, such as 116,104")
        merges.append((a_b[0], a_b[1]))
    return merges


def _merge(tokens: np.ndarray, a: int, b: int, new: int) -> np.ndarray:
    """Tokens [n] with `new` for each a, b."""
    at = np.flatnonzero((tokens[:-1] == a) & (tokens[1:] == b))
    if a == b:  # pairs overlap in a run of them: every other one counts
        first = np.diff(at, prepend=-2) > 1
        at = at[(at - at[first][np.cumsum(first) - 1]) % 2 == 0]
    tokens = tokens.copy()
    tokens[at] = new
    return np.delete(tokens, at + 1)
