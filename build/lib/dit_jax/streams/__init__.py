"""Leaves: one file a modality."""

from dit_jax.streams.audio import audio
from dit_jax.streams.duration import duration
from dit_jax.streams.image import image
from dit_jax.streams.label import label
from dit_jax.streams.past import past
from dit_jax.streams.span import span
from dit_jax.streams.text import text
from dit_jax.streams.video import video

__all__ = ["audio", "duration", "image", "label", "past", "span", "text", "video"]
