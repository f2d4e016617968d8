"""A folder of images, one subfolder a class: 32 x 32 in colour, for a few hundred photographs or more.

python -m dit_jax.train --config=folder --config.data.name=DIR --config.streams.label.classes=N --workdir=runs/folder

How many classes and pixels is yours to say. It has not been trained at length, so there are no scores. After 200
updates, five minutes on one core, drawings of three kinds of things can be told from each other.
"""

from dit_jax.config import default, stream


def get_config():
    config = default()
    config.streams = {
        "image": stream("image", shape=(32, 32, 3), patch=4),
        "label": stream("label", classes=3),
    }
    config.model.update(width=192, depth=6, heads=6, block="modern")
    config.data.name = "images"
    config.data.augment = "flip"
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup = 100
    config.train.steps = 10_000
    config.checkpoint.every = 500
    config.sample.every = 500
    config.sample.given = ("label=all",)
    config.sample.num = 36
    config.sample.guidance = 1.5
    return config
