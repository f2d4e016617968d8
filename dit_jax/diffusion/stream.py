"""A stream is one named part of a sample; a sample is a dict of them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.levels import Quantile
from dit_jax.diffusion.masked import Masked, Reveal
from dit_jax.diffusion.span import Span

Process = Gaussian | Masked | Span
Processes = dict[str, Process]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """What the mathematics, the network and the shell each need to know about one part of a sample.

    shape: of one example. process: how it is noised. levels: where training looks (see levels.py).
    positions: [n, 3] (time, row, column) of its tokens, or None for a stream that modulates all others instead, as
    a class label does. embed: (width, dtype, name) -> linen module from the noised array to tokens [B, n, width], or to
    the modulation vector [B, width]. head: likewise, from tokens to the prediction; None for a stream that is only ever
    given. groups: into how many parts with levels of their own the first axis divides, as a clip does into frames.
    copies: of a past, the stream that it is the past of. ends: of a duration, the stream that it is the duration of.

    read: text from the shell -> examples [k, *shape]. show: examples [k, *shape] -> what a person sees of each:
    pictures [k, height, width, 1 or 3] in 0 ... 255, or k words. save: (example [*shape], path without a suffix) -> the
    file that it has written, for what is heard or moves. spell: of text, examples [k, *shape] -> k byte strings, which
    are exactly what they say. features: examples [k, *shape] -> [k, d], by which judges tell them apart. codec: of
    latents, the sha256 of their VAE; of a byte-pair encoding, its merges.
    """

    shape: tuple[int, ...]
    process: Process
    levels: Quantile
    embed: Callable[..., Any]
    positions: np.ndarray | None = None
    head: Callable[..., Any] | None = None
    groups: int = 1
    copies: str = ""
    ends: str = ""
    read: Callable[[str], np.ndarray] | None = None
    show: Callable[[np.ndarray], np.ndarray | list[str]] | None = None
    save: Callable[[np.ndarray, Path], Path] | None = None
    spell: Callable[[np.ndarray], list[bytes]] | None = None
    features: Callable[[np.ndarray], np.ndarray] | None = None
    codec: str = ""


Streams = dict[str, Stream]


def check_tokens(streams: Streams, x: dict[str, Any], what: str, hidden: bool = False) -> None:
    """Raises ValueError if masked streams in x hold a token that does not exist or, unless `hidden` ones are allowed,
    the mask. Arrays that are being traced are not looked into."""
    for name, stream in streams.items():
        if not isinstance(stream.process, Masked) or name not in x or isinstance(x[name], jax.core.Tracer):
            continue
        values, most = np.asarray(x[name]), stream.process.vocabulary - (not hidden)
        wrong = values[(values < 0) | (values > most)]
        if wrong.size:
            raise ValueError(f"{what}: {name} holds {wrong[0]}, and its values are 0 ... {most}")


def in_data(streams: Streams) -> Streams:
    """The streams that a data set has to have: all but the span and what copies others."""
    return {name: s for name, s in streams.items() if not isinstance(s.process, Span) and not s.copies}


def revealing(streams: Streams, reveal: Reveal) -> Streams:
    """The same streams, whose hidden tokens samplers show by this rule, such as a row of masked.REVEALS."""
    replace = dataclasses.replace
    masked = {name: stream for name, stream in streams.items() if isinstance(stream.process, Masked)}
    return streams | {k: replace(s, process=replace(s.process, reveal=reveal)) for k, s in masked.items()}


def with_copies(streams: Streams, x: dict[str, Any]) -> dict[str, Any]:
    """x {name: [B, *shape]}, and in it every copy of what it has."""
    return {**x, **{name: x[stream.copies] for name, stream in streams.items() if stream.copies in x}}


def valid_mask(streams: Streams, x: dict[str, Any]) -> dict[str, Any]:
    """Which places along their first axis streams with a duration have before their end: {name: [B, length] bool}. The
    first always is, so that there is something to attend to; a hidden duration is longer than any."""
    lengths = {s.ends: (x[name], streams[s.ends].shape[0]) for name, s in streams.items() if s.ends}
    return {name: np.arange(length) < jnp.maximum(values, 1)[:, None] for name, (values, length) in lengths.items()}


def steps_in_time(stream: Stream) -> int:
    """How many tokens a stream has along time, its first axis: patches of a waveform, tubelets of a clip."""
    assert stream.positions is not None
    return len(np.unique(stream.positions[:, 0]))


def generation_order(streams: Streams) -> dict[str, np.ndarray]:
    """When the groups of each stream are drawn, {name: []}, and {name: [G]} for those with a past and for their pasts,
    whose groups follow one another, 1 ... G; whatever has none comes before, at 0."""
    apart = {name for s, stream in streams.items() if stream.copies for name in (s, stream.copies)}
    return {name: np.arange(1, s.groups + 1) if name in apart else np.array(0) for name, s in streams.items()}
