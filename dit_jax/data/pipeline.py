"""Examples in order: which ones make up which batch, a pure function of (seed, step): resuming needs one integer."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

import grain
import numpy as np

from dit_jax.data.latents import Latents
from dit_jax.data.sources import Source
from dit_jax.diffusion.stream import Streams

Example = dict[str, np.ndarray]  # or a batch of them, stacked
Examples: TypeAlias = grain.MapDataset


class UnreadableError(OSError):
    """An example that cannot be read, or that no data can be."""


def plain(source: Source, index: int, rng: np.random.Generator) -> Example:
    """An example as it is; latents are drawn from the posterior of their image, anew in every epoch."""
    return source.draw(index, rng) if isinstance(source, Latents) else source[index]


def flip(source: Source, index: int, rng: np.random.Generator) -> Example:
    """Mirrored half of the time; latents are then those of the mirror image, because their encoder is not symmetric."""
    mirrored = rng.random() < 0.5
    if isinstance(source, Latents):
        return source.draw(index, rng, "flipped" if mirrored else "image")
    example = source[index]
    return {**example, "image": example["image"][:, ::-1]} if mirrored else example


AUGMENTATIONS: dict[str, Callable[[Source, int, np.random.Generator], Example]] = {"none": plain, "flip": flip}


def examples(
    source: Source, seed: int, augment: str = "none", streams: Streams | None = None, unreadable: str = "stop"
) -> Examples:
    """The source without end, in a new order every epoch: element i is a pure function of (seed, i), seed < 2**32.

    streams: what examples have to be, in shape, type and values. unreadable: an example that is not, or that cannot be
    read, raises UnreadableError ("stop"), or the next one that can be read takes its place ("skip").
    """
    count = len(source)

    # Not Grain's shuffle: it walks 2**16 places however few there are, and takes 30 us an example of 900, 12 ms of 2.
    @functools.lru_cache(maxsize=2)  # a batch can straddle two epochs
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng((seed, epoch)).permutation(count)

    def place(index: int) -> int:
        epoch, turn = divmod(index, count)
        return int(order(epoch)[turn])

    def read(index: int, rng: np.random.Generator) -> Example:
        for later in range(count):
            here = (index + later) % count
            with skipped_over(here, count, unreadable):
                example = AUGMENTATIONS[augment](source, here, rng)
                check_example(streams or {}, example)
                return example
        raise UnreadableError(f"none of {count:,} examples can be used")

    return grain.MapDataset.range(sys.maxsize).seed(seed).map(place).random_map(read)


def usable(source: Source, places: Iterable[int], streams: Streams, unreadable: str = "stop") -> list[Example]:
    """The examples at these places of a source, once and as they are. One that is not what streams take, or that cannot
    be read, raises UnreadableError ("stop"), or is left out ("skip")."""
    found = []
    for place in places:
        with skipped_over(place, len(source), unreadable):
            example = source[place]
            check_example(streams, example)
            found.append(example)
    return found


@contextlib.contextmanager
def skipped_over(index: int, count: int, unreadable: str) -> Iterator[None]:
    """What is raised while an example is read becomes an UnreadableError, or, to "skip" it, a line."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        sentence = f"example {index} of {count:,} cannot be used: {error}"
        if unreadable == "skip":
            return _say_once(sentence)
        hint = "mend it, or leave out what cannot be used by --config.data.unreadable=skip"
        raise UnreadableError(f"{sentence}; {hint}") from error


@functools.lru_cache(maxsize=10_000)
def _say_once(sentence: str) -> None:
    print(f"skipped: {sentence}", flush=True)


def check_example(streams: Streams, example: Example) -> None:
    """Raises ValueError, naming the stream, for a value of another shape or type than its stream's, or one that its
    process cannot have: not finite, or a label or token that does not exist."""
    for name, stream in streams.items():
        if name not in example:
            continue
        value = np.asarray(example[name])
        if value.shape != stream.shape:
            raise ValueError(f"{name} has the shape {value.shape}, and should have {stream.shape}")
        is_real = np.issubdtype(value.dtype, np.floating)
        if is_real != stream.process.is_continuous:
            raise ValueError(f"{name} is {value.dtype}, and should be {np.dtype(stream.process.dtype)}")
        try:
            stream.process.check(value)
        except ValueError as error:
            hint = "" if is_real else "; where they count from 1, prepare the data with one less"
            raise ValueError(f"{name} {error}{hint}") from None


def batch(examples: Examples, step: int, batch_size: int, rows: Iterable[int] | None = None) -> Example:
    """Stack the examples step * batch_size + rows into {name: [b, ...]}.

    rows: those of the global batch that this process needs, all by default: the whole is the same for any number of
    processes.
    """
    return picked(examples, [step * batch_size + int(row) for row in (range(batch_size) if rows is None else rows)])


def picked(examples: Examples | Source, places: Iterable[int]) -> Example:
    """The examples at these places, stacked: {name: [n, *shape]}."""
    return stacked([examples[place] for place in places])


def stacked(examples: Sequence[Example]) -> Example:
    """Examples as one: {name: [n, *shape]}."""
    return {name: np.stack([example[name] for example in examples]) for name in examples[0]}


def batches(
    examples: Examples, start: int, batch_size: int, rows: Iterable[int] | None = None, threads: int = 1
) -> Iterator[Example]:
    """batch(start), batch(start + 1), ... in this order, prepared ahead by as many threads; 0 prepares none ahead."""
    steps = grain.MapDataset.range(start, sys.maxsize).map(lambda step: batch(examples, step, batch_size, rows))
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))
