"""Diffusion transformers in JAX: a sample is a dict of streams, and one transformer denoises them all."""

from dit_jax import streams
from dit_jax.diffusion.guidance import classifier_free
from dit_jax.diffusion.objective import loss
from dit_jax.diffusion.sampler import sample
from dit_jax.network.dit import DiT

__all__ = ["DiT", "classifier_free", "loss", "sample", "streams"]
