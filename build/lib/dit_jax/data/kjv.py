"""The King James Bible as a TFDS data set: 4.1 MB of English from a Debian package, without TensorFlow."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from dit_jax.data.building import preparer
from dit_jax.data.packages import debian

LENGTH = 256  # bytes of a piece
VERSES = 31_102
HELD_OUT = ("Ruth", "Est", "Eccl", "Dan", "Jonah", "John", "Jas")


class Kjv(tfds.core.GeneratorBasedBuilder):
    """The text of the King James Bible, one verse a line, in consecutive pieces of 256 bytes, uint8.

    There are no references, headings or empty lines. Whole books are held out as the test split, 6 % of the text: Ruth,
    Esther, Ecclesiastes, Daniel, Jonah, John and James, which retell no other book as Chronicles and Mark do. All
    others are the train split. Both are in order, so that a split is one text; the last, shorter piece is left out.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The King James Bible (1611, 1769), public domain, from Debian's bible-kjv-text 4.38.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Tensor(shape=(LENGTH,), dtype=np.uint8)}),
            disable_shuffling=True,  # neighbours stay neighbours: a compressor reads a split as one text
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        texts = read_splits(Path(dl_manager.download_dir))
        return {split: self._generate_examples(text) for split, text in texts.items()}

    def _generate_examples(self, text: bytes) -> Iterator[tuple[int, dict]]:
        yield from in_pieces(np.frombuffer(text, np.uint8), LENGTH)


def read_splits(folder: Path) -> dict[str, bytes]:
    """The text of each split, one verse a line; arguments and errors are those of read_verses."""
    verses: dict[str, list[str]] = {"train": [], "test": []}
    for book, verse in read_verses(folder):
        verses["test" if book in HELD_OUT else "train"].append(f"{verse}\n")
    return {split: "".join(lines).encode("ascii") for split, lines in verses.items()}


def in_pieces(tokens: np.ndarray, length: int) -> Iterator[tuple[int, dict]]:
    """Examples of `length` tokens each, one after another, without what is left at the end."""
    for row, piece in enumerate(tokens[: len(tokens) // length * length].reshape(-1, length)):
        yield row, {"text": piece}


def read_verses(folder: Path) -> Iterator[tuple[str, str]]:
    """(abbreviated book, verse) in order, by the program of Debian's bible-kjv, which `folder` keeps if it has to be
    fetched. Raises FileNotFoundError if it cannot be, ValueError if it prints another text."""
    program, text = (debian(package, folder) for package in ("bible-kjv", "bible-kjv-text=4.38"))
    command = program / "usr/bin/bible", "-p", text / "usr/lib", "-f", "gen1:1-rev22:21"
    printed = subprocess.run(command, capture_output=True, text=True)
    lines = [re.fullmatch(r"(\d?[A-Za-z]+)\d+:\d+ (.*)", line) for line in printed.stdout.splitlines()]
    verses = [(line[1], line[2].strip()) for line in lines if line is not None]
    if len(verses) != VERSES:
        raise ValueError(f"kjv: {command[0]} printed {len(verses)} verses, not {VERSES}: {printed.stderr.strip()}")
    yield from verses


prepare = preparer(Kjv)
