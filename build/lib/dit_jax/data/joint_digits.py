"""One digit in four ways, as a TFDS data set: handwritten, spelled, spoken, and flying from wall to wall."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from dit_jax.data.audio_digits import LENGTH, VOICES, WORDS, clip, speaker
from dit_jax.data.building import preparer
from dit_jax.data.digits import handwritten
from dit_jax.data.video_digits import SIZE, flight, render

FRAMES = 4  # of a clip: half of those of video_digits, to be learnt beside so much else
SPELLED = max(map(len, WORDS))  # bytes; shorter names end in NUL
EACH = {"train": 32, "test": 2}  # examples of a handwritten digit, each with a flight and a spoken word of its own
ACCENTS = ["en", "en-us", "en-us-nyc", "en-029", "en-gb-scotland", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-gb-x-gbclan"]


class JointDigits(tfds.core.GeneratorBasedBuilder):
    """Image uint8 [8, 8, 1], name uint8 [5], speech float32 [5120, 1] at 8 kHz, clip uint8 [4, 16, 16, 1] of the same
    image, and label.

    Neither an image nor a voice of the test split (1,796 examples) is in the train split (28,768).
    """

    VERSION = tfds.core.Version("3.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The data sets digits, audio_digits and video_digits, joined by their labels. Handwriting: "
            "scikit-learn (BSD-3-Clause). Voices: espeak-ng 1.52 (GPL-3.0-or-later), from espeakng-loader 0.2.4.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "name": tfds.features.Tensor(shape=(SPELLED,), dtype=np.uint8),
                    "speech": tfds.features.Tensor(shape=(LENGTH, 1), dtype=np.float32),
                    "clip": tfds.features.Tensor(shape=(FRAMES, SIZE, SIZE, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(names=WORDS),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in EACH}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        speak = speaker()
        for row, pixels, label in handwritten(split):
            rng = np.random.default_rng(row)
            for turn in range(EACH[split]):
                example = {
                    "image": Image.fromarray(pixels),
                    "name": np.frombuffer(WORDS[label].encode().ljust(SPELLED, b"\0"), np.uint8),
                    "speech": clip(spoken(rng, speak, WORDS[label], VOICES[split])),
                    "clip": render(pixels, flight(rng, FRAMES)),
                    "label": label,
                }
                yield row * EACH[split] + turn, example


def spoken(
    rng: np.random.Generator, speak: Callable[[str, str, int, int], np.ndarray], word: str, voices: str
) -> np.ndarray:
    """Samples of a word in any voice and accent, at 150 ... 200 words a minute and a pitch of 20 ... 80."""
    accent, voice = rng.choice(ACCENTS), rng.choice(voices.split())
    return speak(word, f"{accent}+{voice}", int(rng.integers(150, 200)), int(rng.integers(20, 80)))


prepare = preparer(JointDigits)
