"""Scikit-learn's bundled digits as a TFDS data set: 1,797 real images of 8 x 8, without network or TensorFlow."""

import contextlib
import os
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image


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
        return {"train": self._generate_examples(start=0), "test": self._generate_examples(start=1)}

    def _generate_examples(self, start: int) -> Iterator[tuple[int, dict]]:
        from sklearn.datasets import load_digits  # takes a second, which opening the prepared digits does not need

        digits = load_digits()
        # 17 grey levels, 0 ... 16, stretched over a byte: 16 v / 255 rounds back to each of them.
        pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
        for row in range(start, len(pixels), 2):
            # As PIL and not NumPy, for which TFDS would call TensorFlow's encoder.
            yield row, {"image": Image.fromarray(pixels[row]), "label": int(digits.target[row])}


def prepare(data_dir: str | os.PathLike) -> None:
    """Write the digits under `data_dir`, if they are not there yet; takes a second and says nothing."""
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(None):
        Digits(data_dir=data_dir, file_format="array_record").download_and_prepare()
