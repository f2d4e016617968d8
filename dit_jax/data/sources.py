"""Where examples come from: a name in a config -> a random-access source of {stream: array}."""

import contextlib
import functools
import importlib
import io
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from PIL import Image

from dit_jax.data import folder
from dit_jax.data.folder import Folder
from dit_jax.data.latents import Latents
from dit_jax.diffusion.stream import Stream, Streams
from dit_jax.media.image import MODES, fit
from dit_jax.names import first_few, nearest

if TYPE_CHECKING:  # importing TFDS takes a second, so it waits until a data set needs it
    from tensorflow_datasets.core import DatasetBuilder, DatasetInfo

DATA_DIR = "~/.cache/dit_jax/data"
MEMORY_LIMIT = 256 * 2**20  # bytes; Fashion-MNIST's train split takes 188 MB

# Data sets that `python -m dit_jax.prepare` can build: the module that has the builder's prepare(data_dir).
BUILDERS = {
    "audio_digits": "dit_jax.data.audio_digits",
    "audio_drums": "dit_jax.data.audio_drums",
    "digits": "dit_jax.data.digits",
    "emoji": "dit_jax.data.emoji",
    "fashion_mnist": "dit_jax.data.fashion_mnist",
    "joint_digits": "dit_jax.data.joint_digits",
    "kjv": "dit_jax.data.kjv",
    "kjv_bpe": "dit_jax.data.kjv_bpe",
    "video_digits": "dit_jax.data.video_digits",
}
ENCODE = "--source=DIR --vae=FILE"  # any other name is that of latents, and this is what they are made of


class Source(Protocol):
    """Examples by index: {stream: array of its shape}, images and clips in [-1, 1]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> dict[str, np.ndarray]: ...


def load(name: str, split: str, data_dir: str | os.PathLike, streams: Streams, holdout: float = 0.0) -> Source:
    """Open a data set for the streams of a model.

    name: digits, which prepare themselves; fashion_mnist, or any data set that TFDS has prepared in data_dir and that
    has a feature for each stream; latents that dit_jax.prepare has written there; synthetic, noise for any streams; or
    a folder of images (see folder.py): a path that begins with /, . or ~, or one that is no data set's name, in which
    {split} may stand for the split. holdout: the share of a folder's images that is not trained on, if it has no
    folders for its splits. Images of varying size are fitted to the shape. Examples that take at most MEMORY_LIMIT
    bytes are decoded once and kept.

    Raises FileNotFoundError for what is not there, ValueError for a wrong shape, number of classes, split or VAE.
    """
    if name == "synthetic":
        return Synthetic(streams)
    source: Source
    if path := folder_of(name, data_dir):
        check_names(name, ("image", "label"), streams)
        read, image = folder.in_classes if "label" in streams else folder.listing, streams["image"]
        source = images = Folder(path, image.shape, split, holdout, read, image.view.background)
        check_image(name, "image", (None, None, streams["image"].shape[-1]), "", streams["image"])
        check_classes(name, "label", images.classes, streams)
    else:
        builder = prepare(name, data_dir) if name == "digits" else find(name, data_dir)
        check_features(name, builder.info, streams)
        if "flipped" in builder.info.features:
            return Latents(builder, split)
        source = Prepared(builder, split, streams)
    size = len(source) * sum(int(np.prod(stream.shape)) for stream in streams.values())
    return Remembered(source) if size * np.dtype(np.float32).itemsize <= MEMORY_LIMIT else source


def held_out(name: str, data_dir: str | os.PathLike, streams: Streams, holdout: float = 0.0) -> Source | None:
    """What is not trained on of the data set that `load` opens, if there is any."""
    is_folder = name != "synthetic" and folder_of(name, data_dir)
    split = "test" if is_folder else contents(name, data_dir).held_out
    source = load(name, split, data_dir, streams, holdout) if split else ()
    return source if len(source) else None


class Contents(NamedTuple):
    """What a data set has: its splits; which of them is held out, "test" or "validation", nothing if none is; and how
    many classes, 0 where it has no labels."""

    splits: tuple[str, ...]
    held_out: str
    classes: int


def contents(name: str, data_dir: str | os.PathLike, holdout: float = 0.0) -> Contents:
    """What the data set that `load` opens has. Raises FileNotFoundError for what is not there."""
    if name == "synthetic":
        return Contents((), "", 0)
    if path := folder_of(name, data_dir):
        train = folder.part(path, "train", holdout, folder.listing)
        splits = ("train", "test") if train.held_out else ("train",)
        return Contents(splits, "test" if train.held_out else "", len(train.classes))
    info = find(name, data_dir).info
    held = next((split for split in ("test", "validation") if split in info.splits), "")
    label = dict(info.features).get("label")
    return Contents(tuple(info.splits), held, getattr(label, "num_classes", 0))


def described(name: str, source: Source, streams: Streams) -> str:
    """What there is to train on, in a line, and in another what becomes of it if it becomes anything else."""
    if name == "synthetic":
        return "synthetic noise, no data: for measuring speed"
    if isinstance(found := original(source), Folder):
        return folder.described(found)
    label = streams.get("label")
    return f"{name}: {len(source):,} examples" + (f", {label.process.vocabulary:,} classes" if label else "")


def original(source: Source) -> Source:
    """The source whose examples another one remembers, or replaces."""
    while hasattr(source, "source"):
        source = source.source
    return source


def folder_of(name: str, data_dir: str | os.PathLike) -> str:
    """The path of a folder of images, where a name is one; nothing for that of a data set."""
    if name.startswith(("/", ".", "~")):
        return name
    if name in ("synthetic", "digits") or not Path(name.replace("{split}", "train")).is_dir():
        return ""
    return name if prepared(name, data_dir) is None else ""


def prepare(name: str, data_dir: str | os.PathLike) -> "DatasetBuilder":
    """Build a data set under data_dir, if it is not there yet. Raises ValueError for a name that is not in BUILDERS."""
    if name not in BUILDERS:
        raise ValueError(f"nothing here prepares {name!r}; {nearest(name, BUILDERS)}; for latents, give {ENCODE}")
    with contextlib.suppress(FileExistsError):  # another process, started at the same time, was faster
        importlib.import_module(BUILDERS[name]).prepare(Path(data_dir).expanduser())
    return find(name, data_dir)


def find(name: str, data_dir: str | os.PathLike) -> "DatasetBuilder":
    """The data set that TFDS has prepared in data_dir. Raises FileNotFoundError if there is none, and ValueError if it
    is in a format that takes TensorFlow, or broken."""
    if (builder := prepared(name, data_dir)) is None:
        command = f"python -m dit_jax.prepare {name} --data_dir={data_dir}" + ("" if name in BUILDERS else f" {ENCODE}")
        hint = "" if name in BUILDERS else f"; {nearest(name, [*BUILDERS, 'synthetic'])}"
        raise FileNotFoundError(
            f"the data set {name!r} is not in {data_dir}, nor is it a folder of images, {Path(name).absolute()}: "
            f"prepare it with {command}, or give a folder's path{hint}"
        )
    check_format(builder.info)
    return builder


def prepared(name: str, data_dir: str | os.PathLike) -> "DatasetBuilder | None":
    """The data set of this name in data_dir, if there is one. Raises ValueError for one that is broken."""
    import tensorflow_datasets as tfds

    folder = Path(data_dir).expanduser()
    try:
        builder = tfds.builder(name, data_dir=folder)
        return builder if builder.is_prepared() else None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:  # such as a folder that nobody may read
            raise
        return None  # TFDS knows neither data nor code of this name
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise ValueError(f"{folder / name} is no data set as TFDS writes them: {reason}; prepare it again") from error


def check_format(info: "DatasetInfo") -> None:
    """Raises ValueError for files that cannot be read at random, with the commands that write others beside them."""
    form = info.file_format
    if form is not None and info.available_file_formats().isdisjoint(form.with_random_access()):
        raise ValueError(
            f"{info.data_dir} has {form.value} files, which cannot be read at random: write others beside them, by pip "
            f"install tensorflow; tfds convert_format --dataset_version_dir={info.data_dir} "
            "--out_file_format=array_record"
        )


def check_names(name: str, found: Iterable[str], streams: Streams) -> None:
    if missing := set(streams) - set(found):
        raise ValueError(
            f"{name} has the features {', '.join(found)}, but the config's streams are {', '.join(streams)}: it has no "
            f"{', '.join(sorted(missing))}"
        )


def check_features(name: str, info: "DatasetInfo", streams: Streams) -> None:
    """Compare a data set that TFDS has prepared with the config."""
    import tensorflow_datasets as tfds

    check_names(name, info.features, streams)
    posteriors = "flipped" in info.features  # a mean and a standard deviation for each channel
    for key, stream in streams.items():
        feature = info.features[key]
        if isinstance(feature, tfds.features.ClassLabel):
            check_classes(name, key, feature.names, streams)
        elif isinstance(feature, tfds.features.Image):
            check_image(name, key, feature.shape, "", stream)
        elif posteriors:
            *size, channels = feature.shape
            check_image(name, key, (*size, channels // 2), info.metadata["vae"], stream)
        else:
            check_numbers(name, key, np.dtype(feature.np_dtype), stream)
            check_merges(name, key, (info.metadata or {}).get("merges", {}).get(key, ""), stream)
            if feature.shape != stream.shape:
                raise ValueError(
                    f"{name} has {key} of shape {feature.shape}, but streams.{key}.shape is {stream.shape}"
                )


def check_image(name: str, key: str, found_shape: tuple, found_codec: str, stream: Stream) -> None:
    """Compare images, or latents of a VAE, with their stream; None in a shape is any size."""
    shape, codec = stream.shape, stream.codec_id
    if found_codec != codec:
        found, wanted = (f"latents of the VAE {sha256}" if sha256 else "images" for sha256 in (found_codec, codec))
        raise ValueError(
            f"{name} has {found}, but streams.{key} is made for {wanted}: change streams.{key}.codec, or make the data "
            f"with python -m dit_jax.prepare NAME {ENCODE}"
        )
    if len(shape) != 3 or any(found not in (None, size) for found, size in zip(found_shape, shape, strict=True)):
        raise ValueError(f"{name} has images of shape {found_shape}, but streams.{key}.shape is {shape}")
    if not codec and shape[-1] not in MODES:
        raise ValueError(f"images have 1 channel (grey) or 3 (RGB), but streams.{key}.shape is {shape}")


def check_numbers(name: str, key: str, found: np.dtype, stream: Stream) -> None:
    """Raises ValueError for words, which no stream takes."""
    if not (np.issubdtype(found, np.number) or found == np.bool_):
        wanted = "Tensor(shape=..., dtype=np.uint8)" if stream.shape else "ClassLabel(names=[...])"
        raise ValueError(f"{name} has {key} in words, not in numbers: prepare it with the TFDS feature {wanted}")


def check_merges(name: str, key: str, found: str, stream: Stream) -> None:
    """Compare tokens of a byte-pair encoding, or what has none, with their stream."""
    if stream.process.vocabulary is not None and found != stream.codec_id:
        has, wanted = (len(merges.split()) for merges in (found, stream.codec_id))
        raise ValueError(
            f"{name} has {key} of {has} merges, but streams.{key}.merges are {'other ' * (has == wanted)}{wanted}: set "
            "them to those in the data set's metadata.json, if it has any, or choose another data set"
        )


def check_classes(name: str, key: str, found: list[str], streams: Streams) -> None:
    """Compare the names of classes with their stream."""
    process = streams[key].process if key in streams else None
    if process is not None and process.vocabulary not in (None, len(found)):
        raise ValueError(
            f"{name} has {len(found)} classes, but streams.{key}.classes is {process.vocabulary}: they are "
            f"{first_few(found)}; give --config.streams.{key}.classes={len(found)}"
        )


class Prepared:
    """One split of a data set that TFDS has prepared: images fitted to the shapes of their streams, other bytes scaled
    to [-1, 1] where their stream is Gaussian, and anything else as it is."""

    def __init__(self, builder: "DatasetBuilder", split: str, streams: Streams):
        import tensorflow_datasets as tfds

        images = {key for key in streams if isinstance(builder.info.features[key], tfds.features.Image)}
        # PIL decodes, as it does for folders.
        self.records = builder.as_data_source(split, decoders=dict.fromkeys(images, tfds.decode.SkipDecoding()))
        self.read = {key: functools.partial(read_record, stream, key in images) for key, stream in streams.items()}

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = self.records[index]
        return {key: read(record[key]) for key, read in self.read.items()}


def read_record(stream: Stream, is_image: bool, value) -> np.ndarray:
    """One value of a data set as its stream has it."""
    if is_image:
        with Image.open(io.BytesIO(value)) as image:
            return fit(image, stream.shape, stream.view.background)
    value = np.asarray(value)
    if value.dtype == np.uint8 and stream.process.is_continuous:
        return value.astype(np.float32) / 127.5 - 1
    return value.astype(stream.process.dtype)


class Synthetic:
    """Standard normal values and uniform tokens, functions of the index; as many as ImageNet has to train on."""

    def __init__(self, streams: Streams):
        self.streams = streams

    def __len__(self) -> int:
        return 1_281_167

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(index)
        return {
            name: rng.standard_normal(stream.shape, np.float32)
            if stream.process.is_continuous
            else np.asarray(rng.integers(stream.process.vocabulary, size=stream.shape), np.int32)
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
