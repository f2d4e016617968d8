"""Recorded sound: files of any rate and number of channels to clips of one length and rate."""

import math
import os
import struct
from pathlib import Path

import numpy as np


def read_wav(file: str | os.PathLike, rate: int) -> np.ndarray:
    """A WAV file of `rate` Hz -> its samples [n] in float64, the mean of its channels.

    Raises OSError for a file that cannot be read and ValueError for another rate; both name the file.
    """
    from scipy.io import wavfile  # takes a tenth of a second, which models without sound do not need

    try:
        found, samples = wavfile.read(Path(file).expanduser())
    except (OSError, ValueError, struct.error) as error:  # the last is what SciPy says of a file that was cut short
        raise OSError(f"cannot read the WAV file {file}: {getattr(error, 'strerror', None) or error}") from error
    if found != rate:
        raise ValueError(f"{file} has {found} samples a second, and should have {rate}: sox IN -r {rate} OUT")
    middle = 128 if samples.dtype == np.uint8 else 0  # bytes have no sign
    return (samples.astype(np.float64) - middle).reshape(len(samples), -1).mean(1)


def read_sound(file: str | os.PathLike, rate: int) -> np.ndarray:
    """A file that libsndfile reads, such as FLAC or AIFF -> its samples [n], the mean of its channels, at `rate` Hz.
    Raises ValueError if soundfile is missing."""
    try:
        import soundfile
    except ImportError:
        raise ValueError("reading FLAC and AIFF needs libsndfile: pip install soundfile==0.14.0") from None
    samples, found = soundfile.read(file, always_2d=True)
    return resample(samples.mean(1), found, rate)


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """[..., n] at `rate` Hz -> [..., n wanted / rate] at `wanted` Hz, by a polyphase filter that lets no alias in."""
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common, axis=-1)


def onset(samples: np.ndarray, rate: int) -> int:
    """Where a sound begins: 10 ms before the first of samples [n] above 2 % of the loudest, or at once."""
    loud = np.abs(samples) > 0.02 * np.abs(samples).max()
    return max(0, int(np.argmax(loud)) - rate // 100)


def standardised(samples: np.ndarray, length: int) -> np.ndarray:
    """[n] -> float32 [length, 1] of mean 0 and variance 1, with silence after what is shorter.

    Raises ValueError if n > length, or if nothing can be heard.
    """
    if len(samples) > length:
        raise ValueError(f"{len(samples)} samples are longer than the clip of {length}: cut them first")
    clip = np.pad(samples.astype(np.float64), (0, length - len(samples)))
    clip -= clip.mean()
    if not np.any(clip):
        raise ValueError("it is silent")
    return (clip / clip.std())[:, None].astype(np.float32)
