"""Where examples come from: a name in a config -> a random-access source of {stream: array}."""

import contextlib
import difflib
import functools
import importlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from PIL import Image

from dit_jax.data.folder import MODES, Folder, fit
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.stream import Streams

if TYPE_CHECKING:  # importing TFDS takes a second, so it waits until a data set needs it
    from tensorflow_datasets.core import DatasetBuilder

DATA_DIR = "~/.cache/dit_jax/data"
MEMORY_LIMIT = 256 * 2**20  # bytes; Fashion-MNIST's train split takes 188 MB

# Data sets that `python -m dit_jax.prepare` can build: the module that has the builder's prepare(data_dir).
BUILDERS = {"digits": "dit_jax.data.digits", "fashion_mnist": "dit_jax.data.fashion_mnist"}


class Source(Protocol):
    """Examples by index: image float32 [height, width, channels] in [-1, 1], label int32 [], or other streams."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, np.ndarray]: ...


def load(name: str, split: str, data_dir: str | os.PathLike, streams: Streams) -> Source:
    """Open a data set for the streams of a model.

    name: digits, which prepare themselves; fashion_mnist, or any data set with an image and a label that TFDS has
    prepared in data_dir; synthetic, noise for any streams; or a folder with one subfolder of images a class, written
    as a path that begins with /, . or ~, in which {split} stands for the split if it has a folder for each. Images of
    varying size are fitted to the shape. What takes at most MEMORY_LIMIT bytes is decoded once and kept.

    Raises FileNotFoundError for what is not there, ValueError for a wrong shape, number of classes or split.
    """
    if name == "synthetic":
        return Synthetic(streams)
    if not {"image"} <= set(streams) <= {"image", "label"}:
        raise ValueError(f"{name} has the streams image and label, but the config's are {', '.join(streams)}")
    shape = streams["image"].shape
    source: Source
    if name.startswith(("/", ".", "~")):
        source = folder = Folder(name.replace("{split}", split), shape)
        check(name, (None, None, shape[-1]), len(folder.classes), streams)
    else:
        builder = prepare(name, data_dir) if name == "digits" else find(name, data_dir)
        features = builder.info.features
        if not {"image", "label"} <= set(features):
            raise ValueError(f"{name} has the features {', '.join(features)}; an image and a label are needed")
        check(name, features["image"].shape, features["label"].num_classes, streams)
        source = Prepared(builder, split, shape)
    size = len(source) * int(np.prod(shape)) * np.dtype(np.float32).itemsize
    return Remembered(source) if size <= MEMORY_LIMIT else source


def prepare(name: str, data_dir: str | os.PathLike) -> "DatasetBuilder":
    """Build a data set under data_dir, if it is not there yet. Raises ValueError for a name that is not in BUILDERS."""
    if name not in BUILDERS:
        raise ValueError(f"nothing here prepares {name!r}; {nearest(name, BUILDERS)}")
    with contextlib.suppress(FileExistsError):  # another process, started at the same time, was faster
        importlib.import_module(BUILDERS[name]).prepare(Path(data_dir).expanduser())
    return find(name, data_dir)


def find(name: str, data_dir: str | os.PathLike) -> "DatasetBuilder":
    """The data set that TFDS has prepared in data_dir. Raises FileNotFoundError if there is none."""
    import tensorflow_datasets as tfds

    # A ValueError says that TFDS knows neither data nor code of this name.
    with contextlib.suppress(ValueError):
        builder = tfds.builder(name, data_dir=Path(data_dir).expanduser())
        if builder.is_prepared():
            return builder
    command = f"python -m dit_jax.prepare {name} --data_dir={data_dir}"
    hint = "" if name in BUILDERS else f"; {nearest(name, [*BUILDERS, 'synthetic'])}"
    raise FileNotFoundError(f"the data set {name!r} is not in {data_dir}: prepare it with {command}{hint}")


def nearest(name: object, known: Iterable[str]) -> str:
    """The end of an error about a name that does not exist: the one that was probably meant, or all there are."""
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(sorted(known))}"


def check(name: str, found_shape: tuple, found_classes: int, streams: Streams) -> None:
    """Compare a data set with the config; None in its shape is any size."""
    shape = streams["image"].shape
    if len(shape) != 3 or any(found not in (None, size) for found, size in zip(found_shape, shape, strict=True)):
        raise ValueError(f"{name} has images of shape {found_shape}, but streams.image.shape is {shape}")
    if shape[-1] not in MODES:
        raise ValueError(f"images have 1 channel (grey) or 3 (RGB), but streams.image.shape is {shape}")
    labels = streams["label"].process if "label" in streams else None
    if isinstance(labels, Masked) and labels.vocabulary != found_classes:
        raise ValueError(f"{name} has {found_classes} classes, but streams.label.classes is {labels.vocabulary}")


class Prepared:
    """One split of a data set that TFDS has prepared, images fitted to a shape."""

    def __init__(self, builder: "DatasetBuilder", split: str, shape: tuple[int, ...]):
        import tensorflow_datasets as tfds

        # PIL decodes, as it does for folders.
        self.records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        self.shape = shape

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = self.records[index]
        with Image.open(io.BytesIO(record["image"])) as image:
            return {"image": fit(image, self.shape), "label": np.asarray(record["label"], np.int32)}


class Synthetic:
    """Standard normal values and uniform tokens, functions of the index; as many as ImageNet has to train on."""

    def __init__(self, streams: Streams):
        self.streams = streams

    def __len__(self) -> int:
        return 1_281_167

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(index)
        return {
            name: np.asarray(rng.integers(stream.process.vocabulary, size=stream.shape), np.int32)
            if isinstance(stream.process, Masked)
            else rng.standard_normal(stream.shape, np.float32)
            for name, stream in self.streams.items()
        }


class Remembered:
    """A source that decodes every example once: decoding at each step would take the cores from training."""

    def __init__(self, source: Source):
        self.source = source
        self.recall = functools.cache(source.__getitem__)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.recall(index)
