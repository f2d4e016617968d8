"""How the data sets of this folder are built: by TFDS, into array_record files, without a word."""

import contextlib
import os
from collections.abc import Callable

import tensorflow_datasets as tfds


def preparer(builder: type[tfds.core.DatasetBuilder]) -> Callable[[str | os.PathLike], None]:
    """A function that writes the builder's data set under a directory, if it is not there yet."""

    def prepare(data_dir: str | os.PathLike) -> None:
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(None):
            builder(data_dir=data_dir, file_format="array_record").download_and_prepare()

    return prepare
