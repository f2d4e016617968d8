"""A stream is one named part of a sample, such as an image or its label; a sample is a dict of them."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion.keys import fold, stream_id
from dit_jax.diffusion.levels import Quantile
from dit_jax.diffusion.masked import Reveal
from dit_jax.diffusion.process import Process

Arrays = dict[str, Array]  # of each stream, [B, *shape]: clean or noised values, or predictions
Levels = dict[str, Array]  # of each stream, the noise level t in [0, 1]: [B], or [B, G] for one in groups
Predict = Callable[[Arrays, Levels], Arrays]  # a denoiser: what it predicts of each stream with a head

Processes = dict[str, Process]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """How a stream meets people and judges; the mathematics never asks.

    read: text from the shell -> examples [k, *shape]. show: examples [k, *shape] -> what a person sees of each:
    pictures [k, height, width, 1 or 3] in 0 ... 255, or k words. save: (example [*shape], path without a suffix) -> the
    file that it has written, for what is heard or moves. to_bytes: of text, examples [k, *shape] -> k byte strings,
    which are exactly what they say. features: examples [k, *shape] -> [k, d], by which judges tell them apart. named:
    of labels, names of all classes -> the view that reads and shows these. crop: of pictures, what `read` does, but for
    files of any size, of which as much is taken as of those that are trained on.
    """

    read: Callable[[str], np.ndarray] | None = None
    show: Callable[[np.ndarray], np.ndarray | list[str]] | None = None
    save: Callable[[np.ndarray, Any], Any] | None = None
    to_bytes: Callable[[np.ndarray], list[bytes]] | None = None
    features: Callable[[np.ndarray], np.ndarray] | None = None
    named: "Callable[[Sequence[str]], View] | None" = None
    crop: Callable[[str], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """A modality, or a conditioning signal: what the mathematics and the network need to know of one part of a sample.

    shape: of one example. process: how it is noised. levels: the distribution of noise levels in training, by its
    quantile function (see levels.py). positions: [n, 3] (time, row, column) of its tokens, or None for a stream that
    modulates all others instead, as a class label does. embed: (width, dtype, name) -> linen module from the noised
    array to tokens [B, n, width], or to the modulation vector [B, width]. head: likewise, from tokens to the
    prediction; None for a stream that is only ever given. groups: into how many parts with levels of their own the
    first axis divides, as a clip does into frames. past_of: of a past, the stream that it is a clean copy of.
    duration_of: of a duration, the stream whose length it is. codec_id: of latents, the sha256 of their VAE; of a
    byte-pair encoding, its merges. view: how people and judges meet it.
    """

    shape: tuple[int, ...]
    process: Process
    levels: Quantile
    embed: Callable[..., Any]
    positions: np.ndarray | None = None
    head: Callable[..., Any] | None = None
    groups: int = 1
    past_of: str = ""
    duration_of: str = ""
    codec_id: str = ""
    view: View = View()


Streams = dict[str, Stream]


def drawable(streams: Streams) -> Streams:
    """The streams that the network predicts, and that can therefore be drawn."""
    return {name: stream for name, stream in streams.items() if stream.head is not None}


def in_data(streams: Streams) -> Streams:
    """The streams that a data set has to have: all but the span and what is a past of others."""
    return {name: s for name, s in streams.items() if s.process.in_data and not s.past_of}


def check_values(streams: Streams, x: dict[str, Any], what: str, masks: bool = False) -> None:
    """Raises ValueError for values in x that no data can have, such as tokens that do not exist. masks: whether hidden
    ones may be among them. Arrays that are being traced are not looked into."""
    for name, stream in streams.items():
        if name not in x or isinstance(x[name], jax.core.Tracer):
            continue
        try:
            stream.process.check(x[name], masks)
        except ValueError as error:
            raise ValueError(f"{what}: {name} {error}") from None


def corrupt(streams: Streams, keys: Array, batch: Arrays, t: Levels) -> tuple[Arrays, Arrays]:
    """The forward process of a sample: ({name: noised}, {name: target}) at levels t. A condition that no data hold,
    such as the span, is absent unless the batch has it. Raises ValueError for any other stream that the batch lacks."""
    noised, targets, batch = {}, {}, with_pasts(streams, batch)
    for name, stream in streams.items():
        stream_keys = fold(keys, stream_id(name))
        if name in batch:
            noised[name], targets[name] = stream.process.corrupt(stream_keys, batch[name], t[name])
        elif not stream.process.in_data:
            noised[name] = stream.process.prior(stream_keys, stream.shape)
        else:
            raise ValueError(f"the batch has no {name!r}; it has {', '.join(batch)}")
    return noised, targets


def revealing(streams: Streams, reveal: Reveal) -> Streams:
    """The same streams, whose hidden tokens samplers show by this rule, such as a row of masked.REVEALS."""
    return {name: dataclasses.replace(s, process=s.process.with_reveal(reveal)) for name, s in streams.items()}


def with_pasts(streams: Streams, x: dict[str, Any]) -> dict[str, Any]:
    """x {name: [B, *shape]}, and in it the past of every stream that it has."""
    return {**x, **{name: x[stream.past_of] for name, stream in streams.items() if stream.past_of in x}}


def valid_mask(streams: Streams, x: dict[str, Any]) -> dict[str, Any]:
    """Padding masks: which values along their first axis streams with a duration have before their end, {name:
    [B, length] bool}. The first always is, so that there is something to attend to; a hidden duration is longer than
    any."""
    lengths = {
        s.duration_of: (x[name], streams[s.duration_of].shape[0]) for name, s in streams.items() if s.duration_of
    }
    return {name: np.arange(length) < jnp.maximum(values, 1)[:, None] for name, (values, length) in lengths.items()}


def steps_in_time(stream: Stream) -> int:
    """How many tokens a stream has along time, its first axis: patches of a waveform, tubelets of a clip."""
    assert stream.positions is not None
    return len(np.unique(stream.positions[:, 0]))


def generation_order(streams: Streams) -> dict[str, np.ndarray]:
    """When the groups of each stream are drawn, {name: []}, and {name: [G]} for those with a past and for their pasts,
    whose groups follow one another, 1 ... G; whatever has none comes before, at 0."""
    apart = {name for s, stream in streams.items() if stream.past_of for name in (s, stream.past_of)}
    return {name: np.arange(1, s.groups + 1) if name in apart else np.array(0) for name, s in streams.items()}
