"""Sound: a waveform along time, in patches, without a codec (as in WavTTS, arXiv 2606.03455)."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.data.sound import read_wav, standardised
from dit_jax.diffusion.ddpm import PROCESSES
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.levels import LEVELS, Quantile
from dit_jax.diffusion.stream import Stream, View
from dit_jax.names import choose
from dit_jax.network.tokens import TIME, grid_shape, positions
from dit_jax.schema import called
from dit_jax.streams.image import PatchEmbed, PatchHead


def mdct(x: Array, patch: int) -> Array:
    """[B, length, C] -> [B, length, C]: each run of `patch` samples and the next, under a sine window, as `patch`
    cosines (modified discrete cosine transform, Princen & Bradley 1986). The clip is a circle, so it is orthonormal."""
    runs = x.reshape(len(x), -1, patch, x.shape[-1])
    pairs = jnp.concatenate([runs, jnp.roll(runs, -1, 1)], 2)
    return jnp.einsum("brnc,nk->brkc", pairs, cosines(patch)).reshape(x.shape)


def inverse_mdct(x: Array, patch: int) -> Array:
    """The inverse of `mdct`: what a run's two halves alias, its neighbours cancel."""
    halves = jnp.einsum("brkc,nk->brnc", x.reshape(len(x), -1, patch, x.shape[-1]), cosines(patch))
    return (halves[:, :, :patch] + jnp.roll(halves[:, :, patch:], 1, 1)).reshape(x.shape)


def cosines(patch: int) -> np.ndarray:
    """[2 patch, patch]: the windowed cosines of `mdct`, one a column."""
    n, k = np.arange(2 * patch)[:, None] + 0.5, np.arange(patch) + 0.5
    return np.sqrt(2 / patch) * np.sin(np.pi * n / (2 * patch)) * np.cos(np.pi / patch * (n + patch / 2) * k)


BASES: dict[str, tuple[Callable, Callable]] = {
    "samples": (lambda x, patch: x, lambda x, patch: x),
    "mdct": (mdct, inverse_mdct),
}


def audio(
    length: int,
    patch: int = 64,
    rate: int = 8000,
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
            save=lambda x, path: save(x, path, rate),
            features=lambda x: features(x, rate),
        ),
    )


def read(text: str, length: int, rate: int) -> np.ndarray:
    """'a.wav' or 'a.wav,b.wav' -> clips [k, length, 1], standardised, with silence after what is shorter.

    Raises OSError for a file that is no WAV, ValueError for one of another rate, too long or silent; both name it.
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

    return np.stack([clip(file) for file in text.split(",")])


def save(x: np.ndarray, path: Path, rate: int) -> Path:
    """A clip [length, 1] -> path.wav, 16 bit, as loud as it goes, without the zeros after its end."""
    from scipy.io import wavfile

    file, samples = Path(f"{path}.wav"), np.trim_zeros(x[:, 0], "b")
    wavfile.write(file, rate, np.rint(samples / np.abs(samples).max(initial=1e-9) * 32767).astype(np.int16))
    return file


def show(x: np.ndarray) -> np.ndarray:
    """Clips [k, length, 1] -> pictures of their spectra [k, 64, frames, 1]: low notes below, black to white 60 dB."""
    energy = spectrogram(x, 128)[..., 1:]
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


def spectrogram(x: np.ndarray, window: int) -> np.ndarray:
    """Clips [k, length, 1] -> energies [k, frames, window / 2 + 1] that sum to that of the clip.

    Frames overlap by half; the squares of their sine windows sum to 1 (Princen & Bradley 1986).
    """
    hop = window // 2
    padded = np.pad(x[..., 0], ((0, 0), (hop, hop + -x.shape[1] % hop)))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window, axis=1)[:, ::hop]
    spectrum = np.fft.rfft(frames * np.sin(np.pi * (np.arange(window) + 0.5) / window), norm="ortho")
    twice = np.where(np.arange(hop + 1) % hop == 0, 1, 2)  # all frequencies but 0 and the highest have a conjugate
    return twice * np.abs(spectrum) ** 2


def mel(bins: int, rate: int, bands: int) -> np.ndarray:
    """[bands, bins]: which share of each bin, of 0 ... rate / 2, lies in each band; bands are equally wide in mel,
    2595 lg(1 + f / 700 Hz) (O'Shaughnessy 1987).
    """
    top = np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** np.linspace(0, top, bands + 1) - 1) / (rate / 2) * bins
    return np.diff(np.clip(edges[:, None] - np.arange(bins), 0, 1), axis=0)
