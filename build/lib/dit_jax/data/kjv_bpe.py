"""The King James Bible as tokens of a byte-pair encoding, which its train split alone has taught."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from dit_jax.data.building import preparer
from dit_jax.data.kjv import in_pieces, read_splits
from dit_jax.media import bpe

LENGTH = 128  # tokens of a piece
MERGES = 768  # so that there are 1,024 tokens


class KjvBpe(tfds.core.GeneratorBasedBuilder):
    """The text of `kjv` and its splits, in consecutive pieces of 128 tokens, which are some 400 bytes.

    The metadata hold the merges of the encoding (see media/bpe.py), {"merges": {"text": "116,104 ..."}}, which a stream
    needs to read and write such tokens.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The King James Bible (1611, 1769), public domain, of Debian's bible-kjv-text 4.38, in tokens.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Tensor(shape=(LENGTH,), dtype=np.int32)}),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,  # neighbours stay neighbours, as in kjv
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        texts = read_splits(Path(dl_manager.download_dir))
        merges = bpe.learn(texts["train"], MERGES)
        self.info.metadata["merges"] = {"text": bpe.write(merges)}
        return {split: self._generate_examples(bpe.encode(text, merges)) for split, text in texts.items()}

    def _generate_examples(self, tokens: np.ndarray) -> Iterator[tuple[int, dict]]:
        yield from in_pieces(tokens, LENGTH)


prepare = preparer(KjvBpe)
