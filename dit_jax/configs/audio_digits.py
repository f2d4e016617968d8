"""Ten spoken digits in 40 synthetic voices: 0.64 s at 8 kHz, as raw waveforms in 40 tokens of 16 ms.

python -m dit_jax.prepare audio_digits
python -m dit_jax.train --config=audio_digits --workdir=runs/audio_digits

One core of a busy machine, 33 min: label agreement 97.6 %, with guidance 2 99.6 %, where a judge of held-out voices
sees 99.7 % in the real clips; pocketsphinx understands 81 %, with guidance 2 87 %, and 70 % of the real clips (8 kHz is
little for it); Frechet distance 78.8 and 83.3, where the real train split has 25.9 (commit 45c7b5b, 2026-11-24,
`python -m dit_jax.evaluate --workdir=runs/audio_digits --num=500 --guidance=1,2`).

Of ten recordings of a woman's voice, the split recorded, the judge knows 6 and pocketsphinx 9 (LOG.md).

Trials of 500 updates on five voices, 100 samples with guidance 2 each: label agreement 58 %; with levels
logit_normal(mean=0.0, std=1.0) 21 %; with patch=256 and 900 updates, in about as long, 75 %, but a patch of more
samples than the network is wide cannot hold them all.
"""

from dit_jax.config import default, stream


def get_config():
    config = default()
    config.streams = {
        "speech": stream("audio", length=5120, patch=128, rate=8000),
        "label": stream("label", classes=10),
    }
    config.model.update(width=128, depth=4, heads=4, block="modern")
    config.data.name = "audio_digits"
    config.data.batch_size = 32
    config.optimizer.name = "muon"
    config.optimizer.learning_rate = 4e-3
    config.optimizer.decay = "linear"
    config.train.steps = 8000
    config.train.ema = 0.998
    config.sample.every = 2000
    config.sample.given = ("label=all",)
    config.sample.num = 100
    config.sample.batch = 250
    config.sample.guidance = 2.0
    return config
