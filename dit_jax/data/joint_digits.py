"""One digit in four ways, as a TFDS data set: handwritten, spelled, spoken, and flying from wall to wall."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from dit_jax.data.audio_digits import LENGTH, VOICES, WORDS, clip, spoken
from dit_jax.data.building import preparer
from dit_jax.data.digits import handwritten
from dit_jax.data.video_digits import SIZE, flight, render

FRAMES = 4  # of a clip: half of those of video_digits, to be learnt beside so much else
SPELLED = max(map(len, WORDS))  # bytes; shorter names end in NUL
EACH = {"train": 8, "test": 2}  # examples of a handwritten digit, with as many voices and flights


class JointDigits(tfds.core.GeneratorBasedBuilder):
    """Image uint8 [8, 8, 1], name uint8 [5], speech float32 [5120, 1] at 8 kHz, clip uint8 [4, 16, 16, 1] of the same
    image, and label.

    Neither an image nor a voice of the test split (1,796 examples) is in the train split (7,192).
    """

    VERSION = tfds.core.Version("2.0.0")

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
        takes = defaultdict(list)
        for label, samples in spoken(VOICES[split]):
            takes[label].append(clip(samples))
        for row, pixels, label in handwritten(split):
            rng = np.random.default_rng(row)
            for turn in range(EACH[split]):
                example = {
                    "image": Image.fromarray(pixels),
                    "name": np.frombuffer(WORDS[label].encode().ljust(SPELLED, b"\0"), np.uint8),
                    "speech": takes[label][rng.integers(len(takes[label]))],
                    "clip": render(pixels, flight(rng, FRAMES)),
                    "label": label,
                }
                yield row * EACH[split] + turn, example


prepare = preparer(JointDigits)
