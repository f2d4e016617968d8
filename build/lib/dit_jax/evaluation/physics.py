"""Clips of moving digits against exact physics (see data/video_digits.py): is it the same digit in every frame, and
does it move as it should?"""

import numpy as np

from dit_jax.data.video_digits import DIGIT, paths
from dit_jax.evaluation.judge import Judge
from dit_jax.streams.video import centres

LEAN = 1.5  # pixels that the light of a digit may lie off the middle of its box; the real ones stay within


def identity(judge: Judge, clips: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The share of clips [k, frames, 16, 16, 1] in [-1, 1] to which a judge of clips gives their label [k], by what it
    sees in each frame alone: [frames]."""
    seen = [judge(clips[:, [frame]]) for frame in range(clips.shape[1])]
    return np.mean(np.stack(seen) == labels, axis=1)


def scores(judge: Judge, clips: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
    """Of clips that should have these labels [k], if any: the lowest `identity` of a frame; and of `motion`, which is
    fitted to the first 16 frames, the mean errors and the position's in the last frame."""
    moved = motion(clips, min(16, clips.shape[1]))
    found = {} if labels is None else {"clip/identity": float(identity(judge, clips, labels).min())}
    return found | {
        "clip/displacement": float(moved["displacement"].mean()),
        "clip/position": float(moved["position"].mean()),
        "clip/last_position": float(moved["position"][-1]),
    }


def nearest(places: np.ndarray, known: int) -> tuple[np.ndarray, np.ndarray]:
    """Where exact physics would have places [k, frames, 2], and the speeds [k] in pixels a frame.

    The least squares fit to the first `known` frames over all starts and velocities, and, because only the light of a
    digit is seen, over where in its box that is; of equal fits, the most central. Before a wall is met, some are.
    """
    corners, velocity = paths(places.shape[1])
    middles = corners + (DIGIT - 1) / 2
    gaps = places[..., None] - middles[None, :, None]  # [k, frames, 2, states]
    lean = np.clip(gaps[:, :known].mean(1), -LEAN, LEAN)
    error = np.square(gaps[:, :known] - lean[:, None]).mean(1) + 1e-6 * lean**2
    best = error.argmin(-1)[..., None]
    exact = middles[:, best[..., 0]].transpose(1, 0, 2) + np.take_along_axis(lean, best, -1)[..., 0][:, None]
    return exact, np.hypot(*velocity[best[..., 0]].T)


def motion(clips: np.ndarray, known: int | None = None) -> dict[str, np.ndarray]:
    """How far clips [k, frames, 16, 16, 1] in [-1, 1] are from the exact motion nearest to their first `known` frames,
    all if None.

    position: mean error in pixels by frame, [frames], which shows how long clips drift. displacement: mean error of
    each move from a frame to the next, relative to the mean speed, [frames - 1].
    """
    places = centres(clips)
    exact, speed = nearest(places, known or clips.shape[1])
    position = np.linalg.norm(places - exact, axis=-1).mean(0)
    displacement = np.linalg.norm(np.diff(places - exact, axis=1), axis=-1).mean(0)
    return {"position": position, "displacement": displacement / speed.mean()}
