"""Parts of a set of samples, each of which is scored by itself: the whole of it, and halves for an interval."""

import numpy as np

Parts = np.ndarray  # bool [b, n]: which of n samples are in each of b parts


def halves(count: int, rounds: int, seed: int = 0) -> Parts:
    """The whole set, and then `rounds` random halves of it: [1 + rounds, count].

    Halves without replacement are a bootstrap that suits all scores: they vary as whole sets do (a mean's variance is
    exactly sigma^2 / count, see `spread`), and none has a sample twice, which nearest neighbours take for a copy.
    """
    rng, parts = np.random.default_rng(seed), np.zeros((1 + rounds, count), bool)
    parts[0] = True
    for part in parts[1:]:
        part[rng.permutation(count)[: count // 2]] = True
    return parts


def spread(scores: np.ndarray) -> float:
    """The half width of a 95 % interval of a score, of those of `halves`: [1 + rounds]; nan for fewer than two rounds.

    It is 1.96 standard deviations of the halves' scores. Where these differ from the whole set's by a bias, as Frechet
    distances of few samples do, that is no part of it.
    """
    return float(1.96 * np.std(scores[1:], ddof=1)) if len(scores) > 2 else float("nan")


def checked_parts(samples: np.ndarray, reference: np.ndarray, parts: Parts | None, least: int) -> Parts:
    """The parts, or the whole as one. Raises ValueError unless both sets are vectors of the same length, finite, and at
    least so many, in every part as well."""
    parts = np.ones((1, len(samples)), bool) if parts is None else parts
    for name, x in (("samples", samples), ("reference", reference)):
        if x.ndim != 2:
            raise ValueError(f"{name} should be vectors [n, d], not an array of shape {x.shape}")
        if not np.isfinite(x).all():
            raise ValueError(f"features of the {name} are not finite: the network or its pictures are broken")
    if samples.shape[1] != reference.shape[1]:
        raise ValueError(f"samples have {samples.shape[1]} features, and the reference {reference.shape[1]}")
    fewest = min(len(reference), *parts.sum(1))
    if fewest < least:
        raise ValueError(f"this score takes at least {least} vectors in each set, and in each half; one has {fewest}")
    return parts
