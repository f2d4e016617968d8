"""Leaves: one file a modality."""

from dit_jax.streams.image import image
from dit_jax.streams.label import label

STREAMS = {"image": image, "label": label}

__all__ = ["STREAMS", "image", "label"]
