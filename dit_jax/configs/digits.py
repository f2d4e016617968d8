"""scikit-learn's bundled digits: 8 x 8, ten classes, 899 real images to train on; no download.

python -m dit_jax.train --config=digits --workdir=runs/digits

Two CPU cores, 1 min 5 s with sampling and scores: label agreement 99.1 %, with guidance 1.5 100 %; Frechet distance to
held-out digits in pixels 0.649, where the real training half has 0.282 (`make demo`, commit 0904781, 2026-11-25).
"""

from dit_jax.config import default, stream


def get_config():
    config = default()
    config.streams = {
        "image": stream("image", shape=(8, 8, 1), patch=2, levels="uniform()"),
        "label": stream("label", classes=10),
    }
    config.model.update(width=96, depth=4, heads=3, block="modern")
    config.data.name = "digits"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.decay = "linear"
    config.train.steps = 1500
    config.train.ema = 0.995
    config.sample.every = 500
    config.sample.given = ("label=all",)
    config.sample.num = 100
    config.sample.batch = 250
    config.sample.solver = "ancestral"
    return config
