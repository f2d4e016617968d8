"""What a folder of images is: which files count, in what order, under which labels, and which are held out."""

import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax import evaluate
from dit_jax.config import HOLDOUT, build, load
from dit_jax.data import folder, sources
from dit_jax.data.folder import Folder, in_classes, listing
from dit_jax.data.pipeline import UnreadableError
from dit_jax.restore import restore_run
from dit_jax.training.checkpoint import CheckpointError
from dit_jax.training.loop import train


def fill(at: Path, *names: str, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """Write images of these names below a folder, 0.png ... 5.png where none are given."""
    for name in names or [f"{i}.png" for i in range(6)]:
        (at / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, 90 if mode == "L" else (250, 10, 10)).save(at / name)
    return at


@pytest.fixture
def insects(tmp_path) -> Path:
    """Six ants and six bees."""
    fill(tmp_path / "insects" / "ant"), fill(tmp_path / "insects" / "bee")
    return tmp_path / "insects"


def junk(at: Path) -> None:
    for name in ("ant/Thumbs.db", "ant/.DS_Store", "ant/desktop.ini", "ant/readme.txt", ".DS_Store", "LICENSE"):
        (at / name).write_bytes(b"\0" * 64)
    (at / ".ipynb_checkpoints").mkdir()


def apple_double(at: Path) -> None:
    """What macOS leaves on a disk that is not its own: a file of attributes beside each image, with its name."""
    (at / "ant" / "._0.png").write_bytes(bytes.fromhex("00051607000200004d6163204f532058") + b"\0" * 64)


def unzipped(at: Path) -> None:
    (at / "__MACOSX" / "ant").mkdir(parents=True)
    (at / "__MACOSX" / "ant" / "._0.png").write_bytes(b"\0\5\x16\7")


def album(at: Path) -> None:
    (at / "ant" / "album.png").mkdir()


def dangling(at: Path) -> None:
    (at / "ant" / "gone.png").symlink_to("/nonexistent/x.png")


def round_and_round(at: Path) -> None:
    (at / "bee" / "again").symlink_to(at, target_is_directory=True)


def elsewhere(at: Path) -> None:
    """A class that is a link to a folder on another disk."""
    (at / "cicada").symlink_to(fill(at.parent / "far away" / "cicadas"), target_is_directory=True)


def upper_case(at: Path) -> None:
    for path in sorted((at / "bee").iterdir()):
        path.rename(path.with_suffix(".PNG"))


def cut_off(at: Path) -> None:
    (at / "ant" / "0.png").write_bytes((at / "ant" / "0.png").read_bytes()[:20])
    (at / "ant" / "1.png").write_bytes(b"")


def of_telephones(at: Path) -> None:
    (at / "ant" / "IMG_0001.HEIC").write_bytes(b"ftypheic")
    (at / "ant" / "IMG_0001.mov").write_bytes(b"ftypqt")


@pytest.mark.parametrize(
    ("edit", "images", "left_out"),
    [
        (lambda at: None, 12, {}),
        (junk, 12, {"hidden": 3, ".db": 1, ".ini": 1, ".txt": 1, "without a suffix": 1}),
        (apple_double, 12, {"hidden": 1}),
        (unzipped, 12, {"hidden": 1}),
        (lambda at: (fill(at / "ant" / "red"), fill(at / "ant" / "black")), 24, {}),
        (lambda at: fill(at / "ant" / "a" / "b" / "c"), 18, {}),
        (lambda at: (shutil.rmtree(at / "ant"), fill(at / "ant" / "red")), 12, {}),
        (upper_case, 12, {}),
        (cut_off, 12, {}),
        (album, 12, {"folder named like an image": 1}),
        (dangling, 12, {"link to nothing": 1}),
        (round_and_round, 12, {"link back": 1}),
        (elsewhere, 18, {}),
        (of_telephones, 12, {".heic": 1, ".mov": 1}),
        (lambda at: fill(at, "cover.png", "back.jpg"), 12, {"in no class": 2}),
        (lambda at: fill(at / ".thumbnails"), 12, {"hidden": 1}),
    ],
)
def test_what_is_an_image_and_what_is_left_out(edit, images, left_out, insects):
    edit(insects)
    found = in_classes(insects)
    assert len(found.names) == len(set(found.names)) == images and found.left_out == left_out
    assert found.classes == ["ant", "bee"] + ["cicada"] * (edit is elsewhere)
    assert all((insects / name).suffix.lower() == ".png" for name in found.names)
    assert len(Folder(insects, (8, 8, 1))) == images


def test_numbers_are_in_the_order_of_numbers(tmp_path):
    for label in range(12):
        fill(tmp_path / str(label), *(f"{i}.png" for i in range(11)))
    found = Folder(tmp_path, (8, 8, 1))
    assert found.classes == [str(label) for label in range(12)]
    assert [label for _, label in found.files] == [label for label in range(12) for _ in range(11)]
    assert [file.name for file, _ in found.files[:11]] == [f"{i}.png" for i in range(11)]


@pytest.mark.parametrize(
    "names",
    [["1", "2", "10"], ["a2b", "a10a", "a10b"], ["007", "8", "09"], ["2", "-", "cat", "dog"], ["v1.9.1", "v1.10.0"]],
)
def test_natural_order(names):
    assert sorted(reversed(names), key=folder.natural) == names


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda at: (at / "cat").mkdir(), "no images in .*insects/cat, and each subfolder is a class: looked for .bmp"),
        (
            lambda at: (shutil.rmtree(at / "bee"), (at / "bee" / "queens").mkdir(parents=True)),
            "no images in .*/bee, and",
        ),
        (lambda at: (at / "labels").mkdir() or (at / "labels" / "0.txt").touch(), "/labels, .*left out: 1 .txt"),
        (lambda at: shutil.rmtree(at), "no such folder of images: /.*/insects"),
        (lambda at: (shutil.rmtree(at), fill(at)), "insects has no subfolders: it needs one for each class of images"),
        (lambda at: (shutil.rmtree(at), at.mkdir()), "no images in .*/insects: looked for "),
    ],
)
def test_a_folder_without_classes_or_images_is_an_error_that_names_it(edit, message, insects):
    edit(insects)
    with pytest.raises(FileNotFoundError, match=message):
        Folder(insects, (8, 8, 1))


def test_without_labels_images_may_lie_anywhere(tmp_path):
    fill(fill(tmp_path), "more/a.png", "more/still more/b.png")
    (tmp_path / "empty").mkdir()
    assert listing(tmp_path).names == [*(f"{i}.png" for i in range(6)), "more/a.png", "more/still more/b.png"]
    only_images = {"image": dj.streams.image((8, 8, 1))}
    assert len(sources.load(str(tmp_path), "train", "", only_images)) == 8
    with pytest.raises(FileNotFoundError, match=r"no images in .*empty"):
        sources.load(str(tmp_path), "train", "", only_images | {"label": dj.streams.label(2)})


# What is held out ----------------------------------------------------------------------------------------------------


def names(count: int, *classes: str) -> list[str]:
    return [f"{of}/{i}.png" for of in classes for i in range(count)]


def test_a_share_is_held_out_and_what_comes_later_moves_nothing():
    few, many = names(500, "a", "b"), names(800, "a", "b", "c")
    held, later = folder.held_out(few, 0.1), folder.held_out(many, 0.1)
    assert abs(len(held) - 100) < 4 * np.sqrt(90) and held == later & {*few}  # four standard deviations
    assert held < folder.held_out(few, 0.2) and folder.held_out(few, 0) == set()


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_class_keeps_an_image_to_train_on(share, count):
    classes = [str(i) for i in range(20)]
    held = folder.held_out(names(count, *classes), share)
    for of in classes:
        assert sum(name.startswith(f"{of}/") for name in held) < count
    assert count == 1 or share < 0.99 or len(held) == 20 * (count - 1)


def test_the_parts_of_a_folder_are_all_of_it_wherever_it_lies(insects, tmp_path):
    fill(insects / "ant" / "red", *(f"{i}.png" for i in range(60)))

    def files(at: Path, split: str) -> set[str]:
        return {file.relative_to(at).as_posix() for file, _ in Folder(at, (8, 8, 1), split, 0.2).files}

    train, test = files(insects, "train"), files(insects, "test")
    assert train and test and not train & test and train | test == {*in_classes(insects).names}
    assert len(Folder(insects, (8, 8, 1), "train", 0.2).images.held_out) == len(test)
    shutil.move(insects, tmp_path / "moved")
    assert files(tmp_path / "moved", "test") == test


@pytest.mark.parametrize("others", [["test"], ["val"], ["validation"], ["val", "test"], ["validation", "val"]])
@pytest.mark.parametrize("named", [False, True])
def test_folders_of_splits_are_the_splits(others, named, tmp_path):
    """And `holdout` says nothing. Where there are several, test is held out before val, and val before validation."""
    fill(tmp_path / "train" / "ant"), fill(tmp_path / "train" / "bee")
    for other in others:
        fill(tmp_path / other / "bee", f"{other}.png")
    path = f"{tmp_path}/{{split}}" if named else tmp_path
    train, test = (Folder(path, (8, 8, 1), split, 0.5) for split in ("train", "test"))
    assert (
        len(train) == 12 and train.classes == test.classes == ["ant", "bee"] and len(train.images.held_out) == len(test)
    )
    expected = min(others, key=folder.HELD_OUT.index)
    assert [(file.name, label) for file, label in test.files] == [(f"{expected}.png", 1)]  # a bee, as in training
    streams = {"image": dj.streams.image((8, 8, 1)), "label": dj.streams.label(2)}
    assert len(sources.held_out(str(path), "", streams, 0.5)) == 1


def test_a_class_that_is_held_out_and_not_trained_on_is_an_error(tmp_path):
    fill(tmp_path / "train" / "ant"), fill(tmp_path / "test" / "wasp")
    with pytest.raises(ValueError, match=r"test/wasp is of no class: .*train has ant"):
        Folder(tmp_path, (8, 8, 1), "train")


def test_a_class_may_be_called_train(tmp_path):
    fill(tmp_path / "train"), fill(tmp_path / "tram")
    assert Folder(tmp_path, (8, 8, 1), "train").classes == ["train", "tram"]


def test_nothing_is_held_out_of_a_folder_unless_it_is_said(insects):
    streams = {"image": dj.streams.image((8, 8, 1)), "label": dj.streams.label(2)}
    assert sources.held_out(str(insects), "", streams) is None
    assert len(sources.load(str(insects), "train", "", streams)) == 12
    assert sources.contents(str(insects), "", 0.0) == (("train",), "", 2)
    assert sources.contents(str(insects), "", 0.9) == (("train", "test"), "test", 2)


# What is said --------------------------------------------------------------------------------------------------------


def said(at: Path, shape: tuple[int, int, int], classes: int, holdout: float = 0.0) -> list[str]:
    streams = {"image": dj.streams.image(shape, patch=1), "label": dj.streams.label(classes)}
    return sources.described(str(at), sources.load(str(at), "train", "", streams, holdout), streams).splitlines()


def test_the_first_line_says_what_is_there_and_what_is_not(insects):
    assert said(insects, (8, 8, 1), 2) == [
        f"{insects}: 12 images of 2 classes (ant, bee); none is held out; 8 x 8 pixels, of 12 that were looked at"
    ]
    junk(insects)
    fill(insects / "ant", *(f"large/{i}.png" for i in range(30)), size=(40, 20))
    (line,) = said(insects, (8, 8, 1), 2, 0.2)[:1]
    held = Folder(insects, (8, 8, 1), "test", 0.2)
    assert f": {42 - len(held)} images of 2 classes (ant, bee); {len(held)} more are held out; " in line
    assert "8 x 8 ... 40 x 20 pixels, of 16 that were looked at; left out: 3 hidden, 1 " in line


@pytest.mark.parametrize(
    ("size", "mode", "shape", "expected"),
    [
        ((8, 8), "L", (8, 8, 1), None),
        ((8, 8), "RGB", (8, 8, 3), None),
        ((8, 8), "L", (8, 8, 3), None),
        ((8, 8), "RGB", (8, 8, 1), "made grey"),
        ((32, 32), "RGB", (8, 8, 1), "scaled and cropped to 8 x 8 pixels and made grey"),
        ((32, 24), "L", (8, 8, 1), "scaled and cropped to 8 x 8 pixels"),
        ((8, 8), "RGB", (8, 16, 3), "scaled and cropped to 16 x 8 pixels"),
    ],
)
def test_pictures_that_become_others_are_said_to(size, mode, shape, expected, tmp_path):
    fill(tmp_path / "a", "0.png", size=size, mode=mode)
    sentence = f"pictures are {expected}, because streams.image.shape is {shape}"
    assert said(tmp_path, shape, 1)[1:] == ([sentence] if expected else [])


def test_what_cannot_be_read_is_no_hindrance_to_a_first_line(insects):
    cut_off(insects)
    assert "of 10 that were looked at" in said(insects, (8, 8, 1), 2)[0]
    with pytest.raises(OSError, match=r"cannot read the image .*ant/1\.png"):
        Folder(insects, (8, 8, 1))[1]


def test_another_number_of_classes_is_an_error_that_names_them_and_what_to_type(insects):
    message = "2 classes, but streams.label.classes is 3: they are ant, bee; give --config.streams.label.classes=2"
    with pytest.raises(ValueError, match=message):
        said(insects, (8, 8, 1), 3)
    for i in range(40):
        fill(insects / f"species {i}", "0.png")
    with pytest.raises(ValueError, match=r"42 classes, .* are ant, bee, species 0, .*, species 7 and 32 more; give"):
        said(insects, (8, 8, 1), 3)


# By its name ---------------------------------------------------------------------------------------------------------


def test_a_folder_here_goes_by_its_name(insects, tmp_path, monkeypatch):
    streams = {"image": dj.streams.image((8, 8, 1)), "label": dj.streams.label(2)}
    monkeypatch.chdir(tmp_path)
    assert len(sources.load("insects", "train", tmp_path / "data", streams)) == 12
    os.rename("insects", "my insects, 2")
    assert len(sources.load("my insects, 2", "train", tmp_path / "data", streams)) == 12
    with pytest.raises(FileNotFoundError, match=rf"'insects' is not in .*, nor is it a folder .*{tmp_path}/insects"):
        sources.load("insects", "train", tmp_path / "data", streams)


def test_a_prepared_data_set_comes_before_a_folder_of_its_name(tmp_path, monkeypatch):
    fill(tmp_path / "digits" / "ant")
    monkeypatch.chdir(tmp_path)
    streams = {"image": dj.streams.image((8, 8, 1)), "label": dj.streams.label(10)}
    assert len(sources.load("digits", "train", sources.DATA_DIR, streams)) == 899


# A run on one --------------------------------------------------------------------------------------------------------


def run_of(at: Path, steps: int, **data) -> dict:
    """A small config of a run on a folder of two classes, as checkpoints keep it."""
    config = json.loads(load("folder").to_json())
    config["streams"]["image"] |= {"shape": [4, 4, 1], "patch": 2}
    config["streams"]["label"]["classes"] = 2
    config["model"] |= {"width": 24, "depth": 1, "heads": 1}
    config["data"] |= {"name": str(at), "batch_size": 4, **data}
    config["train"] |= {"steps": steps, "log_every": 1}
    config["optimizer"]["warmup"] = 0
    config["sample"] |= {"every": 0, "num": 2, "steps": 1}
    return config


@pytest.fixture
def alone(monkeypatch):
    """One device is enough here."""
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_keeps_the_names_of_its_classes_and_its_held_out_part(insects, alone, tmp_path, capsys):
    fill(insects / "bee", *(f"{i}.png" for i in range(50)))
    config = run_of(insects, 2)
    config["sample"] |= {"every": 2, "given": ["label=bee,ant"]}
    train(build(config), tmp_path / "run")
    held = len(Folder(insects, (4, 4, 1), "test", HOLDOUT))
    assert f"; {held} more are held out; 8 x 8 pixels" in capsys.readouterr().out
    assert held > 1 and all(line["held_out/image"] > 0 for line in metrics(tmp_path / "run"))
    run, _, _ = restore_run(str(tmp_path / "run"))
    assert run.data.holdout == HOLDOUT and run.streams["label"].view.read("bee").tolist() == [1]
    config["train"]["steps"], config["sample"]["given"] = 3, ["label=wasp"]
    with pytest.raises(ValueError, match="label 'wasp' does not exist; known are ant, bee"):
        train(build(config), tmp_path / "run")
    config["sample"]["given"], config["data"]["holdout"] = [], 0.5
    with pytest.raises(CheckpointError, match=r"was trained on other data: .*data\.holdout was 0\.1 and is 0\.5"):
        train(build(config), tmp_path / "run")


def test_a_run_that_is_older_than_holding_out_goes_on_with_all_images(insects, alone, tmp_path, capsys):
    """As it was written then, and once more after a checkpoint of today; and it is never scored on what it has seen."""
    fill(insects / "bee", *(f"{i}.png" for i in range(50)))
    old = run_of(insects, 1)
    del old["data"]["holdout"]
    train(build(old), tmp_path / "run")
    for steps in (2, 3):
        capsys.readouterr()
        train(build(run_of(insects, steps)), tmp_path / "run")
        said = capsys.readouterr().out
        assert (
            f"resuming from step {steps - 1}" in said and "56 images of 2 classes (ant, bee); none is held out" in said
        )
    assert "held_out/image" not in metrics(tmp_path / "run")[-1]
    run, _, _ = restore_run(str(tmp_path / "run"))
    assert run.data.holdout == 0
    with pytest.raises(ValueError, match=r"nothing of .*insects is held out"):
        evaluate.main(str(tmp_path / "run"))


def test_a_run_without_labels_takes_images_that_lie_in_no_class(alone, tmp_path):
    config = run_of(fill(tmp_path / "images", "0.png", "more/1.png", "2.jpg"), 1, holdout=0)
    del config["streams"]["label"]
    config["sample"]["given"] = []
    train(build(config), tmp_path / "run")
    assert restore_run(str(tmp_path / "run"))[0].streams.keys() == {"image"}


def test_what_is_held_out_and_cannot_be_read_is_named_or_left_out(insects, alone, tmp_path, capsys):
    fill(insects / "bee", *(f"{i}.png" for i in range(50)))
    (broken, _), *_ = Folder(insects, (4, 4, 1), "test", HOLDOUT).files
    broken.write_text("no image")
    with pytest.raises(UnreadableError, match=rf"{broken}: .*--config\.data\.unreadable=skip"):
        train(build(run_of(insects, 1)), tmp_path / "run")
    train(build(run_of(insects, 1, unreadable="skip")), tmp_path / "other")
    assert (
        np.isfinite(metrics(tmp_path / "other")[-1]["held_out/image"]) and "skipped: example" in capsys.readouterr().out
    )
