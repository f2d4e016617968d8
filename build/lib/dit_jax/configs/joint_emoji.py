"""An emoji moving, still, written and spoken: four streams, any of which may be given.

pip install espeakng-loader==0.2.4 python -m dit_jax.prepare emoji  # fetches 0.8 GB by npm python -m dit_jax.train
--config=joint_emoji --workdir=runs/joint_emoji python -m dit_jax.sample --workdir=runs/joint_emoji --num=8
--out=runs/joint_emoji/samples python -m dit_jax.sample --workdir=runs/joint_emoji --given='name=raised fist, dark'
--guidance=2 --out=runs/joint_emoji/fist python -m dit_jax.sample --workdir=runs/joint_emoji --given=still=rocket.png
--out=runs/joint_emoji/rocket

Sizes are for a GPU, or much patience. No full run has been made yet.
"""

from dit_jax.config import stream
from dit_jax.configs import video_emoji


def get_config():
    config = video_emoji.get_config()
    config.streams.still = stream("image", shape=(32, 32, 3), patch=4)
    config.streams.speech = stream("audio", length=16384, patch=128, rate=8000)
    return config
