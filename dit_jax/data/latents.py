"""Latents of a folder of images: a TFDS data set in array_record files, written shard by shard and read at random.

A record holds the encoder's posterior of an image and that of its mirror image, which mirroring the first would only
approximate: mean and standard deviation side by side, [h, w, 2 c] float16, not scaled. metadata.json says from the
start what made them; TFDS sees a split once its last shard is there.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grain
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from dit_jax.data.folder import Folder

if TYPE_CHECKING:  # importing TFDS takes a second, so it waits until a data set needs it
    from tensorflow_datasets.core import DatasetBuilder
    from tensorflow_datasets.core.features import FeaturesDict

VERSION = "1.0.0"
NOTES = "metadata.json"  # where TFDS looks for what `info.metadata` holds
SHARD = 1024  # images a file; of 32 x 32 x 4 latents, it takes 34 MB
CROP = "as ADM: halved with a box filter, then bicubic, then the centre"

# images [B, H, W, 3] -> the posteriors of them and of their mirror images, each [B, h, w, 2 c] float16.
Encode = Callable[[np.ndarray], tuple[Any, Any]]


# Reading -------------------------------------------------------------------------------------------------------------


class Latents:
    """One split of prepared latents, as a source: example i is drawn from the posterior of image i, with i as seed."""

    def __init__(self, builder: "DatasetBuilder", split: str):
        self.records = builder.as_data_source(split)
        self.scale = builder.info.metadata["scale"]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self.draw(index, np.random.default_rng(index))

    def draw(self, index: int, rng: np.random.Generator, feature: str = "image") -> dict[str, np.ndarray]:
        """image float32 [h, w, c], scaled, of the feature "image" or "flipped"; label int32 []."""
        record = self.records[index]
        mean, std = np.split(record[feature].astype(np.float32), 2, axis=-1)
        image = (mean + std * rng.standard_normal(mean.shape, np.float32)) * self.scale
        return {"image": image, "label": np.asarray(record["label"], np.int32)}


# Writing -------------------------------------------------------------------------------------------------------------


def begin(directory: Path, split: str, folder: Folder, made: dict[str, Any], first: bool = True) -> None:
    """Note how a split is about to be made. Raises ValueError if what is there has been made, or begun, otherwise.

    made: `shape` of a posterior, `vae`, `scale` and `size`. first: of several processes, the one that writes.
    """
    listing = "\n".join(folder.images.names)
    source = {"images": len(folder), "listing": hashlib.sha256(listing.encode()).hexdigest()}
    made = {**made, "crop": CROP, "shard": SHARD, "classes": folder.classes}
    known = noted(directory) if (directory / NOTES).exists() else {**made, "splits": {}}
    there = known | known["splits"].setdefault(split, source)
    for key, value in {**made, **source}.items():
        if there[key] != value:
            raise ValueError(
                f"{directory} was begun with {key} = {there[key]!s:.80}, which is now {value!s:.80}: "
                "delete it, or give another --data_dir"
            )
    if first:
        directory.mkdir(parents=True, exist_ok=True)
        note(directory, known)


def write(
    directory: Path, split: str, folder: Folder, encode: Encode, batch: int, part: tuple[int, int] = (0, 1)
) -> Iterator[int]:
    """Write the shards that are missing, and yield how many images are done, of every n-th shard for part = (k, n).

    A shard gets its name when it is whole. Raises OSError, naming the file, for an image that cannot be read.
    """
    files, every, (k, n) = shards(directory, split, len(folder)), range(len(folder)), part
    mine = [(file, every[i * SHARD : (i + 1) * SHARD]) for i, file in enumerate(files)][k::n]
    todo = [(file, rows) for file, rows in mine if not file.exists()]
    done = sum(len(rows) for file, rows in mine if file.exists())
    yield done
    examples = encoded(folder, [rows for _, rows in todo], encode, batch)
    records = serialized(examples, features_of(noted(directory)))
    for file, rows in todo:
        temporary = file.with_name(f"{file.name}.incomplete")
        writer = ArrayRecordWriter(str(temporary), "group_size:1")  # as TFDS does: reading one reads no other
        for record in itertools.islice(records, len(rows)):
            writer.write(record)
            done += 1
            yield done
        writer.close()
        temporary.replace(file)


def finish(directory: Path, split: str) -> None:
    """Measure the latents of a split whose shards are all there, and show it to TFDS.

    The metadata get the mean and std [c] of latents drawn from its posteriors, before scaling. Raises ValueError if a
    shard is missing or broken, or a latent not finite.
    """
    import tensorflow_datasets as tfds

    known = noted(directory)
    features, entry = features_of(known), known["splits"][split]
    files = shards(directory, split, entry["images"])
    for file, length in zip(files, lengths(entry["images"]), strict=True):
        if not file.exists() or len(ArrayRecordDataSource([str(file)])) != length:
            raise ValueError(f"{file} is missing or broken: delete it, if it is there, and run the same command again")
    if "mean" not in entry:
        records = ArrayRecordDataSource([str(file) for file in files])
        mean, std = moments(features.deserialize_example_np(records[i])["image"] for i in range(len(records)))
        if not np.isfinite(mean + std).all():
            raise ValueError(f"{directory} has latents of mean {mean} and std {std}: the VAE overflows float16")
        entry |= {"mean": mean.tolist(), "std": std.tolist()}
        note(directory, known)
    builder = tfds.core.dataset_info.DatasetIdentity(
        name=directory.parent.name, version=tfds.core.Version(VERSION), data_dir=str(directory), module_name=""
    )
    info = tfds.core.DatasetInfo(
        builder=builder,
        description="What an image autoencoder makes of images and of their mirror images: mean and std.",
        features=features,
    )
    template = tfds.core.ShardedFileTemplate(directory, dataset_name=builder.name, filetype_suffix="array_record")
    complete = {name: entry["images"] for name, entry in known["splits"].items() if "mean" in entry}
    info.set_file_format("array_record")
    info.set_splits(
        tfds.core.splits.SplitDict(
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=lengths(images),
                num_bytes=sum(file.stat().st_size for file in shards(directory, name, images)),
                filename_template=template.replace(split=name),
            )
            for name, images in complete.items()
        )
    )
    info.write_to_directory(directory)


def note(directory: Path, known: dict[str, Any]) -> None:
    temporary = directory / f"{NOTES}.incomplete"
    temporary.write_text(json.dumps(known))
    temporary.replace(directory / NOTES)


def noted(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / NOTES).read_text())
    except ValueError as error:
        raise ValueError(
            f"{directory / NOTES} cannot be read ({error}): remove {directory}, and prepare it again"
        ) from None


def features_of(known: dict[str, Any]) -> "FeaturesDict":
    import tensorflow_datasets as tfds

    posterior = tfds.features.Tensor(shape=known["shape"], dtype=np.float16, encoding="bytes")
    label = tfds.features.ClassLabel(names=known["classes"])
    return tfds.features.FeaturesDict({"image": posterior, "flipped": posterior, "label": label})


def lengths(images: int) -> list[int]:
    """How many images each shard has."""
    return [min(SHARD, images - start) for start in range(0, images, SHARD)]


def shards(directory: Path, split: str, images: int) -> list[Path]:
    """The files of a split, called as TFDS calls them."""
    name, count = directory.parent.name, len(lengths(images))
    return [directory / f"{name}-{split}.array_record-{i:05d}-of-{count:05d}" for i in range(count)]


def encoded(folder: Folder, shards: list[range], encode: Encode, batch: int) -> Iterator[dict[str, np.ndarray]]:
    """The examples of shards, in order. Images are read ahead, and the next batch is encoded while one is written."""
    batches = [rows[i : i + batch] for rows in shards for i in range(0, len(rows), batch)]

    def load(rows: range) -> tuple[np.ndarray, list]:
        examples = [folder[i] for i in rows]
        images = [example["image"] for example in examples]
        images += images[-1:] * (batch - len(rows))  # so that one compiled program does for all
        return np.stack(images), [example["label"] for example in examples]

    threads = os.cpu_count() or 1
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    loaded = grain.MapDataset.source(batches).map(load).to_iter_dataset(options)
    posteriors = ((*encode(images), labels) for images, labels in loaded)
    for (images, flipped, labels), _ in itertools.pairwise(itertools.chain(posteriors, [((), (), [])])):
        for image, mirrored, label in zip(np.asarray(images), np.asarray(flipped), labels, strict=False):
            yield {"image": image, "flipped": mirrored, "label": label}


def serialized(examples: Iterable[dict[str, np.ndarray]], features: "FeaturesDict") -> Iterator[bytes]:
    import tensorflow_datasets as tfds

    serializer = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    for example in examples:
        record = serializer.get_tf_example(features.encode_example(example))
        yield record.SerializeToString(deterministic=True)  # protobuf leaves the order of the features open otherwise


def moments(posteriors: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation [c] of draws from posteriors [h, w, 2 c]: means vary, and draws vary around them."""
    count, sums = 0, np.zeros(())
    for posterior in posteriors:
        mean, std = np.split(posterior.astype(np.float64), 2, axis=-1)
        sums = sums + np.stack([mean, mean**2 + std**2]).mean((1, 2))
        count += 1
    mean, square = sums / count
    with np.errstate(invalid="ignore"):  # the caller refuses what is not finite
        return mean, np.sqrt(square - mean**2)
