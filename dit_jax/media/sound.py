"""Recorded sound: files of any rate and number of channels to clips of one length and rate."""

import io
import math
import os
import struct
import warnings
from pathlib import Path

import numpy as np

STREAMED = 0x7FFFF000  # bytes; a size of so many, or more, says that who wrote the file to a pipe did not know it
FAR = 100  # times as loud as all the rest, which no sound is


def read_wav(file: str | os.PathLike, rate: int) -> np.ndarray:
    """A WAV file of `rate` Hz -> its samples [n] in float64, the mean of its channels.

    Raises OSError for a file that cannot be read, or is cut short, and ValueError for another rate and for samples that
    are no sound; all name the file.
    """
    from scipy.io import wavfile  # takes a tenth of a second, which models without sound do not need

    data = Path(file).expanduser()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", wavfile.WavFileWarning)  # of what is in a file beside its sound
            found, samples = wavfile.read(io.BytesIO(whole(data.read_bytes())))
    except OSError as error:
        raise OSError(f"cannot read the WAV file {file}: {error.strerror or error}") from error
    except Exception as error:  # SciPy raises errors of many kinds for files that are broken
        fix = "ffmpeg -i IN -c:a pcm_s16le OUT.wav makes a WAV file of any sound"
        raise OSError(f"cannot read the WAV file {file}: {error}; {fix}") from error
    if found != rate:
        raise ValueError(f"{file} has {found} samples a second, and should have {rate}: sox IN -r {rate} OUT")
    middle = 128 if samples.dtype == np.uint8 else 0  # bytes have no sign
    channels = (samples.astype(np.float64) - middle).reshape(len(samples), max(1, samples[:1].size))
    try:
        check_sound(channels, most=1 if samples.dtype.kind == "f" else np.inf)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return channels.mean(1)


def whole(data: bytes) -> bytes:
    """A WAV file up to the end of its samples, with their size where who wrote it did not know it.

    Raises ValueError for one that ends before its samples do, and for what is no WAV file.
    """
    if data[:4] == b"RF64":  # whose sizes are elsewhere
        return data
    if data[:4] not in (b"RIFF", b"RIFX") or data[8:12] != b"WAVE":
        raise ValueError(f"it begins with {data[:12]!r}, as no WAV file does")
    order, at, a_second, each = ">" if data[:4] == b"RIFX" else "<", 12, 0, 0
    while at + 8 <= len(data):
        name, size = struct.unpack_from(f"{order}4sI", data, at)
        at += 8
        if name == b"fmt " and at + 14 <= len(data):
            a_second, each = struct.unpack_from(f"{order}8xIH", data, at)  # bytes a second, bytes of all channels
        if name == b"data" and a_second and each:
            left = len(data) - at
            if size >= STREAMED:
                size = left - left % each
            if left < size:
                raise ValueError(f"it ends after {left / a_second:.2f} s of {size / a_second:.2f} s")
            sizes = [struct.pack(f"{order}I", count) for count in (at + size - 8, size)]
            return data[:4] + sizes[0] + data[8 : at - 4] + sizes[1] + data[at : at + size]
        at += size + size % 2
    raise ValueError("it has no samples, or does not say of which kind they are")


def check_sound(samples: np.ndarray, most: float) -> None:
    """Raises ValueError for samples [n, channels] that are no sound: for less than two, for one that is not finite, or
    is above `most` and far above the rest, and for channels that cancel."""
    if len(samples) < 2:
        raise ValueError(f"it has no sound: its samples are {len(samples)}, and should be 2 at least")
    peaks = np.abs(samples).max(1)
    if not np.all(np.isfinite(peaks)):
        first = int(np.argmin(np.isfinite(peaks)))
        what = "not a number" if np.isnan(peaks[first]) else "infinite"
        raise ValueError(f"sample {first} is {what}: cut it out, or set it to 0")
    loudest = np.sort(peaks)[::-1][: 2 + len(peaks) // 100]  # those far above the rest are few
    gaps = np.flatnonzero((loudest[:-1] > most) & (loudest[:-1] > FAR * loudest[1:]))
    if len(gaps):
        rest = loudest[gaps[-1] + 1]
        first = int(np.argmax(peaks > rest))
        raise ValueError(f"sample {first} is {peaks[first]:.3g}, far above the rest, {rest:.3g}: set it to 0")
    if np.any(samples) and not np.any(samples.mean(1)):
        raise ValueError("its channels cancel, so that their mean is silent: take one of them, sox IN OUT remix 1")


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
    if np.all(samples == samples[:1]):
        raise ValueError("it is silent: all of its samples are the same")
    clip = np.pad(samples.astype(np.float64), (0, length - len(samples)))
    clip -= clip.mean()
    return (clip / clip.std())[:, None].astype(np.float32)
