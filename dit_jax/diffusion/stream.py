"""A stream is one named part of a sample, such as an image or its label; a sample is a dict of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion.keys import fold, stream_id
from dit_jax.diffusion.levels import Quantile
from dit_jax.diffusion.masked import Reveal
from dit_jax.diffusion.process import Process
from dit_jax.names import check_names, closest

Arrays = dict[str, Array]  # of each stream, [B, *shape]: clean or noised values, or predictions
Levels = dict[str, Array]  # of each stream, the noise level t in [0, 1]: [B], or [B, G] for one in groups
Predict = Callable[[Arrays, Levels], Arrays]  # a denoiser: what it predicts of each stream with a head

Processes = dict[str, Process]


class Axis(NamedTuple):
    """What the columns of a picture stand for, or its rows from below: `start` the first, and each `step` more."""

    unit: str
    start: float
    step: float


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """How a stream meets people and judges; the mathematics never asks.

    read: text from the shell -> examples [k, *shape]. background: the colour below pictures that are read, where they
    are transparent. show: examples [k, *shape] -> what a person sees of each: pictures [k, height, width, 1 or 3] in
    0 ... 255, or k words. frame: how many columns a frame has, where a picture is several side by side. axes: what
    columns and rows of a picture stand for, such as seconds and hertz. save: (example [*shape], path without a suffix)
    -> the file that it has written, for what is heard or moves. to_bytes: of text, examples [k, *shape] -> k byte
    strings, which are exactly what they say. features: examples [k, *shape] -> [k, d], by which judges tell them apart.
    named: of labels, names of all classes -> the view that reads and shows these. crop: of pictures, what `read` does,
    but for files of any size, of which as much is taken as of those that are trained on.
    """

    read: Callable[[str], np.ndarray] | None = None
    background: str = "white"
    show: Callable[[np.ndarray], np.ndarray | list[str]] | None = None
    frame: int = 0
    axes: tuple[Axis, Axis] | None = None
    save: Callable[[np.ndarray, Any], Any] | None = None
    to_bytes: Callable[[np.ndarray], list[bytes]] | None = None
    features: Callable[[np.ndarray], np.ndarray] | None = None
    named: Callable[[Sequence[str]], View] | None = None
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
    byte-pair encoding, its merges. most: the largest magnitude that data have, with some room, and unit: how they are
    scaled, for errors about values beyond. view: how people and judges meet it.
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
    most: float = math.inf
    unit: str = ""
    view: View = View()

    @property
    def always_given(self) -> bool:
        """Whether training never hides this condition, so that there is no unconditional prediction without it: label
        dropout at a rate of 0."""
        if self.head is not None or self.past_of or not self.process.in_data:
            return False
        return not np.any(self.levels(np.nextafter(np.float32(1), np.float32(0))))  # the highest of all levels


Streams = dict[str, Stream]


def drawable(streams: Streams) -> Streams:
    """The streams that the network predicts, and that can therefore be drawn."""
    return {name: stream for name, stream in streams.items() if stream.head is not None}


def in_data(streams: Streams) -> Streams:
    """The streams that a data set has to have: all but the span and what is a past of others."""
    return {name: s for name, s in streams.items() if s.process.in_data and not s.past_of}


def check_arrays(
    streams: Streams, x: Mapping[str, Any], what: str, count: int | None = None, needed: Iterable[str] = ()
) -> None:
    """Raises ValueError unless x is {name: [B, *shape]} of the streams' shapes and types, with all that are needed.
    count: B, or None for that of the first. Nothing is computed: arrays may be traced."""
    if not isinstance(x, Mapping):
        raise ValueError(f"{what} should be a dict, {{stream: array}}, and is a {type(x).__name__}")
    if missing := [name for name in needed if name not in x]:
        close = closest(missing[0], x.keys() - streams.keys())
        hint = f"did you mean it by {close!r}?" if close else f"it has {', '.join(x) or 'nothing'}"
        raise ValueError(f"{what} has no {missing[0]!r}; {hint}")
    check_names(x, streams, f"{what}: the stream")
    for name, value in x.items():
        stream, array = streams[name], value if hasattr(value, "dtype") else np.asarray(value)
        if not array.shape or array.shape[1:] != stream.shape:
            wanted = ", ".join(["B", *map(str, stream.shape)])
            raise ValueError(f"{what}: {name} has the shape {array.shape}, and should have [{wanted}], of B examples")
        count = array.shape[0] if count is None else count
        if array.shape[0] != count:
            examples = f"{array.shape[0]} examples, and should have {count}, one for each sample"
            raise ValueError(f"{what}: {name} has {examples}")
        kind = jnp.integer if jnp.issubdtype(stream.process.dtype, jnp.integer) else jnp.floating
        if not jnp.issubdtype(array.dtype, kind):
            wanted = np.dtype(stream.process.dtype).name
            raise ValueError(f"{what}: {name} is {array.dtype}, and should be {wanted}{_unit(stream)}")


def check_values(streams: Streams, x: Mapping[str, Any], what: str, masks: bool = False) -> None:
    """Raises ValueError for values in x that no data can have, such as tokens that do not exist, and pixels in 0 ...
    255. masks: whether hidden ones may be among them, and noise. Arrays that are being traced are not looked into."""
    for name, stream in streams.items():
        if name not in x or isinstance(x[name], jax.core.Tracer):
            continue
        try:
            stream.process.check(x[name], masks)
        except ValueError as error:
            raise ValueError(f"{what}: {name} {error}") from None
        values = np.asarray(x[name])
        if not masks and stream.most < math.inf and (largest := np.abs(values).max(initial=0)) > stream.most:
            raise ValueError(f"{what}: {name} holds values up to {largest:.4g}{_unit(stream)}")


def check_inputs(streams: Streams, x: Mapping[str, Any], t: Mapping[str, Any]) -> None:
    """Raises ValueError for what no denoiser of these streams takes: x should be {name: [B, *shape]} of all of them,
    and t {name: [B] or [B, G]} in [0, 1] of those that have tokens."""
    check_arrays(streams, x, "x", needed=streams)
    check_values({name: s for name, s in streams.items() if s.process.vocabulary is not None}, x, "x", masks=True)
    count = np.shape(next(iter(x.values())))[0]
    check_names(t, streams, "t: the stream")
    for name, stream in streams.items():
        if name not in t:
            if stream.positions is None:  # nothing asks for its level
                continue
            raise ValueError(f"t has no {name!r}; it has {', '.join(t) or 'nothing'}")
        shape, tokens = np.shape(t[name]), 1 if stream.positions is None else len(stream.positions)
        if shape[:1] != (count,) or len(shape) > 2 or tokens % max(math.prod(shape[1:]), 1):
            wanted = f"({count},)" if stream.groups == 1 else f"({count},) or ({count}, {stream.groups})"
            raise ValueError(f"t: {name} has the shape {shape}, and should have {wanted}: a level of each example")
        if not isinstance(t[name], jax.core.Tracer):
            levels = np.ravel(t[name])
            if len(wrong := levels[~((levels >= 0) & (levels <= 1))]):
                raise ValueError(f"t: {name} holds {wrong[0]}, and levels are 0 ... 1: 0 is data, 1 is noise")


def _unit(stream: Stream) -> str:
    return f": {stream.unit}" if stream.unit else ""


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
