"""Scikit-learn's bundled digits as a TFDS data set: 1,797 real images of 8 x 8, without network or TensorFlow."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from dit_jax.data.building import preparer


class Digits(tfds.core.GeneratorBasedBuilder):
    """Handwritten digits: uint8 images [8, 8, 1] and labels 0 ... 9.

    Even rows of scikit-learn's table are the train split (899), odd rows the test split (898). The table is sorted by
    writer, so interleaving keeps every writer in both halves; cutting it in the middle would not.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8 x 8 pixels, bundled with scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        for row, pixels, label in handwritten(split):
            # As PIL and not NumPy, for which TFDS would call TensorFlow's encoder.
            yield row, {"image": Image.fromarray(pixels), "label": label}


def handwritten(split: str) -> Iterator[tuple[int, np.ndarray, int]]:
    """(row, uint8 [8, 8], label) of every digit in a split."""
    from sklearn.datasets import load_digits  # takes a second, which opening the prepared digits does not need

    digits = load_digits()
    # 17 grey levels, 0 ... 16, stretched over a byte: 16 v / 255 rounds back to each of them.
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    for row in range(["train", "test"].index(split), len(pixels), 2):
        yield row, pixels[row], int(digits.target[row])


prepare = preparer(Digits)
