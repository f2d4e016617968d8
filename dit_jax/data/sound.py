"""Recorded sound: WAV files of any rate and number of channels to clips of one length and rate."""

import math
import os
import struct
from pathlib import Path

import numpy as np


def read_wav(file: str | os.PathLike, rate: int) -> np.ndarray:
    """A WAV file -> its samples [n] in float64, at `rate` Hz: channels are averaged, other rates resampled.

    Raises OSError, naming the file, for one that cannot be read.
    """
    from scipy.io import wavfile  # takes a tenth of a second, which models without sound do not need

    try:
        found, samples = wavfile.read(Path(file).expanduser())
    except (OSError, ValueError, struct.error) as error:  # the last is what SciPy says of a file that was cut short
        raise OSError(f"cannot read the WAV file {file}: {getattr(error, 'strerror', None) or error}") from error
    middle = 128 if samples.dtype == np.uint8 else 0  # bytes have no sign
    return resample((samples.astype(np.float64) - middle).reshape(len(samples), -1).mean(1), found, rate)


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """[..., n] at `rate` Hz -> [..., n wanted / rate] at `wanted` Hz, by a polyphase filter that lets no alias in."""
    from scipy.signal import resample_poly

    common = math.gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common, axis=-1)


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
