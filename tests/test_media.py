"""Files of images and clips: what a viewer shows is what comes back, and a file of another size, length or kind is an
error that names it."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from dit_jax.data import sources
from dit_jax.media import clip, image
from dit_jax.names import ConfigError
from dit_jax.streams import image as image_stream
from dit_jax.streams import label, video


def bytes_in(shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def write(file, pixels, times=1):
    """An image of pixels [height, width, 1 or 3], enlarged."""
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    Image.fromarray(large.squeeze(-1) if large.shape[-1] == 1 else large).save(file)
    return str(file)


def levels(file, channels=3, background="white"):
    """What a file shows, in 0 ... 255, whatever its size."""
    with image.opened(file) as opened:
        size = image.displayed(opened, channels, background).size
    return (image.read(str(file), (*size[::-1], channels), background)[0] + 1) * 127.5


# Images --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", image.MODES)
@pytest.mark.parametrize("suffix", ["bmp", "png", "tiff"])
@pytest.mark.parametrize("times", [1, 2, 4])
def test_bytes_of_a_lossless_file_come_back(channels, suffix, times, tmp_path):
    """Also of files that are a power of two too large in both directions."""
    shape = (6, 10, channels)
    pixels = [bytes_in(shape, seed) for seed in range(2)]
    files = [write(tmp_path / f"{i}.{suffix}", one, times) for i, one in enumerate(pixels)]
    found = image.read(",".join(files), shape)
    assert found.shape == (2, *shape) and found.dtype == np.float32
    assert found.min() >= -1 and found.max() <= 1
    np.testing.assert_array_equal(image.to_uint8(found), pixels)


def test_other_values_are_clipped_and_of_latents_three_channels_are_seen():
    values = np.array([-9.0, -1, 0, 1, 9]).reshape(1, 5, 1)
    np.testing.assert_array_equal(image.to_uint8(values).ravel(), [0, 0, 128, 255, 255])
    assert [image.to_uint8(np.zeros((2, 2, c))).shape[-1] for c in (1, 2, 3, 4, 16)] == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("size", [(6, 11), (12, 19), (3, 5), (12, 10), (6, 20)])
def test_nothing_is_cropped_from_a_file_that_is_asked_for(size, tmp_path):
    file, (height, width) = write(tmp_path / "a.png", bytes_in((*size, 3))), size
    with pytest.raises(ValueError, match=rf"a\.png is {width} pixels wide and {height} high, and should be 10 and 6"):
        image.read(file, (6, 10, 3))


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    write(tmp_path / "whole.png", bytes_in((64, 64, 3)))
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("text.png", "cut.png", "none.png"):
        with pytest.raises(OSError, match=f"cannot read the image .*{name}"):
            image.read(str(tmp_path / name), (64, 64, 3))


@pytest.mark.parametrize(
    "begins", [b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"<!DOCTYPE html>", b""]
)
def test_a_file_of_another_kind_is_an_error_that_says_how_to_convert_it(begins, tmp_path):
    """A film, a photograph of a telephone, a page and nothing, under the name of an image."""
    (tmp_path / "a.png").write_bytes(begins + bytes(99) * bool(begins))
    with pytest.raises(OSError, match=r"a\.png: cannot identify its kind: magick IN OUT\.png or, of a film, ffmpeg"):
        image.read(str(tmp_path / "a.png"), (8, 8, 3))
    with pytest.raises(OSError, match=r"a\.png: cannot identify its kind"):
        clip.read(str(tmp_path / "a.png"), (8, 8, 8, 3))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [20_000, 11_000])
def test_a_file_of_too_many_pixels_is_an_error_before_they_are_decoded(side, tmp_path):
    """PIL raises an error of its own for the first, and only warns of the second. There are no pixels in the file."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, b"IDAT", b"IEND"))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(OSError, match=r"cannot read the image .*huge\.png: it has more than 89,478,485 pixels: magick"):
        image.read(str(tmp_path / "huge.png"), (8, 8, 3))


# Images of 8 bits, as they always were ------------------------------------------------------------------------------


OPAQUE = {
    "grey": lambda grey, rgb: Image.fromarray(grey),
    "colours": lambda grey, rgb: Image.fromarray(rgb),
    "palette": lambda grey, rgb: Image.fromarray(rgb).quantize(16),
    "bilevel": lambda grey, rgb: Image.fromarray(grey > 99),
    "inks": lambda grey, rgb: Image.fromarray(rgb).convert("CMYK"),
    "opaque colours": lambda grey, rgb: Image.fromarray(np.dstack([rgb, np.full_like(grey, 255)])),
    "opaque grey": lambda grey, rgb: Image.fromarray(np.dstack([grey, np.full_like(grey, 255)])),
}


@pytest.mark.parametrize("channels", image.MODES)
@pytest.mark.parametrize("kind", OPAQUE)
def test_opaque_images_of_8_bits_are_what_pil_converts_them_to(kind, channels):
    """To the last bit, of whatever kind: grey is ITU-R 601's luma, and colours of inks and palettes are PIL's."""
    picture = OPAQUE[kind](bytes_in((6, 10)), bytes_in((6, 10, 3), 1))
    wanted = np.float32(picture.convert(image.MODES[channels])).reshape(6, 10, channels) / 127.5 - 1
    found = image.fit(picture, (6, 10, channels), "red")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)


# Transparency --------------------------------------------------------------------------------------------------------

RED, GREEN = (255, 0, 0), (0, 255, 0)
DISC = np.hypot(*(np.mgrid[:8, :8] - 3.5)) < 3
COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0), "#102030": (16, 32, 48)}


def disc(inside, outside):
    return np.where(DISC[..., None], inside, outside).astype(np.uint8)


def palette(colours):
    picture = Image.fromarray(DISC.astype(np.uint8)).convert("P")
    picture.putpalette([level for colour in colours for level in colour])
    return picture


# A red or dark disc, and around it a colour that no viewer shows: (image, name, what `save` takes, colour of the disc).
TRANSPARENT = {
    "RGBA": (Image.fromarray(disc((*RED, 255), (*GREEN, 0))), "a.png", {}, RED),
    "WebP": (Image.fromarray(disc((*RED, 255), (*GREEN, 0))), "a.webp", {"lossless": True, "exact": True}, RED),
    "TIFF": (Image.fromarray(disc((*RED, 255), (*GREEN, 0))), "a.tif", {}, RED),
    "LA": (Image.fromarray(disc((30, 255), (255, 0))), "a.png", {}, (30, 30, 30)),
    "palette": (palette([GREEN, RED]), "a.png", {"transparency": 0}, RED),
    "palette of alphas": (palette([GREEN, RED]), "a.png", {"transparency": bytes([0, 255])}, RED),
    "GIF": (palette([GREEN, RED]), "a.gif", {"transparency": 0}, RED),
    "key of RGB": (Image.fromarray(disc(RED, GREEN)), "a.png", {"transparency": GREEN}, RED),
    "key of L": (Image.fromarray(disc(30, 200).squeeze(-1)), "a.png", {"transparency": 200}, (30, 30, 30)),
    "key of 1": (Image.fromarray(~DISC), "a.png", {"transparency": 255}, (0, 0, 0)),
}


@pytest.mark.parametrize("background", COLOURS)
@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_shows_the_background_and_no_hidden_colour(kind, background, tmp_path):
    picture, name, how, inside = TRANSPARENT[kind]
    picture.save(tmp_path / name, **how)
    wanted = disc(inside, COLOURS[background])
    np.testing.assert_allclose(levels(tmp_path / name, 3, background), wanted, atol=1e-4)
    grey = np.asarray(Image.fromarray(wanted).convert("L"))[..., None]
    np.testing.assert_allclose(levels(tmp_path / name, 1, background), grey, atol=1e-4)


def test_the_background_is_white_unless_it_is_named(tmp_path):
    Image.new("LA", (4, 4), (7, 0)).save(tmp_path / "a.png")
    file = str(tmp_path / "a.png")
    assert np.all(image.read(file, (4, 4, 3)) == 1)
    for stream, wanted in ((image_stream((4, 4, 3)), 1), (image_stream((4, 4, 3), background="black"), -1)):
        assert np.all(stream.view.read(file) == wanted)
    for stream, wanted in ((video((1, 4, 4, 3)), 1), (video((1, 4, 4, 3), background="black"), -1)):
        assert np.all(stream.view.read(file) == wanted)
    with pytest.raises(ConfigError, match=r"background = 'whit' is no colour: it should be a name, such as white, or"):
        image_stream((4, 4, 3), background="whit")
    with pytest.raises(ConfigError, match=r"background = '#ffffff00' is no colour"):
        video((1, 4, 4, 3), background="#ffffff00")


def test_a_folder_and_records_are_over_the_background_of_their_stream(tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("RGBA", (4, 4), (*GREEN, 0)).save(tmp_path / "one" / "a.png")
    for background, wanted in (("white", 1), ("black", -1)):
        streams = {"image": image_stream((4, 4, 3), background=background), "label": label(1)}
        source = sources.load(str(tmp_path), "train", "", streams)
        assert np.all(source[0]["image"] == wanted)
        record = (tmp_path / "one" / "a.png").read_bytes()
        assert np.all(sources.read_record(streams["image"], True, record) == wanted)


def test_half_transparent_is_half_of_each_and_a_hidden_colour_does_not_reach_its_neighbours(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, :2], pixels[:, 2:] = (*RED, 128), (*GREEN, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = levels(tmp_path / "a.png", 3, "black")
    np.testing.assert_allclose(found[:, :2], np.broadcast_to((128, 0, 0), (4, 2, 3)), atol=0.5)
    small = (image.read(str(tmp_path / "a.png"), (1, 1, 3), "black")[0, 0, 0] + 1) * 127.5
    np.testing.assert_allclose(small, (64, 0, 0), atol=0.5)


# Grey levels of more than 8 bits -------------------------------------------------------------------------------------

RAMP = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)


def sixteen_bits(name, levels):
    """A file of 16 bits, by hand where PIL writes none."""
    if not name.endswith(".pgm"):
        buffer = io.BytesIO()
        Image.fromarray(levels).save(buffer, {"png": "PNG", "tif": "TIFF"}[name[-3:]])
        return buffer.getvalue()
    height, width = levels.shape
    return f"P5 {width} {height} 65535\n".encode() + levels.astype(">u2").tobytes()


@pytest.mark.parametrize("channels", image.MODES)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_grey_of_16_bits_is_scaled_by_its_range_and_keeps_its_levels(name, channels, tmp_path):
    (tmp_path / name).write_bytes(sixteen_bits(name, RAMP))
    found = levels(tmp_path / name, channels)
    np.testing.assert_allclose(found, np.repeat(RAMP[..., None] / 257, channels, -1), atol=1e-4)
    fine = (30_000 + np.arange(64, dtype=np.uint16)).reshape(8, 8)  # less than one level of 8 bits
    (tmp_path / name).write_bytes(sixteen_bits(name, fine))
    assert len(np.unique(levels(tmp_path / name, channels))) == 64


def test_levels_that_8_bits_hold_are_the_same_in_16(tmp_path):
    grey = bytes_in((6, 10))
    for name, pixels in (("8.png", grey), ("16.png", grey.astype(np.uint16) * 257)):
        Image.fromarray(pixels).save(tmp_path / name)
    files = [str(tmp_path / name) for name in ("8.png", "16.png")]
    np.testing.assert_array_equal(*(image.read(file, (6, 10, 1)) for file in files))
    halved = (image.read(files[1], (3, 5, 1))[0, ..., 0] + 1) * 127.5  # by boxes, and not rounded
    np.testing.assert_allclose(halved, grey.reshape(3, 2, 5, 2).mean((1, 3)), atol=1e-4)


def test_levels_stay_in_their_range_where_an_edge_is_enlarged():
    """Bicubic interpolation overshoots, which bytes cut off and floats would keep."""
    edge = np.zeros((4, 4), np.uint16)
    edge[:, 2:] = 65535
    found = image.fit(Image.fromarray(edge), (16, 16, 1))
    assert (found.min(), found.max()) == (-1, 1)
    np.testing.assert_allclose(found, image.fit(Image.fromarray(np.uint8(edge // 257)), (16, 16, 1)), atol=1.1 / 127.5)


def test_floats_are_levels_from_0_to_1(tmp_path):
    Image.fromarray((RAMP / 65535).astype(np.float32)).save(tmp_path / "a.tif")
    np.testing.assert_allclose(levels(tmp_path / "a.tif", 1)[..., 0], RAMP / 257, atol=1e-3)
    np.testing.assert_array_equal(levels(tmp_path / "a.tif", 3), levels(tmp_path / "a.tif", 1).repeat(3, -1))


def test_a_level_of_16_bits_may_be_the_transparent_one(tmp_path):
    Image.fromarray(np.array([[0, 25_700], [51_400, 65_535]], np.uint16)).save(tmp_path / "a.png", transparency=25_700)
    np.testing.assert_allclose(levels(tmp_path / "a.png", 1).ravel(), [0, 255, 200, 255], atol=1e-4)
    np.testing.assert_allclose(levels(tmp_path / "a.png", 1, "black").ravel(), [0, 0, 200, 255], atol=1e-4)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.float32([[0.5, np.nan]]), r"nan \.\.\. nan, and should be 0 \.\.\. 1: scale them"),
        (np.float32([[0.5, np.inf]]), r"0\.5 \.\.\. inf, and should be 0 \.\.\. 1"),
        (np.float32([[0, 255]]), r"0 \.\.\. 255, and should be 0 \.\.\. 1"),
        (np.float32([[-1, 1]]), r"-1 \.\.\. 1, and should be 0 \.\.\. 1"),
        (np.int32([[0, 70_000]]), r"0 \.\.\. 70000, and should be 0 \.\.\. 65535"),
        (np.int32([[-1000, 3000]]), r"-1000 \.\.\. 3000, and should be 0 \.\.\. 65535"),
    ],
)
def test_levels_that_no_range_has_are_an_error_that_names_the_file(values, says, tmp_path):
    """Such as those of a microscope, or of a scanner of people, whose white nobody knows."""
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(OSError, match=rf"cannot read the image .*a\.tif: its grey levels are {says}"):
        image.read(str(tmp_path / "a.tif"), (1, 2, 1))


# Orientation ---------------------------------------------------------------------------------------------------------

UNDO = {  # what the pixels of an upright image are stored as, by EXIF's tag 274
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


def oriented(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", UNDO)
def test_a_photograph_is_upright(orientation, suffix, tmp_path):
    """Dark above and light below, left half lighter; 16 wide and 24 high, however its pixels lie."""
    upright = np.zeros((24, 16, 3), np.uint8)
    upright[16:], upright[:, :8] = 200, upright[:, :8] + 40
    stored = Image.fromarray(np.ascontiguousarray(UNDO[orientation](upright)))
    lossless = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(suffix, {})
    stored.save(tmp_path / f"a.{suffix}", exif=oriented(orientation), **lossless)
    found = image.read(str(tmp_path / f"a.{suffix}"), (24, 16, 3))[0]
    np.testing.assert_allclose((found + 1) * 127.5, upright, atol=6 if suffix == "jpg" else 1e-4)


def test_the_size_of_a_photograph_is_that_of_the_upright_one(tmp_path):
    Image.new("RGB", (16, 8)).save(tmp_path / "wide.jpg", exif=oriented(6))
    assert image.read(str(tmp_path / "wide.jpg"), (16, 8, 3)).shape == (1, 16, 8, 3)
    with pytest.raises(ValueError, match=r"wide\.jpg is 8 pixels wide and 16 high, and should be 16 and 8"):
        image.read(str(tmp_path / "wide.jpg"), (8, 16, 3))


@pytest.mark.filterwarnings("ignore:.*EXIF:UserWarning", "ignore:Tag data:UserWarning")
@pytest.mark.parametrize("damage", [(b"Exif\0\0MM", b"Exif\0\0XX"), (b"\x01\x12\0\x03", b"\x01\x12\0\x09")])
def test_an_orientation_that_cannot_be_read_is_none(damage, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(bytes_in((8, 16, 3))).save(buffer, "JPEG", exif=oriented(6), quality=95)
    assert buffer.getvalue().count(damage[0]) == 1
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue().replace(*damage))
    assert image.read(str(tmp_path / "a.jpg"), (8, 16, 3)).shape == (1, 8, 16, 3)


# Clips ---------------------------------------------------------------------------------------------------------------


def test_a_gif_keeps_grey_levels_and_loops(tmp_path):
    x = bytes_in((4, 6, 10, 1)) / np.float32(127.5) - 1
    file = clip.save(x, tmp_path / "a.b")
    assert file == tmp_path / "a.b.gif"
    with Image.open(file) as written:
        assert written.size == (160, 96) and written.info["loop"] == 0 and written.info["duration"] == clip.FRAME
    np.testing.assert_array_equal(clip.read(f"{file},{file}", x.shape), [x, x])


def animation(file, frames, **how):
    """Frames [k, height, width] as a file."""
    first, *others = [Image.fromarray(frame) for frame in frames]
    lossless = {"lossless": True} if str(file).endswith("webp") else {}
    first.save(file, save_all=True, append_images=others, **lossless, **how)
    return str(file)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_a_frame_shown_for_longer_counts_as_several_and_what_a_file_lacks_is_nan(suffix, tmp_path):
    frames = bytes_in((3, 8, 8))
    file = animation(tmp_path / f"a.{suffix}", frames, duration=[40, 120, 80])
    found = clip.read(file, (8, 8, 8, 1))[0]
    np.testing.assert_array_equal(image.to_uint8(found[:6])[..., 0], frames[[0, 1, 1, 1, 2, 2]])
    assert np.all(np.isnan(found[6:]))
    made = r"has 3 frames of 40 \.\.\. 120 ms, which make 6 frames of 40 ms, and a clip here has 5: cut it"
    with pytest.raises(ValueError, match=rf"a\.{suffix} {made}"):
        clip.read(file, (5, 8, 8, 1))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
@pytest.mark.parametrize(
    ("times", "counts"),
    [
        ([30, 40, 30, 30, 40, 30, 30, 40], [1] * 8),  # 30 frames a second, in hundredths of one
        ([40, 40, 50, 40, 40, 40, 50, 40], [1] * 8),  # 24
        ([70, 60, 70, 70, 60, 70], [1] * 6),  # 15
        ([100, 200, 100, 400], [1, 2, 1, 4]),
        ([50] * 7 + [3000], [1] * 8),
        ([100] * 5 + [1000], [1] * 6),
        ([40, 80, 40, 2000], [1, 2, 1, 1]),
        ([100, 100, 600], [1, 1, 6]),  # alike frames at the end of a clip as long as this one, which GIF keeps as one
        ([100], [1]),
        ([2000], [1]),
    ],
)
def test_a_clip_has_the_frames_that_people_see_and_no_pause_at_its_end(times, counts, suffix, tmp_path):
    frames = bytes_in((len(times), 8, 8))
    found = clip.read(animation(tmp_path / f"a.{suffix}", frames, duration=times), (8, 8, 8, 1))[0]
    wanted = frames.repeat(counts, axis=0)
    np.testing.assert_array_equal(image.to_uint8(found[: len(wanted)])[..., 0], wanted)
    assert np.all(np.isnan(found[len(wanted) :]))


def test_a_clip_that_stands_still_at_its_end_comes_back_from_its_file(tmp_path):
    x = bytes_in((8, 6, 10, 1)) / np.float32(127.5) - 1
    x[2:] = x[2]
    np.testing.assert_array_equal(clip.read(str(clip.save(x, tmp_path / "a")), x.shape)[0], x)


def test_too_many_frames_are_told_as_the_file_has_them(tmp_path):
    nine = animation(tmp_path / "nine.gif", bytes_in((9, 8, 8)), duration=100)
    with pytest.raises(ValueError, match=r"nine\.gif has 9 frames, and a clip here has 8: cut it to that many"):
        clip.read(nine, (8, 8, 8, 1))
    pause = animation(tmp_path / "pause.gif", bytes_in((9, 8, 8)), duration=[50] * 8 + [3000])
    with pytest.raises(ValueError, match=r"pause\.gif has 9 frames, and a clip here has 8"):
        clip.read(pause, (8, 8, 8, 1))


def test_the_picture_of_an_apng_for_viewers_that_cannot_move_is_no_frame(tmp_path):
    frames = bytes_in((3, 8, 8))
    file = animation(tmp_path / "a.png", frames, duration=100, default_image=True)
    np.testing.assert_array_equal(image.to_uint8(clip.read(file, (2, 8, 8, 1)))[0, ..., 0], frames[1:])


def test_a_photograph_is_one_frame_whatever_else_its_file_holds(tmp_path):
    """Telephones write a second picture into a JPEG, such as a gain map, a quarter as large."""
    photograph, other = Image.new("RGB", (16, 8), (200, 200, 200)), Image.new("RGB", (4, 2))
    photograph.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[other])
    found = clip.read(str(tmp_path / "a.jpg"), (3, 8, 16, 3))[0]
    np.testing.assert_allclose(found[0], 200 / 127.5 - 1, atol=0.01)
    assert np.all(np.isnan(found[1:]))


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
@pytest.mark.parametrize("background", COLOURS)
def test_a_transparent_sticker_moves_over_the_background(background, name, tmp_path):
    """Only what changed may be stored of a frame; what is transparent holds a colour that nobody sees."""
    frames, places = np.zeros((4, 8, 8, 4), np.uint8), range(4)
    frames[..., :3] = GREEN
    for i in places:
        frames[i, 2:5, i : i + 3] = (*RED, 255)
    how = {"duration": 100, "disposal": 2} if name != "a.webp" else {"duration": 100, "exact": True}
    found = clip.read(animation(tmp_path / name, frames, **how), (4, 8, 8, 3), background)[0]
    wanted = np.full((4, 8, 8, 3), COLOURS[background], np.uint8)
    for i in places:
        wanted[i, 2:5, i : i + 3] = RED
    np.testing.assert_array_equal(image.to_uint8(found), wanted)


def test_frames_of_another_size_are_an_error_and_of_twice_the_size_are_not(tmp_path):
    frames = bytes_in((3, 8, 8))
    double = animation(tmp_path / "double.gif", frames.repeat(2, 1).repeat(2, 2), duration=100)
    np.testing.assert_array_equal(image.to_uint8(clip.read(double, (3, 8, 8, 1)))[0, ..., 0], frames)
    tall = animation(tmp_path / "tall.gif", frames.repeat(2, 1), duration=100)
    with pytest.raises(ValueError, match=r"tall\.gif is 8 pixels wide and 16 high, and should be 8 and 8"):
        clip.read(tall, (3, 8, 8, 1))


def test_an_animation_is_its_first_frame_where_an_image_is_asked_for(tmp_path):
    frames = bytes_in((3, 8, 8))
    for suffix in ("gif", "png", "webp"):
        file = animation(tmp_path / f"a.{suffix}", frames, duration=100)
        np.testing.assert_array_equal(image.to_uint8(image.read(file, (8, 8, 1)))[0, ..., 0], frames[0])


def test_memory_that_ends_is_no_picture_that_is_broken(tmp_path):
    """Or it would be passed over, as broken ones may be."""
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(MemoryError), image.opened(tmp_path / "a.png"):
        raise MemoryError
