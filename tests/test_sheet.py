"""Contact sheets: pixels stay what they are, whatever stands around them, and axes say where things are."""

import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.stream import Axis
from dit_jax.media.image import to_uint8
from dit_jax.run import SampleOptions
from dit_jax.sampling.sheet import BORDER, GAP, GREY, LEAST, LINE, MARGIN, sheet, texts, ticks, title_of

STREAMS = {
    "image": dj.streams.image((4, 6, 3), patch=2),
    "clip": dj.streams.video((3, 4, 6, 1), patch=(1, 2, 2)),
    "name": dj.streams.text(24),
    "label": dj.streams.label(10),
}
RNG = np.random.default_rng(0)


def some(name: str, k: int) -> np.ndarray:
    return RNG.uniform(-1, 1, (k, *STREAMS[name].shape)).astype(np.float32)


def words(*texts: str) -> np.ndarray:
    return np.concatenate([STREAMS["name"].view.read(text) for text in texts])


def enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
    """[height, width, channels] as a sheet shows it."""
    return picture.repeat(factor, 0).repeat(factor, 1).repeat(3 // picture.shape[-1], 2)


def test_every_sample_is_in_its_place_with_a_border():
    streams = {"image": dj.streams.image((2, 2, 1), patch=1), "label": dj.streams.label(10)}
    levels = np.linspace(-1, 1, 5)
    images = np.broadcast_to(levels[:, None, None, None], (5, 2, 2, 1))
    page = sheet(streams, {"image": images, "label": np.arange(5)}, columns=3, size=8)
    wide, high = 8 + 2 * BORDER + MARGIN, 8 + 2 * BORDER + LINE + MARGIN
    assert page.shape == (MARGIN + 2 * high, MARGIN + 3 * wide, 3)
    for i, level in enumerate(levels):
        y, x = MARGIN + i // 3 * high + LINE, MARGIN + i % 3 * wide
        tile = page[y : y + 10, x : x + 10]
        assert (tile[1:-1, 1:-1] == int((level + 1) * 127.5 + 0.5)).all()
        assert all((edge == GREY).all() for edge in (tile[0], tile[-1], tile[:, 0], tile[:, -1]))


def test_a_white_picture_can_be_seen_on_white_and_a_black_one_too():
    for value in (-1, 1):
        page = sheet(STREAMS, {"image": np.full((1, 4, 6, 3), value)})
        assert {0 if value < 0 else 255, GREY} <= {*page.ravel().tolist()} and GREY not in (0, 255)


@pytest.mark.parametrize(
    ("shape", "factor"), [((8, 8, 1), 8), ((16, 16, 3), 4), ((28, 28, 1), 2), ((64, 64, 3), 1), ((96, 96, 3), 1)]
)
def test_small_pictures_are_enlarged_by_a_whole_factor_and_their_pixels_come_back(shape, factor):
    x = RNG.uniform(-1, 1, (2, *shape)).astype(np.float32)
    page = sheet({"image": dj.streams.image(shape)}, {"image": x}, columns=1)
    for i, pixels in enumerate(to_uint8(x)):
        y = MARGIN + i * (factor * shape[0] + 2 * BORDER + MARGIN) + BORDER
        tile = page[y:, MARGIN + BORDER :][: factor * shape[0], : factor * shape[1]]
        np.testing.assert_array_equal(tile[::factor, ::factor, : shape[-1]], pixels)
        np.testing.assert_array_equal(tile, enlarged(pixels, factor))


def test_every_frame_of_a_clip_has_a_border_and_its_pixels_come_back():
    x = some("clip", 2)
    page = sheet(STREAMS, {"clip": x, "label": np.arange(2)}, columns=1)
    height, width = 64 + 2 * BORDER, 96 + 2 * BORDER  # each 16 times as large
    for i in range(2):
        y = MARGIN + i * (height + LINE + MARGIN) + LINE
        for frame in range(3):
            tile = page[y:, MARGIN + frame * width :][:height, :width]
            np.testing.assert_array_equal(tile[1:-1, 1:-1], enlarged(to_uint8(x)[i, frame], 16))
            assert all((edge == GREY).all() for edge in (tile[0], tile[-1], tile[:, 0], tile[:, -1]))


def test_a_longer_clip_has_more_frames_of_the_same_size():
    x = np.concatenate([some("clip", 1)] * 3, axis=1)
    page = sheet(STREAMS, {"clip": x})
    assert page.shape[1] == 2 * MARGIN + 9 * (96 + 2 * BORDER)


@pytest.mark.parametrize(
    "title", ["a", "digits, step 1,500, 2m in 25 steps, guidance 1.5, seed 0", "word " * 90, "w" * 90]
)
@pytest.mark.parametrize("k", [1, 30])
def test_a_title_stands_above_and_changes_nothing_else(title, k):
    """It is wrapped, so that nothing of it is cut off; a page that is too narrow for one is wider."""
    sample = {"image": some("image", k), "label": np.arange(k) % 10}
    plain, titled = sheet(STREAMS, sample), sheet(STREAMS, sample, title)
    width, more = plain.shape[1], len(titled) - len(plain)
    assert more >= LINE and more % LINE == 0 and titled.shape[1] == max(width, LEAST)
    np.testing.assert_array_equal(titled[more + MARGIN :, :width], plain[MARGIN:])
    assert (titled[more + MARGIN :, width:] == 255).all()
    above = titled[: more + MARGIN]
    assert above.min() < 50 and (above[:, :MARGIN] == 255).all() and (above[:, -MARGIN + 1 :] == 255).all()
    inked = (above.min((1, 2)) < 128).reshape(-1)  # in every line
    assert all(inked[i * LINE + MARGIN // 2 :][:LINE].any() for i in range(more // LINE))


def test_words_are_on_one_line_above_their_own_tile():
    long = {"name": words("two\nlines", ""), "image": some("image", 2)}
    page = sheet(STREAMS, {**long, "name": words("a rocket to the moon, up", "")}, columns=2, size=8)
    assert page.shape == sheet(STREAMS, long, columns=2, size=8).shape
    width = 12 + 2 * BORDER
    above = page[MARGIN : MARGIN + LINE]
    assert above[:, MARGIN : MARGIN + width].min() < 128 and (above[:, MARGIN + width :] == 255).all()


def test_a_sheet_is_about_as_high_as_it_is_wide_and_squares_are_in_as_many_rows_as_columns():
    square = {"image": dj.streams.image((8, 8, 1))}
    for k, columns in ((1, 1), (9, 3), (10, 4), (100, 10)):
        page = sheet(square, {"image": np.zeros((k, 8, 8, 1))})
        assert page.shape[1] == MARGIN + columns * (64 + 2 * BORDER + MARGIN)
    clips = {"clip": dj.streams.video((8, 16, 16, 1))}
    for k in (20, 100):
        height, width, _ = sheet(clips, {"clip": np.zeros((k, 8, 16, 16, 1))}).shape
        assert 1 / 2 < height / width < 2


def test_pictures_of_one_sample_stand_side_by_side():
    x = {"image": some("image", 1), "clip": some("clip", 1)}
    page = sheet(STREAMS, x)
    first, width = 96 + 2 * BORDER, 96 + 2 * BORDER
    np.testing.assert_array_equal(page[MARGIN + 1 :, MARGIN + 1 :][:64, :96], enlarged(to_uint8(x["image"])[0], 16))
    assert (page[:, MARGIN + first :][:, :GAP] == 255).all()
    tile = page[MARGIN + 1 :, MARGIN + first + GAP + 2 * width + 1 :][:64, :96]
    np.testing.assert_array_equal(tile, enlarged(to_uint8(x["clip"])[0, 2], 16))


def test_where_nothing_can_be_seen_there_is_no_sheet():
    assert sheet(STREAMS, {"name": words("seven"), "label": np.array([3])}, "title") is None


# Axes ----------------------------------------------------------------------------------------------------------------


def spectrum(rate: int, clip: np.ndarray, size: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The sheet of one clip of sound: (its picture, the rows that have a tick, the columns that have one)."""
    streams = {"sound": dj.streams.audio(len(clip), rate=rate)}
    page = sheet(streams, {"sound": clip[None, :, None]}, size=size)
    grey = (page == GREY).all(-1)
    left, right = np.flatnonzero(grey.sum(0) >= 64)[[0, -1]]
    top, bottom = np.flatnonzero(grey.sum(1) >= right - left)[[0, -1]]
    up, across = page[top + 1 : bottom, left - 1], page[bottom + 1, left + 1 : right]
    return page[top + 1 : bottom, left + 1 : right, 0], *(np.flatnonzero((x == 0).all(-1)) for x in (up, across))


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize(("rate", "apart"), [(8000, 1000), (16000, 2000)])
def test_a_tone_is_at_the_tick_of_its_frequency(rate, apart, size):
    """Ticks are round numbers of hertz, from the lowest up, and the brightest row is at that of the tone."""
    for i in range(3):
        tone = np.sin(2 * np.pi * apart * (i + 1) / rate * np.arange(4096))
        picture, rows, _ = spectrum(rate, tone, size)
        assert len(picture) == size and len(rows) == 4
        bright = np.flatnonzero(picture.mean(1) == picture.mean(1).max())
        assert rows[::-1][i] in bright and len(bright) == size // 64


@pytest.mark.parametrize("size", [64, 256])
@pytest.mark.parametrize(("rate", "length", "apart"), [(8000, 5120, 0.2), (16000, 8192, 0.1)])
def test_a_click_is_at_the_tick_of_its_time(rate, length, apart, size):
    for i in range(4):
        clip = np.zeros(length)
        clip[round(i * apart * rate)] = 1
        picture, _, columns = spectrum(rate, clip, size)
        loudest = np.flatnonzero(picture.mean(0) > picture.mean(0).max() / 2)
        assert columns[i] in loudest


@pytest.mark.parametrize("seed", range(20))
def test_ticks_are_round_numbers_far_enough_apart_and_on_the_axis(seed):
    rng = np.random.default_rng(seed)
    start, step, count, apart = (
        rng.choice([0.0, 3.7]),
        10 ** rng.uniform(-4, 4),
        rng.integers(30, 300),
        rng.uniform(2, 9),
    )
    found = np.array(ticks(Axis("s", start, step), int(count), apart))
    assert len(found) >= 2 and found[0] > start - step and found[-1] < start + count * step
    (between,) = {float(f"{d:.6g}") for d in np.diff(found)}
    assert apart * step <= between * (1 + 1e-5) and between <= 2.5 * apart * step * (1 + 1e-5)
    assert f"{between:.5e}"[:3] in ("1.0", "2.0", "5.0")
    np.testing.assert_allclose(found / between, np.rint(found / between), atol=1e-6)


def test_an_axis_too_short_for_a_tick_has_none_and_is_drawn():
    assert ticks(Axis("Hz", 62.5, 62.5), 1, 13) == []
    assert sheet({"sound": dj.streams.audio(32, patch=4)}, {"sound": np.zeros((1, 32, 1))}) is not None


# Words ---------------------------------------------------------------------------------------------------------------


def test_texts_are_those_of_text_with_numbers_and_do_nothing_to_a_terminal():
    other = {**STREAMS, "other": dj.streams.text(4)}
    sample = {"name": words("in the\nbeginning", "\x1b[31mred\x07"), "label": np.array([1, 2])}
    assert texts(STREAMS, sample, STREAMS) == [
        "0: in the\nbeginning",
        "1: \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER}",
    ]
    sample["other"] = np.array([[*b"a\0\0\0"], [*b"bc\0\0"]])
    assert texts(other, sample, ["other"]) == ["0: a", "1: bc"]
    assert texts(other, sample, ["other", "name"])[0] == "0: a | in the\nbeginning"
    assert texts(STREAMS, {"image": some("image", 2)}, STREAMS) == [] == texts(STREAMS, sample, ["label"])


def test_a_title_says_what_is_known(tmp_path, monkeypatch):
    how = SampleOptions(solver="heun", steps=10, guidance="name=2,image=1.5", seed=7)
    said = "digits, step 1,500, heun in 10 steps, guidance name=2,image=1.5, seed 7"
    assert title_of("runs/digits", 1500, how) == title_of(tmp_path / "digits", 1500, how) == said
    assert title_of("runs/digits/", None, how) == said.replace(" step 1,500,", "")
    monkeypatch.chdir(tmp_path)
    assert title_of(".", 0, SampleOptions()) == f"{tmp_path.name}, step 0, 2m in 25 steps, guidance 1.0, seed 0"
