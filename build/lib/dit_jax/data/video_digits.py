"""Real digits that move under exact physics, as a TFDS data set: what is drawn can be compared with the truth."""

from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from dit_jax.data.building import preparer
from dit_jax.data.digits import handwritten

FRAMES, SIZE, DIGIT = 8, 16, 8  # of a clip; pixels of a frame, and of a digit
WALL = SIZE - DIGIT  # the greatest position
SPEEDS = np.array([-2, -1, 1, 2])  # pixels a frame along each axis
EACH = {"train": 16, "test": 8}  # clips of each digit, with as many flights


class VideoDigits(tfds.core.GeneratorBasedBuilder):
    """Clips uint8 [8, 16, 16, 1] of digits that fly from wall to wall, and labels 0 ... 9.

    The splits are those of the data set `digits`, so no digit that is seen in training (14,384 clips) is in the test
    split (7,184).
    """

    VERSION = tfds.core.Version("1.1.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8 x 8 pixels, bundled with scikit-learn (BSD-3-Clause; from UCI's "
            "optical recognition of handwritten digits, CC BY 4.0), moving and reflected elastically in a black box.",
            features=tfds.features.FeaturesDict(
                {
                    "clip": tfds.features.Tensor(shape=(FRAMES, SIZE, SIZE, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        return {split: self._generate_examples(split) for split in EACH}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        for row, pixels, label in handwritten(split):
            rng = np.random.default_rng(row)
            for turn in range(EACH[split]):
                yield row * EACH[split] + turn, {"clip": render(pixels, flight(rng, FRAMES)), "label": label}


def flight(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Positions [frames, 2] of a digit from anywhere, at any of the velocities."""
    return trajectory(rng.integers(WALL + 1, size=2), rng.choice(SPEEDS, size=2), frames)


def trajectory(start: np.ndarray, velocity: np.ndarray, frames: int) -> np.ndarray:
    """Positions [frames, d] in 0 ... WALL, from integer starts [d] at velocities [d], elastically reflected at walls.

    Without walls the motion is a straight line; with them it is a triangle wave of that line.
    """
    line = np.asarray(start) + np.arange(frames)[:, None] * np.asarray(velocity)
    return WALL - np.abs(line % (2 * WALL) - WALL)


def paths(frames: int) -> tuple[np.ndarray, np.ndarray]:
    """All there are along an axis: positions [frames, states], and the velocities [states]."""
    start, velocity = (grid.ravel() for grid in np.meshgrid(np.arange(WALL + 1), SPEEDS))
    return trajectory(start, velocity, frames), velocity


def render(image: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """A digit [8, 8] with its corner at positions [frames, 2] (row, column) -> frames [frames, 16, 16, 1], black
    elsewhere."""
    frames = np.zeros((len(positions), SIZE, SIZE, 1), image.dtype)
    for frame, (row, column) in zip(frames, positions, strict=True):
        frame[row : row + DIGIT, column : column + DIGIT, 0] = image
    return frames


prepare = preparer(VideoDigits)
