"""Spoken digits that are each as long as they are: a duration ends a clip, and what would come after is not there.

python -m dit_jax.prepare audio_digits
python train.py --config=configs/audio_digits_lengths.py --workdir=runs/audio_digits_lengths
python sample.py --workdir=runs/audio_digits_lengths --given=label=7 --given=duration=2500,4000 --num=8
"""

from configs import audio_digits
from dit_jax.config import stream


def get_config():
    config = audio_digits.get_config()
    config.streams = {**config.streams, "duration": stream("duration", of="speech")}
    return config
