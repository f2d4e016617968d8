"""ImageNet 256 x 256 in the latents of SD-VAE: the published sizes and recipes of DiT and SiT.

python -m dit_jax.prepare imagenet256 --source=DIR --vae=FILE
python -m dit_jax.train --config=imagenet256:sit_xl2 --workdir=runs/xl2 --config.data.name=imagenet256 \
    --config.streams.image.codec=HASH

Variants dit_s2, dit_s4, dit_s8, dit_b2 ... dit_xl8 and sit_s2 ... sit_xl8: width, depth and heads as published, at
patch 2, 4 or 8. DiT (arXiv 2212.09748) learns the noise and the variance of DDPM's 1,000 steps, SiT (arXiv 2401.08740)
the velocity of straight paths. Both recipes are the published ones, number by number below, and draw with the papers'
samplers (docs/papers.md). The data are synthetic latents, to find out what fits and how fast it runs, until they are
given as above. No full run has been made yet.
"""

from dit_jax.config import default, stream
from dit_jax.network.dit import SIZES

RECIPES = {
    "dit": ({"process": "ddpm()", "levels": "steps()"}, {"solver": "ancestral", "grid": "timesteps"}),
    "sit": (
        {"process": "gaussian(prediction='velocity')", "levels": "uniform()"},
        {"solver": "euler_maruyama", "grid": "long_last"},
    ),
}
VARIANTS = {
    f"{recipe}_{size.lower()}{patch}": (recipe, size, patch)
    for recipe in RECIPES
    for size in SIZES
    for patch in (2, 4, 8)
}


def get_config(variant: str = "dit_b4"):
    if variant not in VARIANTS:
        raise ValueError(f"imagenet256 has no variant {variant!r}; there are: {', '.join(VARIANTS)}")
    recipe, size, patch = VARIANTS[variant]
    learned, drawn = RECIPES[recipe]
    config = default()
    config.streams = {
        "image": stream("image", shape=(32, 32, 4), patch=patch, **learned),
        "label": stream("label", classes=1000),
    }
    config.model.width, config.model.depth, config.model.heads = SIZES[size]
    config.model.dtype = "bfloat16"  # products only; both codebases: float32, with TF32 products
    config.data.name = "synthetic"
    config.data.batch_size = 256  # DiT, sec. 4
    config.data.augment = "flip"  # DiT, sec. 4: horizontal flips, the only augmentation
    config.data.threads = 8
    config.optimizer.learning_rate = 1e-4  # DiT, sec. 4: constant, no warm-up, no weight decay
    config.optimizer.b2 = 0.999  # PyTorch's AdamW, which both codebases call with its default betas (0.9, 0.999)
    config.optimizer.clip = float("inf")  # neither clips gradients
    config.train.steps = 400_000  # DiT, fig. 5 and table 4; the best models took 7 million
    config.train.ema = 0.9999  # DiT, sec. 4
    config.train.log_every = 100
    config.checkpoint.every = 10_000
    config.sample.update(given=("label=random",), steps=250, guidance=1.5, channels=3, **drawn)
    config.sample.update(every=10_000, num=16)  # pictures in training are the first three channels of latents
    return config
