"""Block-causal context: the past of a stream, whose groups are generated one by one, each given those before it.

p(x) = prod_b p(x_b | x_<b), each factor by diffusion: block diffusion (BD3-LM, Arriola et al. 2025, arXiv 2503.09573).
One group is plain diffusion, and groups of one token are an autoregressive model.
"""

from __future__ import annotations

import dataclasses

from dit_jax.diffusion.levels import dropout
from dit_jax.diffusion.stream import Stream, View
from dit_jax.schema import checks


@checks
def past(stream: Stream, of: str = "text") -> Stream:
    """A clean copy of `stream`, whose name is `of`: group b of the stream sees groups < b of its past, and of its own
    tokens those of group b only; group b of the past sees groups <= b of the past."""
    return dataclasses.replace(stream, past_of=of, levels=dropout(rate=0.0), head=None, view=View())
