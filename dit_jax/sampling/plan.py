"""What is known of samples and what is to be drawn, checked before anything compiles."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from dit_jax.diffusion.rollout import check_overlap
from dit_jax.diffusion.stream import Streams, drawable
from dit_jax.run import SampleOptions
from dit_jax.sampling.given import read_given


class Order(NamedTuple):
    """Which streams are drawn, and when: what a sampler is compiled for."""

    prefix: tuple[tuple[str, int], ...]  # of a given stream, how many of its groups are given
    drawn: tuple[str, ...]
    first: tuple[str, ...]  # before the others, one by one
    could_be_drawn: tuple[str, ...]  # of which those not in `drawn` are marginalised out, and left out of samples


class Plan(NamedTuple):
    """given, known: {name: [k, *shape]}, whole values and those with gaps, which samples take in turn. start: what
    samples are at t = 1, {name: [num, *shape]}; such samples share all else, which is sample 0's."""

    order: Order
    given: dict[str, np.ndarray]
    known: dict[str, np.ndarray]
    start: dict[str, np.ndarray]

    def take(self, samples: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(rows, given, start) of samples [B]: whose randomness each has, and what is known of it, as
        `diffusion.sampler.sample` takes them."""
        rows = np.zeros_like(samples) if self.start else samples
        given, known = ({k: x[rows % len(x)] for k, x in values.items()} for values in (self.given, self.known))
        return rows, given, known | {name: values[samples] for name, values in self.start.items()}


def make_plan(
    streams: Streams,
    options: SampleOptions,
    examples: dict[str, np.ndarray] | None = None,
    start: dict[str, np.ndarray] | None = None,
) -> Plan:
    """Read what options.given names, and check that it can be drawn from.

    examples {name: [num, *shape]}: given beside options.given. start: see `Plan`. Raises ValueError for what cannot be
    read, where nothing is left to draw, and for streams that cannot be drawn, drawn first, guided or rolled out;
    OSError for a file that cannot be read.
    """
    read = read_given(streams, options.given)
    given = read.given | (examples or {})
    able = tuple(drawable(streams))
    left = tuple(name for name in able if name not in given or name in read.prefix)
    chosen = tuple(options.drawn) or able
    first = tuple(name for name in options.first if name in chosen)
    order = Order(tuple(sorted(read.prefix.items())), chosen, first, left)
    _check_order(streams, options, order, given)
    _check_rollout(streams, options, starts=bool(read.start or start))
    return Plan(order, given, read.start, start or {})


def _check_order(streams: Streams, options: SampleOptions, order: Order, given: dict) -> None:
    able = tuple(drawable(streams))
    if not order.could_be_drawn:
        raise ValueError(
            f"given = {' '.join(options.given)} leaves nothing to draw, which should be one of: {', '.join(able)}; "
            "leave one out, or give a part of it: the first groups by :prefix=K, or a text with a gap, *"
        )
    if not {*options.drawn} <= {*order.could_be_drawn}:
        raise ValueError(f"drawn = {','.join(options.drawn)} should be some of: {', '.join(order.could_be_drawn)}")
    if not {*options.first} <= {*able}:
        raise ValueError(f"first = {','.join(options.first)} should be some of what is drawn: {', '.join(able)}")
    if begun := [name for name in order.first if name in dict(order.prefix)]:
        raise ValueError(f"first = {','.join(options.first)}: {begun[0]} goes on from a given part, with all others")
    guiding = [name for name in (*given, *order.first) if not streams[name].duration_of]
    if isinstance(scale := options.scale(), dict) and not scale.keys() <= {*guiding}:
        names = ", ".join(sorted({*guiding})) or "none"
        raise ValueError(f"guidance = {options.guidance!r} is for streams that are given: {names}")
    check_guidance(streams, options, guiding)


def check_guidance(streams: Streams, options: SampleOptions, given: Iterable[str]) -> None:
    """Raises ValueError where samples are guided away from what a network never predicted: without a condition, of
    those given, that training never hid. A duration does not guide."""
    scale = options.scale()
    for name in given:
        own = scale.get(name, 1.0) if isinstance(scale, dict) else scale
        needs_null = streams[name].always_given and not streams[name].duration_of
        if needs_null and own != 1 and not options.weak:
            raise ValueError(
                f"guidance = {options.guidance!r} leads away from what is predicted without {name}, and this run has "
                f"no null class: in training {name} was never hidden; say guidance = 1"
            )


def check_all_given(streams: Streams, plan: Plan) -> None:
    """Raises ValueError for a condition that is not given and that the network has never been without."""
    for name, stream in streams.items():
        if stream.always_given and name not in plan.given:
            raise ValueError(
                f"--given={name}=VALUE is missing: in training {name} was never hidden, so nothing is drawn without it"
            )


def _check_rollout(streams: Streams, options: SampleOptions, starts: bool) -> None:
    if (longer := options.longer()) is None:
        return
    name, _, overlap = longer
    if name not in streams or starts:
        raise ValueError(f"rollout = {options.rollout!r} is for one of {', '.join(streams)}, from noise or a prefix")
    check_overlap(streams, name, overlap)
