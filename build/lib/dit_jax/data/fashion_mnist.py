"""The stock TFDS data set `fashion_mnist`, prepared without TensorFlow, from Debian's files or from the network."""

import contextlib
import gzip
import io
import os
import struct
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import requests
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image
from tensorflow_datasets.core.download import downloader, extractor
from tensorflow_datasets.core.features import image_feature
from tensorflow_datasets.image_classification import mnist

from dit_jax.data.packages import debian

PACKAGE, FILES = "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"
PACKED_AT = {"train": 1504176606, "t10k": 1504176627}  # when the official files were compressed, in Unix seconds


def prepare(data_dir: str | os.PathLike) -> None:
    """Write Fashion-MNIST under `data_dir`, if it is not there yet; takes about ten seconds.

    TFDS checks its official checksums wherever the files come from. Raises FileNotFoundError when there are neither
    Debian's files nor a network.
    """
    builder = tfds.builder("fashion_mnist", data_dir=data_dir, file_format="array_record")
    if builder.is_prepared():
        return
    # Ten retries, TFDS's own number, take three minutes to find that there is no network.
    patience = mock.patch.object(downloader, "MAX_RETRIES", 4)
    with tempfile.TemporaryDirectory() as folder, without_tensorflow(), patience:
        with contextlib.suppress(FileNotFoundError):
            for file in Path(debian(PACKAGE, Path(folder)), FILES).glob("*-ubyte.gz"):
                Path(folder, file.name).write_bytes(official(file))
        config = tfds.download.DownloadConfig(manual_dir=folder, extract_dir=folder, try_download_gcs=False)
        try:
            # What is not in manual_dir is downloaded.
            builder.download_and_prepare(download_dir=folder, download_config=config)
        except (requests.RequestException, tfds.download.DownloadError) as error:
            raise FileNotFoundError(
                f"fashion_mnist: apt-get cannot fetch {PACKAGE}, nor is there a network to download it from: {error}"
            ) from error


def official(file: Path) -> bytes:
    """The file as it was published: Debian's reproducible build strips name and time from the header of a gzip file."""
    data = file.read_bytes()
    magic, flags, _, system = struct.unpack_from("<3sBI2s", data)
    if flags & gzip.FNAME:
        return data
    packed_at = PACKED_AT[file.name.split("-")[0]]
    return struct.pack("<3sBI2s", magic, gzip.FNAME, packed_at, system) + file.stem.encode() + b"\0" + data[10:]


@contextlib.contextmanager
def without_tensorflow() -> Iterator[None]:
    """Lend TFDS plain Python for the three things that this builder asks of TensorFlow: two file calls and PNG."""

    def encode(encoder: image_feature._ImageEncoder, pixels: np.ndarray) -> bytes:
        Image.fromarray(pixels[..., 0]).save(buffer := io.BytesIO(), format=encoder.encoding_format)
        return buffer.getvalue()

    gfile = types.SimpleNamespace(GFile=lambda path, mode: epath.Path(path).open(mode))
    tensorflow = types.SimpleNamespace(compat=types.SimpleNamespace(as_text=str), io=types.SimpleNamespace(gfile=gfile))
    with (
        mock.patch.object(mnist, "tf", tensorflow),
        mock.patch.object(extractor, "tf", tensorflow),
        mock.patch.object(image_feature._ImageEncoder, "_encode_image", encode),
    ):
        yield
