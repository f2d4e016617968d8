"""Drum hits of six kinds from seven kits: 0.51 s at 16 kHz, as raw waveforms in 64 tokens of 8 ms.

On Debian and Ubuntu:
apt install hydrogen-drumkits
pip install soundfile==0.14.0
python -m dit_jax.prepare audio_drums
python train.py --config=configs/audio_drums.py --workdir=runs/audio_drums
python sample.py --workdir=runs/audio_drums --given=label=0 --num=8
"""

from dit_jax.config import default, stream


def get_config():
    config = default()
    config.streams = {
        "sound": stream("audio", length=8192, patch=128, rate=16000),
        "label": stream("label", classes=6),
    }
    config.model.update(width=128, depth=4, heads=4, block="modern")
    config.data.name = "audio_drums"
    config.data.batch_size = 32
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.decay = "linear"
    config.train.steps = 2000
    config.train.ema = 0.998
    config.sample.given = ("label=all",)
    config.sample.num = 60
    config.sample.batch = 250
    config.sample.guidance = 2.0
    return config
