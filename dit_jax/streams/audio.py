"""Sound: a waveform along time, in patches, without a codec (as in WavTTS, arXiv 2606.03455)."""

import functools
from pathlib import Path
from typing import Annotated

import numpy as np

from dit_jax.diffusion.ddpm import PROCESSES
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.levels import LEVELS, Quantile
from dit_jax.diffusion.stream import Axis, Stream, View
from dit_jax.media.paths import split_paths
from dit_jax.media.sound import read_wav, standardised
from dit_jax.media.spectrum import BASES, mel, spectrogram
from dit_jax.names import choose
from dit_jax.network.tokens import TIME, grid_shape, positions
from dit_jax.schema import Range, called, checks
from dit_jax.streams.image import PatchEmbed, PatchHead

WINDOW = 128  # samples, of which a column of a picture is the spectrum; columns are half of it apart


@checks
def audio(
    length: Annotated[int, Range(at_least=1, at_most=2**24)],
    patch: Annotated[int, Range(at_least=1)] = 64,
    rate: Annotated[int, Range(at_least=1, at_most=2**20)] = 8000,
    process: Gaussian | str = "gaussian()",
    levels: Quantile | str = "logit_normal(mean=0.8, std=0.8)",
    basis: Annotated[str, BASES] = "samples",
) -> Stream:
    """A clip of `length` samples at `rate` Hz, [length, 1], as tokens of `patch` values in a basis of BASES.

    A clip has mean 0 and variance 1 over its length, so that a level of noise hides as much of every clip: how loud
    it is, is not modelled. Every basis is orthonormal: noise is as white in it, and the loss the same. process, levels:
    as those of `image`. Raises ValueError for a patch that does not divide the length, and for names that do not exist.
    """
    grid = grid_shape((length,), (patch,))
    process = called(process, PROCESSES, "process")
    outputs = process.outputs
    there, back = (functools.partial(turn, patch=patch) for turn in choose(BASES, basis, "basis"))
    return Stream(
        shape=(length, 1),
        process=process,
        levels=called(levels, LEVELS, "levels"),
        positions=positions(grid, (TIME,)),
        embed=lambda width, dtype, name: PatchEmbed((patch,), width, dtype, there, name=name),
        head=lambda width, dtype, name: PatchHead((length, outputs), (patch,), dtype, back, name=name),
        view=View(
            read=lambda text: read(text, length, rate),
            show=show,
            axes=(Axis("s", 0.0, WINDOW / 2 / rate), Axis("Hz", rate / WINDOW, rate / WINDOW)),
            save=lambda x, path: save(x, path, rate),
            features=lambda x: features(x, rate),
        ),
    )


def read(text: str, length: int, rate: int) -> np.ndarray:
    """'a.wav' or 'a.wav,b.wav' -> clips [k, length, 1], standardised, with silence after what is shorter.

    Raises OSError for a file that is no whole WAV, ValueError for one of another rate, too long, silent or with samples
    that are no sound; both name it.
    """

    def clip(file: str) -> np.ndarray:
        samples = read_wav(file, rate)
        if len(samples) > length:
            seconds, most = len(samples) / rate, length / rate
            raise ValueError(f"{file} lasts {seconds:.2f} s, a clip {most:.2f} s: sox IN OUT trim 0 {most:.2f}")
        try:
            return standardised(samples, length)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    return np.stack([clip(file) for file in split_paths(text)])


def save(x: np.ndarray, path: Path, rate: int) -> Path:
    """A clip [length, 1] -> path.wav, 16 bit, as loud as it goes, without the zeros after its end."""
    from scipy.io import wavfile

    file, samples = Path(f"{path}.wav"), np.trim_zeros(x[:, 0], "b")
    wavfile.write(file, rate, np.rint(samples / np.abs(samples).max(initial=1e-9) * 32767).astype(np.int16))
    return file


def show(x: np.ndarray) -> np.ndarray:
    """Clips [k, length, 1] -> pictures of their spectra [k, 64, frames, 1]: low notes below, black to white 60 dB."""
    energy = spectrogram(x, WINDOW)[..., 1:]
    loudest = energy.max((1, 2), keepdims=True) + 1e-12
    decibel = 10 * np.log10(energy / loudest + 1e-12)
    picture = np.clip(255 * (1 + decibel / 60), 0, 255).astype(np.uint8)
    return picture.swapaxes(1, 2)[:, ::-1, :, None]


def features(x: np.ndarray, rate: int, frames: int = 20, bands: int = 24, floor: float = 0.01) -> np.ndarray:
    """Clips [k, length, 1] -> [k, frames bands], the log-mel spectrum: what a window holds in bands of equal mel width.

    Relative to the mean of the clip, with a floor, below which nobody would hear a difference.
    """
    hop = -(-x.shape[1] // (frames - 1))
    energy = spectrogram(x, 2 * hop)
    energy = energy @ mel(energy.shape[-1], rate, bands).T
    energy /= energy.mean((1, 2), keepdims=True) + 1e-12
    return np.log10(energy + floor).reshape(len(x), -1)
