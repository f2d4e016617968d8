"""Diffusion transformers in JAX: a sample is a dict of streams, and one transformer denoises them all."""

from dit_jax import streams
from dit_jax.diffusion.encode import encode
from dit_jax.diffusion.guidance import autoguidance, classifier_free
from dit_jax.diffusion.interpolate import slerp
from dit_jax.diffusion.likelihood import log_likelihood
from dit_jax.diffusion.objective import loss
from dit_jax.diffusion.sampler import sample
from dit_jax.network.dit import DiT

__all__ = [
    "DiT",
    "autoguidance",
    "classifier_free",
    "encode",
    "log_likelihood",
    "loss",
    "sample",
    "slerp",
    "streams",
]
