"""Clips of 16 frames of 64 x 64 latents, 16,384 tokens each, by DiT-XL with factorised attention: for plans."""

from dit_jax.config import default, stream
from dit_jax.network.dit import SIZES


def get_config():
    config = default()
    config.streams = {
        "clip": stream("video", shape=(16, 64, 64, 4), patch=(1, 2, 2)),
        "label": stream("label", classes=1000),
    }
    config.model.width, config.model.depth, config.model.heads = SIZES["XL"]
    config.model.update(attention="factorised", dtype="bfloat16", remat="full")
    config.data.update(name="synthetic", batch_size=256)
    config.train.steps = 400_000
    return config
