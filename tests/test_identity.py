"""What data are is the same wherever they lie, and what has changed in them is named."""

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax.data import sources
from dit_jax.data.identity import differences, identity, with_names

IMAGES = {"image": dj.streams.image((4, 4, 1)), "label": dj.streams.label(3)}


@pytest.fixture
def pictures(tmp_path):
    """Three classes of 2, 3 and 4 pictures."""
    for i, name in enumerate(("cat", "dog", "emu")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for j in range(2 + i):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "pictures" / name / f"{name[0]}{j}.png")
    return tmp_path / "pictures"


def of(folder, streams=IMAGES):
    return identity(str(folder), sources.load(str(folder), "train", "", streams))


def test_a_folder_may_move(pictures, tmp_path):
    before = of(pictures)
    assert before["examples"] == 9 and [entry["name"] for entry in before["classes"]] == ["cat", "dog", "emu"]
    shutil.move(pictures, tmp_path / "elsewhere")
    assert differences(before, of(tmp_path / "elsewhere")) == ""


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda at: (at / "cat").rename(at / "kitten"), "class 'cat' is now 'kitten'"),
        (lambda at: (at / "cat").rename(at / "zebra"), "class 'cat' is now 'zebra'"),
        (
            lambda at: shutil.copy(at / "dog" / "d0.png", at / "dog" / "d9.png"),
            "the number of examples was 9 and is 10, class 'dog' has 4 files and had 3",
        ),
        (
            lambda at: (at / "emu" / "e1.png").unlink(),
            "the number of examples was 9 and is 8, class 'emu' has 3 files and had 4",
        ),
        (lambda at: (at / "emu" / "e1.png").rename(at / "emu" / "x.png"), "class 'emu' has files of other names"),
    ],
)
def test_what_has_changed_in_a_folder_is_named(edit, expected, pictures):
    before = of(pictures)
    edit(pictures)
    assert differences(before, of(pictures)) == expected


def test_classes_come_and_go(pictures):
    before = of(pictures)
    shutil.rmtree(pictures / "emu")
    streams = {**IMAGES, "label": dj.streams.label(2)}
    assert differences(before, of(pictures, streams)) == "the number of examples was 9 and is 5, class 'emu' is gone"
    assert differences(of(pictures, streams), before) == "the number of examples was 5 and is 9, class 'emu' is new"


def test_what_is_held_out_is_a_part_of_what_a_folder_is(pictures):
    """But for runs that are older than that, for which nothing is."""
    shares = [identity("", sources.load(str(pictures), "train", "", IMAGES, share)) for share in (0.0, 0.6)]
    assert "holdout" not in shares[0] and shares[0] == of(pictures)
    assert differences(*shares) == "data.holdout was 0 and is 0.6"
    assert differences(*shares[::-1]) == "data.holdout was 0.6 and is 0"


def test_a_class_is_known_under_another_name_whatever_is_held_out(pictures):
    """Although other files of it are: they go by their names."""
    shares = [0.0, 0.3, 0.6, 0.9]
    before = [identity("", sources.load(str(pictures), "train", "", IMAGES, share)) for share in shares]
    (pictures / "emu").rename(pictures / "ostrich")
    for share, was in zip(shares, before, strict=True):
        now = identity("", sources.load(str(pictures), "train", "", IMAGES, share))
        assert differences(was, now) == "class 'emu' is now 'ostrich'"


def test_a_folder_that_is_held_out_is_no_part_of_what_is_trained_on(pictures):
    """Where train/ and test/ are folders, one picture more in test/ is no other data."""
    shutil.copytree(pictures, pictures / "train", ignore=shutil.ignore_patterns("train"))
    shutil.copytree(pictures / "train", pictures / "test")
    before = of(pictures)
    shutil.copy(pictures / "test" / "cat" / "c0.png", pictures / "test" / "cat" / "c9.png")
    assert before["examples"] == 9 and differences(before, of(pictures)) == ""


def test_files_are_known_by_their_names_below_their_class_in_any_order(pictures):
    """A digest of an older version is of names in the order of letters, and those were all in the class itself."""
    for i in range(8, 13):
        shutil.copy(pictures / "dog" / "d0.png", pictures / "dog" / f"d{i}.png")
    names = ["d0.png", "d1.png", "d10.png", "d11.png", "d12.png", "d2.png", "d8.png", "d9.png"]
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    assert of(pictures)["classes"][1] == {"name": "dog", "examples": 8, "listing": digest}
    before = of(pictures)
    (pictures / "dog" / "old").mkdir()
    (pictures / "dog" / "d0.png").rename(pictures / "dog" / "old" / "d0.png")
    assert differences(before, of(pictures)) == "class 'dog' has files of other names"


def test_files_of_no_class_are_known_too(tmp_path):
    streams = {"image": IMAGES["image"]}
    for name in "ab":
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
    before = of(tmp_path, streams)
    assert before["classes"] == [] and differences(before, of(tmp_path, streams)) == ""
    (tmp_path / "a.png").rename(tmp_path / "c.png")
    assert differences(before, of(tmp_path, streams)) == "the listing of its files is another"


def test_labels_go_by_the_names_of_what_was_trained_on(pictures):
    named = with_names(IMAGES, of(pictures))
    assert named["label"].view.read("emu,cat").tolist() == [2, 0] and named["image"] is IMAGES["image"]
    assert named["label"].view.show(np.array([1, 3])) == ["dog", ""]
    for unknown in (None, {}, {"name": "synthetic"}, {"classes": [{"name": "cat"}, {"name": "dog"}]}):
        assert with_names(IMAGES, unknown) == IMAGES
    assert with_names({"image": IMAGES["image"]}, of(pictures)) == {"image": IMAGES["image"]}


def test_prepared_data_say_version_classes_and_listing():
    streams = {"image": dj.streams.image((8, 8, 1)), "label": dj.streams.label(10)}
    train, test = (identity("digits", sources.load("digits", s, sources.DATA_DIR, streams)) for s in ("train", "test"))
    assert train["name"] == "digits" and train["version"].count(".") == 2 and train["examples"] == 899
    assert [entry["name"] for entry in train["classes"]] == [str(i) for i in range(10)]
    assert differences(train, train) == ""
    assert differences({**train, "listing": "0"}, train) == "the listing of its files is another"
    assert differences({**train, "version": "0.1"}, train) == f"the version was 0.1 and is {train['version']}"
    assert differences(train, {**train, "classes": [{"name": "zero"}, *train["classes"][1:]]}) == (
        "class '0' is now 'zero'"
    )
    later = {**train, "classes": [*train["classes"][1:], {"name": "x"}]}
    assert differences(train, later) == "class '0' is gone, class 'x' is new"
    turned = {**train, "classes": train["classes"][::-1]}
    assert differences(train, turned) == "the classes are in another order"
    assert "the number of examples was 899 and is 898" in differences(train, test)


def test_a_long_list_is_cut():
    was, now = ({"name": "x", "classes": [{"name": f"{a}{i}", "listing": f"{a}{i}"} for i in range(9)]} for a in "ab")
    assert differences(was, now) == "class 'a0' is gone, class 'a1' is gone, class 'a2' is gone and 15 more"


def test_noise_says_that_it_is():
    found = identity("synthetic", sources.load("synthetic", "train", "", IMAGES))
    assert found == {"name": "synthetic", "examples": 1_281_167}
