"""The King James Bible in blocks of 16 bytes: each by masked diffusion, given all those before it (BD3-LM).

python -m dit_jax.prepare kjv python -m dit_jax.train --config=text_kjv_blocks --workdir=runs/text_kjv_blocks python -m
dit_jax.sample --workdir=runs/text_kjv_blocks --given='text=In the beginning*' --out=runs/text_kjv_blocks/samples
"""

from dit_jax.config import stream
from dit_jax.configs import text_kjv


def get_config():
    config = text_kjv.get_config()
    config.streams = {"text": stream("text", length=256, blocks=16), "past": stream("past")}
    config.sample.steps = 16  # of each block
    return config
