"""The scores of samples by their features: one table, each with its interval and with what real data have."""

from collections.abc import Callable

import numpy as np

from dit_jax.evaluation.diversity import inception_score, vendi_score
from dit_jax.evaluation.frechet import Moments, frechet, moments
from dit_jax.evaluation.mmd import kernel_distance
from dit_jax.evaluation.neighbours import BALL, manifold_scores
from dit_jax.evaluation.parts import Parts, halves, spread

# Of samples [n, d], a reference [m, d], and parts [b, n] of the samples, or none for the whole: {name: [b]}.
Metric = Callable[..., dict[str, np.ndarray]]

FEWEST = 2 * (BALL + 1)  # vectors in each set, of which halves are enough for all metrics
ENOUGH = 10  # samples for each feature; with fewer a covariance is uncertain


def frechet_scores(
    samples: np.ndarray, reference: np.ndarray | Moments, parts: Parts | None = None
) -> dict[str, np.ndarray]:
    """frechet: the Frechet distance; frechet_residual: its numerical error, relative to the variance; {name: [b]}. The
    reference may be moments that somebody published."""
    parts = np.ones((1, len(samples)), bool) if parts is None else parts
    there = reference if isinstance(reference, Moments) else moments(reference)
    found = [frechet(moments(samples[part]), there) for part in parts]
    return {
        "frechet": np.array([distance.value for distance in found]),
        "frechet_residual": np.array([distance.residual for distance in found]),
    }


METRICS: dict[str, Metric] = {
    "frechet": frechet_scores,
    "kid": lambda samples, reference, parts=None: {"kid": kernel_distance(samples, reference, parts)},
    "neighbours": manifold_scores,
    "vendi": lambda samples, reference, parts=None: {"vendi": vendi_score(samples, parts)},
    "class_score": lambda samples, reference, parts=None: {"class_score": inception_score(samples, parts)},
}
# What is measured of each kind of output that a network has.
OF_KIND = {
    "features": ("frechet", "kid", "neighbours", "vendi"),
    "spatial": ("frechet",),
    "classes": ("class_score",),
}


def scored(
    samples: np.ndarray,
    reference: np.ndarray,
    kind: str = "features",
    rounds: int = 20,
    statistics: Moments | None = None,
) -> dict[str, dict[str, float]]:
    """All scores of outputs of a kind, samples [n, d] against reference [m, d]: {name: {value, within, real}}.

    within: half the width of the 95 % interval over samples, from `rounds` halves; nan for fewer than two. real: the
    same score of as many real examples: of the reference, n of them at random, and at most a half, against the others.
    residual: of Frechet distances, the largest numerical error, relative to the variance.

    statistics: moments that stand for the reference in Frechet distances, real ones as well; they are of other or more
    pictures, so that all of the reference can be the real examples.

    Raises ValueError for fewer than FEWEST vectors, and for what a metric cannot stand behind.
    """
    for name, x in (("samples", samples), ("reference", reference)):
        if len(x) < FEWEST:
            raise ValueError(f"the {name} are {len(x)} pictures, and scores take at least {FEWEST}")
    parts, order = halves(len(samples), rounds), np.random.default_rng(0).permutation(len(reference))
    found: dict[str, dict[str, float]] = {}
    for name in OF_KIND[kind]:
        known = statistics if name == "frechet" else None
        number = min(len(samples), len(reference) // (1 if known else 2))
        real = reference[order[:number]], known or reference[order[number:]]
        of_real = METRICS[name](*real, None)
        for score, values in METRICS[name](samples, known or reference, parts).items():
            label = f"spatial_{score}" if kind == "spatial" else score
            if score == "frechet_residual":
                found[label.removesuffix("_residual")]["residual"] = float(max(values.max(), of_real[score][0]))
                continue
            found[label] = {"value": float(values[0]), "within": spread(values), "real": float(of_real[score][0])}
    return found


def warnings(number: int, size: int) -> list[str]:
    """What is to be said of scores of so many samples with so many features."""
    if number >= ENOUGH * size:
        return []
    what = "their covariance is singular" if number <= size else "their covariance is uncertain"
    return [
        f"{number:,} samples are few for {size:,} features ({what}): Frechet distances come out too large, and compare "
        "with those of as many samples only, such as the real ones beside them"
    ]
