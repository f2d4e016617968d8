"""ImageNet 256 x 256 in the latents of SD-VAE: the published sizes and recipe of DiT and SiT.

python train.py --config=configs/imagenet256.py:dit_xl2 --workdir=runs/xl2

Variants dit_s2, dit_s4, dit_s8, dit_b2 ... dit_xl8: width, depth and heads as published, at patch 2, 4 or 8. Velocity
prediction on straight paths with uniform levels is SiT (arXiv 2401.08740); batch 256, AdamW at 1e-4, no decay, EMA
0.9999. The data are synthetic latents, to find out what fits and how fast it runs, until real ones are prepared. No
full run has been made yet.
"""

from dit_jax.config import default, stream
from dit_jax.network.dit import SIZES

VARIANTS = {f"dit_{size.lower()}{patch}": (size, patch) for size in SIZES for patch in (2, 4, 8)}


def get_config(variant: str = "dit_b4"):
    if variant not in VARIANTS:
        raise ValueError(f"imagenet256 has no variant {variant!r}; there are: {', '.join(VARIANTS)}")
    size, patch = VARIANTS[variant]
    config = default()
    config.streams = {
        "image": stream("image", shape=(32, 32, 4), patch=patch, prediction="velocity", levels="uniform()"),
        "label": stream("label", classes=1000),
    }
    config.model.width, config.model.depth, config.model.heads = SIZES[size]
    config.model.dtype = "bfloat16"
    config.data.name = "synthetic"
    config.data.batch_size = 256
    config.data.threads = 8
    config.optimizer.learning_rate = 1e-4
    config.train.steps = 400_000
    config.train.ema = 0.9999
    config.train.log_every = 100
    config.checkpoint.every = 10_000
    config.sample.given = ("label=all",)
    config.sample.steps = 50
    return config
