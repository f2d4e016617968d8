"""Spectra of sound: the MDCT and its inverse, energy spectrograms, and the mel filterbank."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array


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
