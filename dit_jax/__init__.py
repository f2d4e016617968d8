"""Diffusion transformers in JAX: a sample is a dict of streams, and one transformer denoises them all."""

import importlib
from typing import Any

from dit_jax import streams
from dit_jax.diffusion.ddpm import DDPM
from dit_jax.diffusion.encode import encode
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.grids import GRIDS
from dit_jax.diffusion.guidance import autoguidance, classifier_free
from dit_jax.diffusion.interpolate import slerp
from dit_jax.diffusion.likelihood import log_likelihood
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.objective import OBJECTIVES, loss
from dit_jax.diffusion.process import Process
from dit_jax.diffusion.sampler import sample
from dit_jax.diffusion.solvers import SOLVERS
from dit_jax.diffusion.stream import Stream, View
from dit_jax.network.dit import DiT
from dit_jax.network.taps import Edit, edited, tapped

__all__ = [
    "DDPM",
    "GRIDS",
    "OBJECTIVES",
    "SOLVERS",
    "DiT",
    "Edit",
    "Gaussian",
    "Masked",
    "Process",
    "Stream",
    "View",
    "autoguidance",
    "classifier_free",
    "config",
    "edited",
    "encode",
    "log_likelihood",
    "loss",
    "restore_run",
    "sample",
    "slerp",
    "streams",
    "tapped",
]


def __getattr__(name: str) -> Any:
    """Configs and checkpoints, which take seconds to import, and which the mathematics does without."""
    if name == "config":
        return importlib.import_module("dit_jax.config")
    if name == "restore_run":
        return importlib.import_module("dit_jax.restore").restore_run
    raise AttributeError(f"module 'dit_jax' has no attribute {name!r}")
