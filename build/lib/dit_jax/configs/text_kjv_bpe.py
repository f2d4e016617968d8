"""The King James Bible in tokens of a byte-pair encoding: 1,024 of them, 3.1 bytes each, in pieces of 128.

python -m dit_jax.prepare kjv_bpe
python -m dit_jax.train --config=text_kjv_bpe --workdir=runs/text_kjv_bpe
python -m dit_jax.sample --workdir=runs/text_kjv_bpe --given='text=In the beginning*' --out=runs/text_kjv_bpe/samples
python -m dit_jax.evaluate --workdir=runs/text_kjv_bpe --num=64

kjv_bpe.txt holds the merges that the first command learns from the train split, as they are in the metadata.json of
its data set. Scores are in bits a byte, so that they compare with those of text_kjv. Not trained at length yet.
"""

from pathlib import Path

from dit_jax.config import stream
from dit_jax.configs import text_kjv

MERGES = Path(__file__).with_name("kjv_bpe.txt").read_text().strip()


def get_config():
    config = text_kjv.get_config()
    config.streams = {"text": stream("text", length=128, merges=MERGES)}
    config.data.name = "kjv_bpe"
    config.sample.steps = 128
    return config
