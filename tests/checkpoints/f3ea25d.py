"""The config of f3ea25d.tar.xz, a run at commit f3ea25d: its checkpoint of 2 updates, and what came out of it there.

python train.py --config=f3ea25d.py --workdir=W --config.train.steps=2  # checkpoints/2
python sample.py --workdir=W --num=3  # expected.npz: text, image, label
python train.py --config=f3ea25d.py --workdir=W --config.train.steps=4  # expected.npz: params/PATH
"""

from dit_jax.config import default, stream


def get_config():
    config = default()
    config.streams = {
        "text": stream("text", length=4, blocks=2),
        "past": stream("past"),
        "image": stream("image", shape=(4, 4, 1)),
        "label": stream("label", classes=3),
    }
    config.model.update(width=8, depth=1, heads=1, block="modern", experts="streams", weights="learned")
    config.data.name = "synthetic"
    config.data.batch_size = 4
    config.optimizer.name = "muon"
    config.optimizer.warmup = 3
    config.train.levels = "corners"
    config.train.log_every = 1
    config.sample.given = ("label=all",)
    config.sample.steps = 2
    config.sample.guidance = 1.3
    return config
