"""What people type of files: names with commas, what a text file holds, and signs that mean themselves."""

import contextlib
import os
import re

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from dit_jax.media import paths
from dit_jax.run import SampleOptions
from dit_jax.sampling.given import parse_given, read_given
from dit_jax.sampling.interpolate import check_interpolation
from dit_jax.streams import audio, image, label, text, video

HIDDEN = 256


def touch(folder, *names):
    for name in names:
        (folder / name).write_text("")


# Names of files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("cat.png", ["cat.png"]),
        ("cat.png,dog.png", ["cat.png", "dog.png"]),
        ("cat, dog.png", ["cat, dog.png"]),
        ("cat, dog.png,dog.png", ["cat, dog.png", "dog.png"]),
        ("dog.png,cat, dog.png", ["dog.png", "cat, dog.png"]),
        ("cat, dog.png,cat, dog.png", ["cat, dog.png", "cat, dog.png"]),
        ("a,b,c.png", ["a,b,c.png"]),
        ("none.png,dog.png", ["none.png", "dog.png"]),  # which is missing, and is named by who reads it
        ("3,7", ["3", "7"]),
    ],
)
def test_a_file_that_exists_is_taken_whole_and_commas_separate_all_else(value, names, tmp_path, monkeypatch):
    touch(tmp_path, "cat.png", "dog.png", "cat, dog.png", "a,b,c.png", "a")
    monkeypatch.chdir(tmp_path)
    assert paths.split_paths(value) == names


def test_a_file_at_home_is_one_and_a_folder_is_none(tmp_path, monkeypatch):
    touch(tmp_path, "a,b.png")
    (tmp_path / "c,d").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.split_paths("~/a,b.png") == ["~/a,b.png"]
    assert paths.split_paths("~/c,d") == ["~/c", "d"]


@pytest.mark.parametrize("value", ["", "a.png,", ",a.png", "a.png,,b.png"])
def test_a_name_that_is_empty_is_an_error(value):
    with pytest.raises(ValueError, match=rf"'{value}' should be a file, or files with one comma between two"):
        paths.split_paths(value)


def written(name, folder):
    """(stream, a file of it): a picture, a clip of two frames, or a sound; what it is does not depend on the name."""
    if name.endswith(".wav"):
        wavfile.write(folder / name, 8000, np.int16([100, -100, 300, 0]))
        return audio(4, patch=2)
    if name.endswith(".gif"):
        first, second = (Image.fromarray(np.full((4, 4), level, np.uint8)) for level in (0, 255))
        first.save(folder / name, save_all=True, append_images=[second], duration=100)
        return video((2, 4, 4, 1))
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(folder / name)
    return image((4, 4, 1))


@pytest.mark.parametrize("suffix", ["png", "gif", "wav"])
@pytest.mark.parametrize("name", ["cat, dog", "a:prefix=b", "a,b:prefix=1", "x=y", "*"])
def test_pictures_clips_and_sounds_have_one_rule_for_names(name, suffix, tmp_path):
    stream = written(f"plain.{suffix}", tmp_path)
    plain, odd = tmp_path / f"plain.{suffix}", tmp_path / f"{name}.{suffix}"
    odd.write_bytes(plain.read_bytes())
    read = lambda value: read_given({"x": stream}, [f"x={value}"]).given["x"]
    wanted = read(plain)
    np.testing.assert_array_equal(read(odd), wanted)
    np.testing.assert_array_equal(read(f"{plain},{plain}"), [*wanted, *wanted])
    several = f"{odd},{plain}".replace(":prefix=", r"\:prefix=")
    np.testing.assert_array_equal(read(several), [*wanted, *wanted])
    with pytest.raises(OSError, match=re.escape(f"{tmp_path}/none.{suffix}")):
        read(f"{tmp_path}/none.{suffix},{plain}")


def test_a_prefix_follows_a_name_that_has_one_and_a_backslash_makes_it_a_part_of_the_value(tmp_path):
    streams = {"clip": written("a:prefix=b.gif", tmp_path), "text": text(16), "label": label(3)}
    file = f"{tmp_path}/a:prefix=b.gif"
    assert parse_given(streams, f"clip={file}") == ("clip", file, None)
    assert parse_given(streams, f"clip={file}:prefix=1") == ("clip", file, 1)
    assert parse_given(streams, r"clip=gone\:prefix=b.gif:prefix=1") == ("clip", "gone:prefix=b.gif", 1)
    assert parse_given(streams, r"text=50\:prefix=2") == ("text", "50:prefix=2", None)
    with pytest.raises(ValueError, match=r"the prefix of text, 1 groups, should be left out; .* write \\:prefix="):
        parse_given(streams, "text=50:prefix=2")


def test_a_file_of_the_same_name_is_not_what_a_text_or_a_label_says(tmp_path, monkeypatch):
    touch(tmp_path, "seven", "1,2")
    monkeypatch.chdir(tmp_path)
    assert bytes(text(5).view.read("seven")[0].astype(np.uint8)) == b"seven"
    assert label(3).view.read("1,2").tolist() == [1, 2]


def test_the_ends_of_an_interpolation_are_named_by_the_same_rule(tmp_path):
    streams, one = {"image": image((4, 4, 1))}, f"{tmp_path}/cat, dog.png"
    written("cat, dog.png", tmp_path), written("b.png", tmp_path)
    for ends in (f"{one},{tmp_path}/b.png", f"{tmp_path}/b.png,{one}", f"{one},{one}", "3,7"):
        assert check_interpolation(streams, SampleOptions(), ends, []).keys() == {"image"}
    for ends in (one, f"{one},{one},{one}", "3"):
        with pytest.raises(ValueError, match="should be two seeds or two files"):
            check_interpolation(streams, SampleOptions(), ends, [])


# Texts ---------------------------------------------------------------------------------------------------------------


def spelled(value, length=24):
    """The text that a value is, with a _ for each hidden byte, without the NULs at the end."""
    tokens = text(length).view.read(value)[0]
    return bytes(np.where(tokens == HIDDEN, ord("_"), tokens).astype(np.uint8)).rstrip(b"\0")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"seven", b"seven"),
        (b"seven\n", b"seven"),
        (b"seven\r\n", b"seven"),
        (b"seven\n\n", b"seven\n"),
        (b"\nseven", b"\nseven"),
        (b"\n", b""),
        (b"", b""),
        (b"In the\r\nbeginning*\r\n", b"In the\r\nbeginning_______"),
        (b"In the beginning*\n", b"In the beginning________"),
        (b"\xef\xbb\xbfseven", b"seven"),
        (b"\xef\xbb\xbfseven\r\n", b"seven"),
        (b"a\xef\xbb\xbf", b"a\xef\xbb\xbf"),  # elsewhere it is no mark
        (b"caf\xe9", b"caf\xe9"),  # Latin-1: bytes are the stream's own
        (b"a\0b", b"a\0b"),
        (b"@home", b"@home"),
        (rb"\@home", rb"\@home"),
        (rb"2 \* 3", b"2 * 3"),
        (b"a:prefix=2", b"a:prefix=2"),
    ],
)
def test_a_text_file_is_what_it_says_without_a_mark_and_its_last_newline(content, said, tmp_path):
    for name in ("a.txt", "a, b:prefix=1.txt"):
        (tmp_path / name).write_bytes(content)
        stream, value, prefix = parse_given({"text": text(24)}, f"text=@{tmp_path}/{name}")
        assert (stream, prefix) == ("text", None)
        assert spelled(value) == said
    if said == b"seven":
        assert spelled(f"@{tmp_path}/a.txt", 5) == said  # it fits


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (r"\@home", b"@home"),
        (r"\@", b"@"),
        ("name@example.org", b"name@example.org"),
        (r"a\@b", rb"a\@b"),
        (r"\\@", rb"\\@"),
        (r"5 \* 3 = *", b"5 * 3 = ________________"),
        (r"\@\*", b"@*"),
        ("a\n", b"a\n"),  # typed, and not of a file
        ("C:\\new\\x", b"C:\\new\\x"),
        ("a\\", b"a\\"),
        ("e=mc^2", b"e=mc^2"),
        ("*", b"_" * 24),
        ("", b""),
    ],
)
def test_a_text_that_is_typed_is_what_it_says_but_for_its_escapes(value, said):
    assert spelled(value) == said


def test_a_text_file_that_cannot_be_read_is_one_sentence_that_names_it(tmp_path):
    for name, why in (("missing", "No such file or directory"), ("", "Is a directory"), ("x" * 300, "File name too")):
        with pytest.raises(OSError, match=rf"{name}: {why}.*; to begin a text with @ itself, write \\@") as caught:
            spelled(f"@{tmp_path}/{name}")
        assert str(caught.value).startswith(f"cannot read the text {tmp_path}/{name}: ")


@contextlib.contextmanager
def nobody():
    """Root may read every file, and is somebody else in here."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_text_file_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "a.txt").chmod(0)
    with nobody(), pytest.raises(PermissionError, match=r"a\.txt: Permission denied"):
        spelled(f"@{tmp_path}/a.txt")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_text_file_in_utf_16_is_an_error_that_says_how_to_convert_it(encoding, tmp_path):
    """As PowerShell and old editors write; its bytes would be half of them NUL."""
    (tmp_path / "a.txt").write_bytes("\ufeffseven".encode(encoding))
    with pytest.raises(ValueError, match=r"a\.txt is in UTF-16: iconv -f UTF-16 -t UTF-8 IN > OUT"):
        spelled(f"@{tmp_path}/a.txt")


@pytest.mark.parametrize(
    ("value", "says"),
    [("x" * 25, "is 25 bytes long, and the text has 24"), ("日" * 9, "is 27 bytes"), ("**", "2 gaps")],
)
def test_what_is_no_text_is_an_error_that_says_so(value, says):
    with pytest.raises(ValueError, match=says):
        spelled(value)
