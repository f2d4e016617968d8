"""Independent judges: classifiers that have seen real held-out data only, one for each stream of a sample."""

from collections.abc import Callable

import numpy as np
from sklearn.svm import SVC

from dit_jax.diffusion.stream import Stream, Streams, drawable
from dit_jax.evaluation.frechet import frechet_distance

Judge = Callable[[np.ndarray], np.ndarray]  # examples [k, *shape] -> labels [k]
NOTHING = -1  # the label of what is no known word


def train_judge(features: np.ndarray, labels: np.ndarray) -> Judge:
    """Features [n, ...] and labels [n] -> features [k, ...] -> labels [k]: a support vector machine."""
    flat = lambda x: np.asarray(x).reshape(len(x), -1)
    machine = SVC(C=10.0).fit(flat(features), labels)
    return lambda x: machine.predict(flat(x))


def train_judges(streams: Streams, real: dict[str, np.ndarray], labels: np.ndarray | None) -> dict[str, Judge]:
    """Real examples {name: [n, *shape]} and their labels [n] -> a judge of each stream that is drawn and can be judged:
    a support vector machine on its features or, where each label has one word, who knows these and no other. Nobody
    judges without labels, or where all are one."""
    if labels is None or len(np.unique(labels)) < 2:
        return {}

    def judge(stream: Stream, examples: np.ndarray) -> Judge:
        if stream.process.vocabulary is not None:
            known = dict(zip(map(bytes, examples), labels, strict=True))
            return lambda x: np.array([known.get(bytes(row), NOTHING) for row in x])
        features = stream.view.features
        assert features is not None
        of_features = train_judge(features(examples), labels)
        return lambda x: of_features(features(x))

    def judged(stream: Stream, examples: np.ndarray) -> bool:
        if stream.process.vocabulary is not None:
            return len(np.unique(examples, axis=0)) == len(np.unique(labels))
        return stream.view.features is not None

    return {name: judge(stream, real[name]) for name, stream in drawable(streams).items() if judged(stream, real[name])}


def described(streams: Streams, examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features of examples {name: [n, *shape]} in each stream that is drawn and has some: {name: [n, d]}."""
    every = {name: stream.view.features for name, stream in drawable(streams).items()}
    return {name: features(examples[name]) for name, features in every.items() if features is not None}


def scores(
    streams: Streams,
    judges: dict[str, Judge],
    sample: dict[str, np.ndarray],
    held_out: dict[str, np.ndarray],
    labels: np.ndarray | None,
) -> dict[str, float]:
    """What judges say of a sample {name: [k, *shape]} that should have these labels [k], or any where there are none.

    NAME/agreement: the share of which a stream's judge sees that label. NAME/frechet: the Frechet distance of its
    features to those of held-out real examples, {name: [n, d]}. coherence: the share in which all judges see one label,
    and the one that it should have.
    """
    found, seen = {}, {name: judge(sample[name]) for name, judge in judges.items()}
    for name in {**judges, **held_out}:
        if labels is not None and name in seen:
            found[f"{name}/agreement"] = float(np.mean(seen[name] == labels))
        if name in held_out and (features := streams[name].view.features) is not None:
            found[f"{name}/frechet"] = frechet_distance(features(sample[name]), held_out[name])
    if len(seen) > 1:
        one = next(iter(seen.values())) if labels is None else labels
        agree = np.all([label == one for label in seen.values()], axis=0) & (one != NOTHING)
        found["coherence"] = float(np.mean(agree))
    return found
