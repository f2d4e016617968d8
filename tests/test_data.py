"""Laws of the data: every example once an epoch, one batch for one (seed, step), and pixels that equal their origin."""

import gzip
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from sklearn.datasets import load_digits, load_sample_image

import dit_jax as dj
from dit_jax import prepare
from dit_jax.data import fashion_mnist, packages, pipeline, sources
from dit_jax.data.building import preparer
from dit_jax.data.folder import Folder
from dit_jax.data.identity import identity
from dit_jax.media.image import fit


def of(shape: tuple[int, int, int], classes: int) -> dict:
    """The streams of a model of such images and labels."""
    return {"image": dj.streams.image(shape, patch=1), "label": dj.streams.label(classes)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def digits(data_dir):
    return {split: sources.load("digits", split, data_dir, of((8, 8, 1), 10)) for split in ("train", "test")}


class Numbered:
    """Example i is an image of i, brighter to the right."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        image = np.full((2, 2, 1), index, np.float32) + np.array([[0], [0.5]], np.float32)
        return {"image": image, "label": np.asarray(index, np.int32)}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def everything(source: sources.Source) -> dict[str, np.ndarray]:
    return pipeline.picked(source, range(len(source)))


# ---- Order ----


@pytest.mark.parametrize("size", [1, 2, 37])
def test_an_epoch_visits_every_example_once(size):
    examples = pipeline.examples(Numbered(size), seed=3)
    epochs = [[int(examples[epoch * size + i]["label"]) for i in range(size)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(size)) for epoch in epochs)
    if size == 37:
        assert epochs[0] != epochs[1] != epochs[2] != list(range(size))


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("augment", pipeline.AUGMENTATIONS)
def test_resuming_needs_the_step_alone(threads, augment):
    straight = pipeline.batches(pipeline.examples(Numbered(37), 0, augment), 0, 8, threads=threads)
    resumed = pipeline.batches(pipeline.examples(Numbered(37), 0, augment), 5, 8, threads=threads)
    examples = pipeline.examples(Numbered(37), 0, augment)
    for step, expected in enumerate(itertools.islice(straight, 12)):
        assert same(expected, pipeline.batch(examples, step, 8))
        assert step < 5 or same(expected, next(resumed))


def test_seeds_differ():
    first, second = (pipeline.batch(pipeline.examples(Numbered(100), seed), 0, 50) for seed in (0, 1))
    # A seed is no offset in time either: the second epoch of one is not the first of the next.
    later = pipeline.batch(pipeline.examples(Numbered(100), 0), 2, 50)
    assert not same(first, second) and not same(later, second)


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("augment", pipeline.AUGMENTATIONS)
def test_the_global_batch_is_the_same_for_any_number_of_processes(processes, augment):
    examples, share = pipeline.examples(Numbered(37), 0, augment), 8 // processes
    parts = [pipeline.batch(examples, 6, 8, range(i * share, (i + 1) * share)) for i in range(processes)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    assert same(whole, pipeline.batch(examples, 6, 8))


def test_flip_mirrors_half_of_the_images_and_changes_nothing_else():
    plain, flipped = (
        pipeline.batch(pipeline.examples(Numbered(500), 0, augment), 1, 400) for augment in ("none", "flip")
    )
    mirrored = np.any(plain["image"] != flipped["image"], axis=(1, 2, 3))
    expected = np.where(mirrored[:, None, None, None], plain["image"][:, :, ::-1], plain["image"])
    assert np.array_equal(flipped["image"], expected) and np.array_equal(flipped["label"], plain["label"])
    assert 140 < mirrored.sum() < 260  # 200 +- 6 standard deviations


# ---- Digits ----


def test_digits_are_those_of_scikit_learn(digits):
    reference = load_digits()
    for start, split in enumerate(("train", "test")):
        found = everything(digits[split])
        # TFDS shuffles what it writes: compare as sets of (label, pixels).
        rows = np.column_stack([found["label"], np.rint((found["image"].reshape(-1, 64) + 1) * 8)]).astype(int)
        expected = np.column_stack([reference.target, reference.data]).astype(int)[start::2]
        assert sorted(map(tuple, rows)) == sorted(map(tuple, expected))
        assert np.abs(found["image"] - (np.rint((found["image"] + 1) * 8) / 8 - 1)).max() <= 1 / 255 + 1e-6
        assert found["image"].min() == -1 and found["image"].max() == 1
        assert found["image"].dtype == np.float32 and found["label"].dtype == np.int32
    assert len(digits["train"]) + len(digits["test"]) == 1797


def test_digit_halves_are_disjoint(digits):
    train, test = ({image.tobytes() for image in everything(digits[split])["image"]} for split in ("train", "test"))
    assert not train & test


def test_small_sources_are_decoded_once(digits):
    assert digits["train"][0]["image"] is digits["train"][0]["image"]


def test_tensorflow_is_never_imported(digits, data_dir):
    program = f"""
import sys
import dit_jax as dj
from dit_jax.data import sources
streams = {{"image": dj.streams.image((8, 8, 1)), "label": dj.streams.label(10)}}
assert "tensorflow_datasets" not in sys.modules  # a second that only some runs need
sources.load("digits", "train", {str(data_dir)!r}, streams)[0]
assert "tensorflow_datasets" in sys.modules and "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ---- Fashion-MNIST ----


@pytest.mark.heavy
def test_fashion_mnist_equals_its_files(data_dir, capsys, tmp_path):
    try:
        files = packages.debian(fashion_mnist.PACKAGE, tmp_path) / fashion_mnist.FILES
    except FileNotFoundError as error:
        pytest.skip(f"Fashion-MNIST cannot be fetched: {error}")
    prepare.main("fashion_mnist", str(data_dir))
    assert "60,000 train + 10,000 test" in capsys.readouterr().out

    found = everything(sources.load("fashion_mnist", "test", data_dir, of((28, 28, 1), 10)))
    pixels, labels = (
        np.frombuffer(gzip.decompress((files / name).read_bytes())[header:], np.uint8)
        for name, header in (("t10k-images-idx3-ubyte.gz", 16), ("t10k-labels-idx1-ubyte.gz", 8))
    )
    back = np.rint((found["image"] + 1) * 127.5).astype(np.uint8).reshape(-1, 784)
    expected = np.column_stack([labels, pixels.reshape(-1, 784)])
    assert sorted(map(bytes, np.column_stack([found["label"].astype(np.uint8), back]))) == sorted(map(bytes, expected))


# ---- Folders ----


@pytest.fixture
def folder(tmp_path):
    """Two classes; sizes above and below, wide and tall, grey and colour."""
    sizes = {"cat/a.png": (40, 9), "cat/b.JPG": (7, 30), "dog/c.png": (16, 16), "dog/d.webp": (100, 70)}
    for number, (name, size) in enumerate(sizes.items()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L" if number % 2 else "RGB", size, "white").save(tmp_path / name)
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    return tmp_path


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 16, 1), (8, 24, 3)])
def test_a_folder_has_one_class_a_subfolder(folder, shape):
    found = everything(sources.load(str(folder), "train", "", of(shape, 2)))
    assert found["label"].tolist() == [0, 0, 1, 1]
    assert found["image"].shape == (4, *shape) and np.allclose(found["image"], 1)


def test_a_folder_may_have_a_folder_for_each_split(folder):
    assert len(sources.load(f"{folder.parent}/{{split}}", folder.name, "", of((8, 8, 1), 2))) == 4


def test_fit_keeps_the_right_size_and_the_centre():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)
    exact = pixels.astype(np.float32) / 127.5 - 1
    assert np.array_equal(fit(Image.fromarray(pixels), (6, 10, 3)), exact)
    assert np.array_equal(fit(Image.fromarray(pixels), (6, 4, 3)), exact[:, 3:7])
    doubled = Image.fromarray(pixels.repeat(4, axis=0).repeat(4, axis=1))
    assert np.array_equal(fit(doubled, (6, 10, 3)), exact)


@pytest.mark.parametrize("size", [101, 213, 255, 501])
@pytest.mark.parametrize("name", ["china", "flower"])
def test_fit_crops_as_adm_did(name, size):
    """Halved by boxes while the shorter side, of 427 pixels, is twice the size or more: twice, once or never here; then
    bicubic until it has the size; then the middle of the longer one. To the last bit."""
    photograph = Image.fromarray(load_sample_image(f"{name}.jpg"))
    for image in (photograph, photograph.transpose(Image.Transpose.ROTATE_90)):
        sides = image.size
        wanted = image
        while min(sides) >= 2 * size:
            sides = tuple(side // 2 for side in sides)
            wanted = wanted.resize(sides, Image.Resampling.BOX)
        covering = [round(side * (size / min(sides))) for side in sides]
        pixels = np.asarray(wanted.resize(covering, Image.Resampling.BICUBIC))
        rows, columns = (slice(start, start + size) for start in ((side - size) // 2 for side in pixels.shape[:2]))
        np.testing.assert_array_equal(fit(image, (size, size, 3)), np.float32(pixels[rows, columns]) / 127.5 - 1)


def test_folder_errors_name_what_is_wrong(folder):
    (folder / "dog" / "c.png").write_bytes((folder / "dog" / "c.png").read_bytes()[:60])
    (folder / "dog" / "d.webp").write_text("not an image")
    source = Folder(folder, (8, 8, 3))
    for index, name in ((2, "c.png"), (3, "d.webp")):
        with pytest.raises(OSError, match=f"cannot read the image .*{name}"):
            source[index]
    with pytest.raises(FileNotFoundError, match="no such folder"):
        Folder(folder / "nowhere", (8, 8, 3))
    with pytest.raises(FileNotFoundError, match="cat has no subfolders"):
        Folder(folder / "cat", (8, 8, 3))
    (folder / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no images in"):
        Folder(folder, (8, 8, 3))


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((8, 8, 3), 3, "2 classes, but streams.label.classes is 3"),
        ((8, 8, 4), 2, r"1 channel \(grey\) or 3 \(RGB\), but streams.image.shape is \(8, 8, 4\)"),
    ],
)
def test_a_folder_must_suit_the_config(folder, shape, classes, message):
    with pytest.raises(ValueError, match=message):
        sources.load(str(folder), "train", "", of(shape, classes))


# ---- Data sets of others ----


def prepared(data_dir, name: str, features: dict, examples: list[dict], split: str = "train") -> str:
    """A data set as TFDS writes it."""
    body = {
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": lambda self: tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features)),
        "_split_generators": lambda self, manager: {split: self._generate_examples()},
        "_generate_examples": lambda self: enumerate(examples),
    }
    with tfds.core.registered.skip_registration():  # so that several tests may have one of a name
        builder = type(name.title(), (tfds.core.GeneratorBasedBuilder,), body)
    preparer(builder)(data_dir)
    return name


def grey(label) -> dict:
    return {"image": Image.new("L", (4, 4), 7), "label": label}


IMAGE = tfds.features.Image(shape=(4, 4, 1), encoding_format="png")


@pytest.mark.parametrize("label", ["cat", "", "3"])
def test_labels_in_words_are_an_error_that_says_how_to_number_them(label, tmp_path):
    prepared(tmp_path, "worded", {"image": IMAGE, "label": tfds.features.Text()}, [grey(label)])
    message = (
        r"worded has label in words, not in numbers: prepare it with the TFDS feature ClassLabel\(names=\[\.\.\.\]\)"
    )
    with pytest.raises(ValueError, match=message):
        sources.load("worded", "train", tmp_path, of((4, 4, 1), 3))


def test_text_in_words_is_an_error_that_says_how_to_prepare_it(tmp_path):
    prepared(tmp_path, "tales", {"text": tfds.features.Text()}, [{"text": "once upon a time"}])
    with pytest.raises(ValueError, match=r"tales has text in words, .* Tensor\(shape=\.\.\., dtype=np\.uint8\)"):
        sources.load("tales", "train", tmp_path, {"text": dj.streams.text(16)})


@pytest.mark.parametrize(("labels", "wrong"), [(range(1, 4), 3), ([0, 1, -1], -1), ([2, 99], 99)])
def test_labels_that_count_otherwise_are_named(labels, wrong, tmp_path):
    prepared(tmp_path, "counted", {"image": IMAGE, "label": tfds.features.Scalar(np.int64)}, [grey(i) for i in labels])
    streams = of((4, 4, 1), 3)
    source = sources.load("counted", "train", tmp_path, streams)
    message = (
        rf"label holds {wrong}, and its values are 0 \.\.\. 2; where they count from 1, prepare .* with one less; "
    )
    for read in (pipeline.usable, lambda source, places, streams: [*everything_of(source, streams)]):
        with pytest.raises(pipeline.UnreadableError, match=message + r".*--config\.data\.unreadable=skip"):
            read(source, range(len(source)), streams)
    assert len(pipeline.usable(source, range(len(source)), streams, "skip")) == len(labels) - 1


def everything_of(source, streams):
    examples = pipeline.examples(source, 0, "none", streams)
    return (examples[i] for i in range(len(source)))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_images_that_are_not_finite_are_named(wrong, tmp_path):
    feature = tfds.features.Tensor(shape=(4, 4, 1), dtype=np.float32)
    images = np.zeros((5, 4, 4, 1), np.float32)
    images[3, 2, 1] = wrong
    prepared(tmp_path, "holed", {"image": feature}, [{"image": image} for image in images])
    streams = {"image": dj.streams.image((4, 4, 1))}
    source = sources.load("holed", "train", tmp_path, streams)
    with pytest.raises(
        pipeline.UnreadableError, match=r"example \d of 5 cannot be used: image holds a value that is not"
    ):
        pipeline.usable(source, range(5), streams)
    assert len(pipeline.usable(source, range(5), streams, "skip")) == 4


@pytest.mark.parametrize("form", ["tfrecord", "riegeli"])
def test_files_that_cannot_be_read_at_random_are_an_error_that_says_how_to_convert_them(form, tmp_path):
    """Unless others are beside them, as `tfds convert_format` leaves them."""
    prepared(tmp_path, "streamed", {"image": IMAGE, "label": tfds.features.ClassLabel(num_classes=3)}, [grey(1)])
    at = tmp_path / "streamed" / "1.0.0"
    note = json.loads((at / "dataset_info.json").read_text())
    (at / "dataset_info.json").write_text(json.dumps({**note, "fileFormat": form}))
    message = rf"{at} has {form} files, .* tfds convert_format --dataset_version_dir={at} --out_file_format=array"
    for look in (lambda: sources.contents("streamed", tmp_path), lambda: sources.find("streamed", tmp_path)):
        with pytest.raises(ValueError, match=message):
            look()
    both = {**note, "fileFormat": form, "alternativeFileFormats": ["array_record"]}
    (at / "dataset_info.json").write_text(json.dumps(both))
    assert sources.contents("streamed", tmp_path) == (("train",), "", 3)


@pytest.mark.parametrize(("split", "held"), [("train", ""), ("validation", "validation"), ("test", "test")])
def test_what_a_data_set_has(split, held, tmp_path):
    """Its classes are those of its labels, also where it has others."""
    features = {"image": IMAGE, "kind": tfds.features.ClassLabel(names=["insect"])}
    features["label"] = tfds.features.ClassLabel(names=["ant", "bee"])
    prepared(tmp_path, "made", features, [{**grey("bee"), "kind": "insect"}], split)
    assert sources.contents("made", tmp_path) == ((split,), held, 2)
    source = sources.held_out("made", tmp_path, of((4, 4, 1), 2))
    assert (source is not None and len(source) == 1) == bool(held)
    with pytest.raises(ValueError, match=r"2 classes, .* are ant, bee; give --config\.streams\.label\.classes=2"):
        sources.load("made", split, tmp_path, of((4, 4, 1), 3))
    found = identity("made", sources.load("made", split, tmp_path, of((4, 4, 1), 2)))
    assert found["classes"] == [{"name": "ant"}, {"name": "bee"}]


# ---- Synthetic latents and mistakes ----


def test_synthetic_latents_are_standard_normal_functions_of_the_index():
    source, again = (sources.load("synthetic", "train", "", of((32, 32, 4), 1000)) for _ in range(2))
    found = pipeline.batch(source, 0, 64)
    assert same(found, pipeline.batch(again, 0, 64)) and not same(source[0], source[1])
    assert abs(found["image"].mean()) < 0.02 and abs(found["image"].std() - 1) < 0.02
    assert found["label"].min() >= 0 and found["label"].max() < 1000


def test_a_missing_data_set_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"'fashion_mnist' .*{tmp_path}.*dit_jax.prepare fashion_mnist"):
        sources.load("fashion_mnist", "train", tmp_path, of((28, 28, 1), 10))
    with pytest.raises(FileNotFoundError, match="did you mean 'fashion_mnist'"):
        sources.load("fashoin_mnist", "train", tmp_path, of((28, 28, 1), 10))
    with pytest.raises(FileNotFoundError, match=r"known are audio_digits, .*, fashion_mnist, .*, synthetic, "):
        sources.load("zebras", "train", tmp_path, of((28, 28, 1), 10))
    with pytest.raises(ValueError, match="nothing here prepares 'digitz'; did you mean 'digits'"):
        prepare.main("digitz", str(tmp_path))


@pytest.mark.parametrize(
    ("split", "shape", "classes", "message"),
    [
        ("train", (28, 28, 1), 10, r"shape \(8, 8, 1\), but streams.image.shape is \(28, 28, 1\)"),
        ("train", (8, 8, 3), 10, r"shape \(8, 8, 1\), but streams.image.shape is \(8, 8, 3\)"),
        ("train", (8, 8, 1), 11, "10 classes, but streams.label.classes is 11"),
        ("validation", (8, 8, 1), 10, "Unknown split 'validation'"),
    ],
)
def test_a_data_set_must_suit_the_config(digits, data_dir, split, shape, classes, message):
    with pytest.raises(ValueError, match=message):
        sources.load("digits", split, data_dir, of(shape, classes))
