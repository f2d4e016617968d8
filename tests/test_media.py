"""Files of images and clips: every value comes back, and a file of another size or length is an error that names it."""

import numpy as np
import pytest
from PIL import Image

from dit_jax.media import clip, image


def bytes_in(shape, seed=0):
    return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def write(file, pixels, times=1):
    """An image of pixels [height, width, 1 or 3], enlarged."""
    large = pixels.repeat(times, axis=0).repeat(times, axis=1)
    Image.fromarray(large.squeeze(-1) if large.shape[-1] == 1 else large).save(file)
    return str(file)


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


# Clips ---------------------------------------------------------------------------------------------------------------


def test_a_gif_keeps_grey_levels_and_loops(tmp_path):
    x = bytes_in((4, 6, 10, 1)) / np.float32(127.5) - 1
    file = clip.save(x, tmp_path / "a.b")
    assert file == tmp_path / "a.b.gif"
    with Image.open(file) as written:
        assert written.size == (160, 96) and written.info["loop"] == 0 and written.info["duration"] == clip.FRAME
    np.testing.assert_array_equal(clip.read(f"{file},{file}", x.shape), [x, x])


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_a_frame_shown_for_longer_counts_as_several_and_what_a_file_lacks_is_nan(suffix, tmp_path):
    frames, file = bytes_in((3, 8, 8)), tmp_path / f"a.{suffix}"
    first, *others = [Image.fromarray(frame) for frame in frames]
    lossless = {"lossless": True} if suffix == "webp" else {}
    first.save(file, save_all=True, append_images=others, duration=[40, 120, 80], **lossless)
    found = clip.read(str(file), (8, 8, 8, 1))[0]
    np.testing.assert_array_equal(image.to_uint8(found[:6])[..., 0], frames[[0, 1, 1, 1, 2, 2]])
    assert np.all(np.isnan(found[6:]))
    with pytest.raises(ValueError, match=rf"a\.{suffix} has 6 frames, and a clip here has 5: cut it"):
        clip.read(str(file), (5, 8, 8, 1))
