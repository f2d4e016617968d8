"""Emoji: captions from code points, frames of a loop, twins on one side of the split, and packages as published."""

import hashlib
import io
import json
import re
import tarfile

import numpy as np
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax.data import emoji, pipeline, sources
from dit_jax.data.audio_digits import RATE, VOICES
from dit_jax.media.sound import standardised

TONES = dict(zip(["1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"], range(1, 6), strict=True))
ANIMALS = [chr(ord("A") + i) * (3 + i) for i in range(12)]  # names of 3 ... 14 letters


def entry(name: str, unified: str, category: str = "Animals & Nature", variations: dict | None = None) -> dict:
    tones = {tone: {"unified": codes} for tone, codes in (variations or {}).items()}
    return {"name": name, "unified": unified, "category": category, "skin_variations": tones}


FIST = entry("RAISED FIST", "270A", "People & Body", {tone: f"270A-{tone}" for tone in TONES})
HEART = entry("HEART ON FIRE", "2764-FE0F-200D-1F525", "Smileys & Emotion")
LONG = entry("X" * (emoji.BYTES + 1), "1F999")
PLAIN = [entry(name, f"1F4{i:02X}") for i, name in enumerate(ANIMALS)]


def turning(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Frames [count, size, size, 4], each half of one colour and transparent elsewhere."""
    frames = np.zeros((count, size, size, 4), np.uint8)
    frames[:, : size // 2, :, :3] = np.random.default_rng(seed).integers(0, 256, (count, 1, 1, 3))
    frames[:, : size // 2, :, 3] = 255
    return frames


def webp(frames: np.ndarray) -> bytes:
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(file := io.BytesIO(), "WEBP", save_all=True, append_images=others, duration=42, loop=0, lossless=True)
    return file.getvalue()


def package(folder, name: str, files: dict[str, bytes]) -> dict[str, str]:
    """Write what `npm pack` would, and return its row of PACKAGES."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{name.replace('@', '-')}.tgz"
    with tarfile.open(file, "w:gz") as archive:
        for path, data in files.items():
            (info := tarfile.TarInfo(f"package/{path}")).size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return {name: hashlib.sha256(file.read_bytes()).hexdigest()}


def talker(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """A voice that is a tone: 20 s a letter at one word a minute, between two halves of a second of silence."""
    pitch = 2 + " ".join(VOICES.values()).split().index(voice.removeprefix("en-us+"))
    return np.pad(np.cos(np.arange(round(20 * RATE * len(text) / speed)) * pitch / 40), RATE // 2)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The real builder on made-up packages, without npm or espeak-ng: {split: [examples as TFDS has them]}."""
    root = tmp_path_factory.mktemp("data")
    table = json.dumps([*PLAIN, FIST, HEART, LONG]).encode()
    animated = {f"{entry['unified'].lower()}": 9 + i for i, entry in enumerate([*PLAIN, HEART, LONG, FIST])}
    animated |= {f"270a-{tone.lower()}": 30 + i for tone, i in TONES.items()}
    clips = {f"assets/{codes}.webp": webp(turning(count, seed=count)) for codes, count in animated.items()}
    clips["assets/1f40b.webp"] = webp(turning(1))  # the last animal does not move
    clips["assets/1f000.webp"] = webp(turning(9))  # nobody knows its name
    rows = package(root / "downloads", "names@1", {"emoji.json": table, "emoji_pretty.json": b"{}"})
    for number, some in enumerate((slice(0, 7), slice(7, None))):
        rows |= package(root / "downloads", f"clips-{number}@1", dict(list(clips.items())[some]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji, "PACKAGES", rows)
        patch.setattr(emoji, "speaker", lambda: talker)
        patch.setenv("PATH", "")  # what is in the folder is not fetched
        sources.prepare("emoji", root)
    builder = sources.find("emoji", root)
    return root, {split: list(builder.as_data_source(split)) for split in ("train", "test")}


def said(example: dict) -> str:
    return bytes(example["name"]).rstrip(b"\0").decode()


# Captions ------------------------------------------------------------------------------------------------------------


def test_a_caption_is_found_with_and_without_variation_selectors():
    known = emoji.captions([HEART])
    for file in ("2764-fe0f-200d-1f525", "2764-200d-1f525", "2764-FE0F-200D-1F525"):
        assert known[emoji.plain(file)][1:] == ("heart on fire", "Smileys & Emotion")


@pytest.mark.parametrize(
    ("tones", "caption"),
    [
        ("1F3FB", "couple, light"),
        ("1F3FE", "couple, medium-dark"),
        ("1F3FD-1F3FD", "couple, medium"),
        ("1F3FF-1F3FB", "couple, dark and light"),
    ],
)
def test_a_skin_tone_is_named_once(tones, caption):
    """Some variations have other code points than the emoji that they are of: their place in the table counts."""
    known = emoji.captions([entry("COUPLE", "1F46B", variations={tones: f"1F469-{tones}-FE0F"})])
    assert known["1f46b"][1] == "couple"
    assert known[f"1f469-{tones.lower()}"][1] == caption


def test_twins_are_on_one_side_and_every_fifth_name_is_test():
    """Also twins by name alone, of which Unicode has two."""
    entries = [entry(f"N{i:03}", f"{i:04X}", variations={t: f"{i:04X}-{t}" for t in TONES}) for i in range(100)]
    entries += [entry(f"N{i:03}", f"F{i:03X}") for i in range(100)]
    sides: dict[str, set] = {}
    for split, caption, _ in emoji.captions(entries).values():
        sides.setdefault(caption.split(",")[0], set()).add(split)
    assert sorted(map(sorted, sides.values())) == [["test"]] * 20 + [["train"]] * 80
    assert emoji.captions(entries[::-1]) == emoji.captions(entries)


# Clips ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [8, 9, 72, 73])
def test_frames_go_evenly_round_the_loop(count):
    """No two neighbours, the last and the first among them, are further apart than others by more than one frame."""
    frames = turning(count)
    clip = emoji.frames(webp(frames))
    colours = [tuple(frame[0, 0, :3]) for frame in frames]
    places = [colours.index(tuple(frame[0, 0])) for frame in clip]
    steps = np.diff([*places, count])
    assert places[0] == 0 and len(clip) == 8 and np.ptp(steps) <= (count % 8 > 0)


def test_a_pixel_is_the_mean_of_what_it_covers_on_white():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (8, 96, 96, 4), np.uint8)
    opacity = frames[..., 3:] / 255
    seen = opacity * frames[..., :3] + (1 - opacity) * 255
    wanted = seen.reshape(8, 32, 3, 32, 3, 3).mean((2, 4))
    np.testing.assert_allclose(emoji.frames(webp(frames)), wanted, atol=1.5)


# Speech --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("letters", "speed"), [(3, 175), (17, 175), (18, 200), (40, 400)])
def test_a_caption_is_said_as_slowly_as_it_fits(letters, speed):
    """By `talker`, who needs 20 s / speed for a letter, in 2.048 s, of which 10 ms come before it."""
    voice = VOICES["test"].split()[0]
    found = emoji.spoken(talker, "x" * letters, voice)
    tone = talker("x" * letters, f"en-us+{voice}", speed, 50)[RATE // 2 - RATE // 100 : -(RATE // 2)]
    assert 20 * letters / speed <= emoji.LENGTH / RATE - 0.01 and (speed == 175 or 20 * letters / (speed - 25) > 2.03)
    np.testing.assert_allclose(found, standardised(tone, emoji.LENGTH), atol=0.05)


# The data set --------------------------------------------------------------------------------------------------------


def test_what_is_named_short_and_moves_is_there_once(prepared):
    """Twelve animals, of which one does not move; a heart; a fist and its five twins."""
    captions = sorted(said(example) for split in prepared[1].values() for example in split)
    tones = ["light", "medium-light", "medium", "medium-dark", "dark"]
    fists = ["raised fist", *(f"raised fist, {tone}" for tone in tones)]
    assert captions == sorted([*map(str.lower, ANIMALS[:-1]), "heart on fire", *fists])


def test_no_name_and_no_voice_is_on_both_sides(prepared):
    train, test = ({said(example).split(",")[0] for example in prepared[1][split]} for split in ("train", "test"))
    assert train and test and not train & test
    for split, voices in VOICES.items():
        for example in prepared[1][split][:3]:
            heard = [emoji.spoken(talker, said(example), voice) for voice in voices.split()]
            assert min(np.abs(example["speech"] - speech).max() for speech in heard) < 1e-6


def test_labels_and_stills_belong_to_their_captions(prepared):
    for example in (example for split in prepared[1].values() for example in split):
        categories = {"raised": "People & Body", "heart": "Smileys & Emotion"}
        category = categories.get(re.split("[ ,]", said(example))[0], "Animals & Nature")
        assert emoji.CATEGORIES.split(",")[example["label"]] == category
        np.testing.assert_array_equal(example["still"], example["clip"][0])


def test_streams_read_it(prepared):
    """The shell's own reader gives the bytes that training sees, and the clip comes in [-1, 1]."""
    root, _ = prepared
    text = dj.streams.text(emoji.BYTES)
    streams = {"clip": dj.streams.video((8, 32, 32, 3)), "still": dj.streams.image((32, 32, 3)), "name": text}
    source = sources.load("emoji", "train", root, streams | {"speech": dj.streams.audio(emoji.LENGTH)})
    batch = pipeline.picked(source, range(len(source)))
    for name, words in zip(batch["name"], text.view.show(batch["name"]), strict=True):
        np.testing.assert_array_equal(text.view.read(words)[0], name)
    np.testing.assert_allclose(batch["clip"][:, 0], batch["still"], atol=1e-6)
    assert batch["clip"].min() >= -1 and batch["clip"].max() == 1  # white
    np.testing.assert_allclose(batch["speech"].std(1), 1, atol=1e-4)
