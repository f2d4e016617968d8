"""Fashion-MNIST: 28 x 28, ten classes of clothes, 60,000 real images through the stock TFDS builder.

python -m dit_jax.prepare fashion_mnist
python -m dit_jax.train --config=fashion_mnist --workdir=runs/fashion_mnist

Trains and draws on two CPU cores, at about 100 img/s; the whole run has not been made yet, so there are no scores.
"""

from dit_jax.config import default, stream


def get_config():
    config = default()
    config.streams = {
        "image": stream("image", shape=(28, 28, 1), patch=4),
        "label": stream("label", classes=10),
    }
    config.model.update(width=192, depth=6, heads=6, block="modern")
    config.data.name = "fashion_mnist"
    config.data.batch_size = 128
    config.data.augment = "flip"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup = 100
    config.train.steps = 10_000
    config.train.ema = 0.999
    config.sample.every = 1000
    config.sample.given = ("label=all",)
    config.sample.num = 100
    config.sample.guidance = 1.5
    return config
