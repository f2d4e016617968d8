"""An independent judge of class-conditional images: a classifier that has seen real held-out images only."""

from collections.abc import Callable

import numpy as np
from sklearn.svm import SVC


def train_judge(images: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """images [n, ...] and labels [n] -> images [k, ...] -> labels [k]: a support vector machine."""
    machine = SVC(C=10.0).fit(_flat(images), labels)
    return lambda images: machine.predict(_flat(images))


def agreement(judge: Callable[[np.ndarray], np.ndarray], images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that the judge gives the label they should have."""
    return float(np.mean(judge(images) == labels))


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images).reshape(len(images), -1)
