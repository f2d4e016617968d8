"""Examples in order: which ones make up which batch, as a pure function of (seed, step), so resuming needs one integer."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

import grain
import numpy as np

from dit_jax.data.sources import Source

Example = dict[str, np.ndarray]
Examples = grain.MapDataset[Any]


def flip(example: Example, rng: np.random.Generator) -> Example:
    """Mirror the image, half of the time."""
    return {**example, "image": example["image"][:, ::-1]} if rng.random() < 0.5 else example


AUGMENTATIONS: dict[str, Callable[[Examples], Examples]] = {
    "none": lambda examples: examples,
    "flip": lambda examples: examples.random_map(flip),
}


def examples(source: Source, seed: int, augment: str = "none") -> Examples:
    """The source shuffled anew every epoch, without end: element i is a pure function of (seed, i), seed < 2**32."""
    return AUGMENTATIONS[augment](grain.MapDataset.source(source).seed(seed).shuffle().repeat())


def batch(examples: Examples, step: int, batch_size: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
    """Stack the examples step * batch_size + range(batch_size)[rows] into {name: [b, ...]}.

    rows is the part of the global batch that this process needs: the whole is the same for any number of processes.
    """
    picked = [examples[index] for index in range(step * batch_size, (step + 1) * batch_size)[rows]]
    return {name: np.stack([example[name] for example in picked]) for name in picked[0]}


def batches(
    examples: Examples, start: int, batch_size: int, rows: slice = slice(None), threads: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """batch(start), batch(start + 1), ... in this order, prepared ahead by as many threads; 0 prepares none ahead."""
    steps = grain.MapDataset.range(start, sys.maxsize).map(lambda step: batch(examples, step, batch_size, rows))
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)))
