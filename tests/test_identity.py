"""What data are is the same wherever they lie, and what has changed in them is named."""

import shutil

import numpy as np
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax.data import sources
from dit_jax.data.identity import differences, identity

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
