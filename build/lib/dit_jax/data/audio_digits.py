"""Spoken digits as a TFDS data set: synthetic voices of espeak-ng, which the wheel espeakng-loader brings along."""

import ctypes
import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from dit_jax.data.building import preparer
from dit_jax.data.packages import debian, pypi
from dit_jax.media.sound import onset, read_wav, resample, standardised

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
RATE, LENGTH = 8000, 5120  # 0.64 s
TAKES = 6  # of every word in every voice and accent, each at a speed and a pitch of its own
ACCENTS = ["en", "en-us"]  # British and American
# espeak-ng's variants that sound like people.
VOICES = {
    "train": "m1 m2 m3 m4 m6 m7 f1 f2 f4 f5 Alex Annie Denis Diogo Gene Henrique Hugo Mario Michael Mike Storm adam "
    "aunty benjamin boris edward grandma grandpa gustave john klatt3 klatt4 klatt5 max michel pablo quincy rob "
    "sandro victor",
    "test": "m5 m8 f3 belinda david linda miguel paul robert steph",
}
PACKAGE, RECORDED = "asterisk-core-sounds-en-wav=1.6.1-1", "usr/share/asterisk/sounds/en_US_f_Allison/digits"


class AudioDigits(tfds.core.GeneratorBasedBuilder):
    """The words zero ... nine at 8 kHz: float32 clips [5120, 1] of mean 0 and variance 1, labels 0 ... 9, and
    durations in samples, after which a clip is silent.

    No voice of the test split (1,200 clips) is in the train split (4,800). The split `recorded` is one woman's
    recording of each word; it is left out where that package of Debian cannot be fetched.
    """

    VERSION = tfds.core.Version("1.1.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Ten words spoken by espeak-ng 1.52 (GPL-3.0-or-later), from the wheel espeakng-loader 0.2.4; "
            "in the split recorded, by Allison Smith, from Debian's asterisk-core-sounds-en-wav (CC-BY-SA-3.0).",
            features=tfds.features.FeaturesDict(
                {
                    "speech": tfds.features.Tensor(shape=(LENGTH, 1), dtype=np.float32),
                    "duration": tfds.features.Tensor(shape=(), dtype=np.int32),
                    "label": tfds.features.ClassLabel(names=WORDS),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        splits = {split: self._generate_examples(spoken(voices)) for split, voices in VOICES.items()}
        try:
            words = debian(PACKAGE, Path(dl_manager.download_dir)) / RECORDED
        except FileNotFoundError as error:
            print(f"without the split recorded: {error}", file=sys.stderr)
            return splits
        return splits | {"recorded": self._generate_examples(recorded(words))}

    def _generate_examples(self, clips: Iterator[tuple[int, np.ndarray]]) -> Iterator[tuple[int, dict]]:
        for row, (label, samples) in enumerate(clips):
            heard = sounded(samples)
            yield row, {"speech": standardised(heard, LENGTH), "duration": len(heard), "label": label}


def spoken(voices: str) -> Iterator[tuple[int, np.ndarray]]:
    """(label, samples at RATE) of every word in all voices, names between spaces, and accents; at 150 ... 200 words a
    minute."""
    speak, rng = speaker(), np.random.default_rng(0)
    for voice, accent, _ in itertools.product(voices.split(), ACCENTS, range(TAKES)):
        speed, pitch = int(rng.integers(150, 200)), int(rng.integers(30, 70))
        for label, word in enumerate(WORDS):
            yield label, speak(word, f"{accent}+{voice}", speed, pitch)


def recorded(folder: Path) -> Iterator[tuple[int, np.ndarray]]:
    """(label, samples at RATE) of the recordings 0.wav ... 9.wav."""
    return ((label, read_wav(folder / f"{label}.wav", RATE)) for label in range(len(WORDS)))


def clip(samples: np.ndarray) -> np.ndarray:
    """Samples -> float32 [LENGTH, 1], standardised, from the onset."""
    return standardised(sounded(samples), LENGTH)


def sounded(samples: np.ndarray) -> np.ndarray:
    """Samples from the onset, as many as a clip holds."""
    return samples[onset(samples, RATE) :][:LENGTH]


def speaker() -> Callable[[str, str, int, int], np.ndarray]:
    """(text, voice, words a minute, pitch 0 ... 99) -> samples at RATE, by espeak-ng.

    The library draws noise from a state that it keeps: a copy of it for each speaker makes each say the same again.
    Raises ValueError if it is missing or of another version, or has no such language.
    """
    pypi("espeakng-loader==0.2.4")
    import espeakng_loader

    with tempfile.TemporaryDirectory() as folder:
        espeak = ctypes.CDLL(shutil.copy(espeakng_loader.get_library_path(), folder))
    heard: list[np.ndarray] = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def hear(samples, count, events):
        if count > 0:
            heard.append(np.ctypeslib.as_array(samples, (count,)) / 2**15)
        return 0

    synchronous, rate_parameter, pitch_parameter, characters, utf8 = 2, 1, 3, 1, 1
    rate = espeak.espeak_Initialize(synchronous, 0, espeakng_loader.get_data_path().encode(), 0)
    espeak.espeak_ng_SetRandSeed(ctypes.c_long(0))  # of the breath of some voices

    def speak(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        heard.clear()
        espeak.espeak_SetSynthCallback(hear)  # here, so that Python keeps it as long as it is called
        if espeak.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        espeak.espeak_SetParameter(rate_parameter, speed, 0)
        espeak.espeak_SetParameter(pitch_parameter, pitch, 0)
        word = text.encode() + b"\0"
        espeak.espeak_Synth(word, ctypes.c_size_t(len(word)), 0, characters, 0, utf8, None, None)
        espeak.espeak_Synchronize()
        return resample(np.concatenate(heard), rate, RATE)

    return speak


prepare = preparer(AudioDigits)
