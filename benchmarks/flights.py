"""The least loss on video_digits, level by level: that of the exact denoiser, against which a run's can be held.

    python benchmarks/flights.py [WORKDIR]

It knows the 899 digits to train on and all 1,296 courses, and weighs every pair of them by how probable it makes what
is seen; the digits that are seen are held-out ones. A loss is of x over t squared, as in training, where one level is
that of all frames. Beside it are the mean of a run's last 20 reports, and what is still open about the course.
"""

import json
import sys
from pathlib import Path

import numpy as np

from dit_jax.data.digits import handwritten
from dit_jax.data.video_digits import DIGIT, FRAMES, SIZE, WALL, flight, paths, render

LEVELS = 0.45, 0.55, 0.65, 0.75, 0.85, 0.95
CLIPS = 24  # at each level

PLACES = np.stack(np.meshgrid(*2 * [np.arange(WALL + 1)], indexing="ij"), -1).reshape(-1, 2)  # row after row
AXIS = paths(FRAMES)[0].T  # [states, frames]
COURSES = (AXIS[:, None] * (WALL + 1) + AXIS[None]).reshape(-1, FRAMES)  # [courses, frames], each a row of PLACES


def denoise(z: np.ndarray, t: float, frames: np.ndarray) -> tuple[np.ndarray, float]:
    """z [FRAMES, pixels], frames [digits, places, pixels] -> (the mean of clean clips given z, nats open about the
    course)."""
    alpha = 1 - t
    log_p = (alpha * frames @ z.T - alpha**2 / 2 * np.square(frames).sum(-1, keepdims=True)) / t**2
    joint = sum(log_p[:, COURSES[:, frame], frame] for frame in range(FRAMES))
    share = np.exp(joint - joint.max())
    share /= share.sum()
    mean = np.zeros_like(z)
    for frame in range(FRAMES):
        here = np.stack([np.bincount(COURSES[:, frame], row, len(PLACES)) for row in share])
        mean[frame] = np.tensordot(here, frames, 2)
    course = share.sum(0)
    return mean, -np.sum(course * np.log(course + 1e-30))


def main():
    train, test = ([pixels.reshape(DIGIT, DIGIT) for _, pixels, _ in handwritten(split)] for split in ("train", "test"))
    scaled = lambda clips: clips.reshape(-1, SIZE * SIZE).astype(np.float32) / 127.5 - 1
    frames = np.stack([scaled(render(digit, PLACES)) for digit in train])
    rng, losses = np.random.default_rng(0), {}
    for t in LEVELS:
        found = []
        for _ in range(CLIPS):
            x = scaled(render(test[rng.integers(len(test))], flight(rng, FRAMES)))
            mean, nats = denoise((1 - t) * x + t * rng.standard_normal(x.shape, np.float32), t, frames)
            found.append((np.mean(np.square(mean - x)) / t**2, nats))
        losses[t] = np.mean(found, 0), np.std(found, 0)[0] / np.sqrt(CLIPS)
    reports = Path(sys.argv[1], "metrics.jsonl").read_text().splitlines()[-20:] if len(sys.argv) > 1 else []
    for t, ((loss, nats), error) in losses.items():
        key = f"loss/clip/t{t - 0.05:.1f}-{t + 0.05:.1f}"
        own = [report[key] for report in map(json.loads, reports) if key in report]
        beside = f"   run {np.mean(own):.4f}" if own else ""
        print(f"t {t:.2f}   exact {loss:.4f} +- {error:.4f}   course {nats:.2f} nats{beside}", flush=True)


if __name__ == "__main__":
    main()
