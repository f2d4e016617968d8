"""Independent judges: classifiers that have seen real held-out data only, one for each stream of a sample."""

from collections.abc import Callable

import numpy as np
from sklearn.svm import SVC

from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.stream import Stream, Streams
from dit_jax.evaluation.frechet import frechet_distance

Judge = Callable[[np.ndarray], np.ndarray]  # examples [k, *shape] -> labels [k]
NOTHING = -1  # the label of what is no known word


def train_judge(features: np.ndarray, labels: np.ndarray) -> Judge:
    """Features [n, ...] and labels [n] -> features [k, ...] -> labels [k]: a support vector machine."""
    flat = lambda x: np.asarray(x).reshape(len(x), -1)
    machine = SVC(C=10.0).fit(flat(features), labels)
    return lambda x: machine.predict(flat(x))


def train_judges(streams: Streams, real: dict[str, np.ndarray], labels: np.ndarray) -> dict[str, Judge]:
    """Real examples {name: [n, *shape]} and their labels [n] -> a judge of each stream that is drawn and can be judged:
    a support vector machine on its features or, for words, who knows those in the data and no other."""

    def judge(stream: Stream, examples: np.ndarray) -> Judge:
        if isinstance(stream.process, Masked):
            known = dict(zip(map(bytes, examples), labels, strict=True))
            return lambda x: np.array([known.get(bytes(row), NOTHING) for row in x])
        features = stream.features
        assert features is not None
        of_features = train_judge(features(examples), labels)
        return lambda x: of_features(features(x))

    return {name: judge(stream, real[name]) for name, stream in streams.items() if judged(stream)}


def described(streams: Streams, examples: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The features of examples {name: [n, *shape]} in each stream that is drawn and has some: {name: [n, d]}."""
    drawn = {name: stream.features for name, stream in streams.items() if stream.head is not None}
    return {name: features(examples[name]) for name, features in drawn.items() if features is not None}


def judged(stream: Stream) -> bool:
    """Whether a judge has something to go by: features, or words."""
    return stream.head is not None and (stream.features is not None or isinstance(stream.process, Masked))


def scores(
    streams: Streams,
    judges: dict[str, Judge],
    sample: dict[str, np.ndarray],
    held_out: dict[str, np.ndarray],
    labels: np.ndarray | None,
) -> dict[str, float]:
    """What judges say of a sample {name: [k, *shape]} that should have these labels [k], or any where there are none.

    NAME/agreement: the share of which a stream's judge sees that label. NAME/frechet: the Frechet distance of its
    features to those of held-out real examples, {name: [n, d]}. coherence: the share in which all judges see one label.
    """
    found, seen = {}, {name: judge(sample[name]) for name, judge in judges.items()}
    for name, label in seen.items():
        if labels is not None:
            found[f"{name}/agreement"] = float(np.mean(label == labels))
        if (features := streams[name].features) is not None:
            found[f"{name}/frechet"] = frechet_distance(features(sample[name]), held_out[name])
    if len(seen) > 1:
        first, *others = seen.values()
        agree = np.all([label == first for label in others], axis=0) & (first != NOTHING)
        found["coherence"] = float(np.mean(agree))
    return found
