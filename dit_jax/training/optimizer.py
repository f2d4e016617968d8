"""Optimizers: gradient clipping, a rule, a learning rate that warms up and decays; all from optax."""

from collections.abc import Callable

import jax
import optax
from optax.contrib import MuonDimensionNumbers


def _adamw(learning_rate, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
    return optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=_matrices)


def _muon(learning_rate, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
    """Orthogonalised momentum for the blocks' matrices, Adam for all else (Jordan et al. 2024).

    Updates are scaled to the size of Adam's (arXiv 2502.16982), so both take the same learning rate.
    """
    return optax.contrib.muon(
        learning_rate,
        beta=0.95,
        weight_decay=weight_decay,
        adam_b1=b1,
        adam_b2=b2,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=_hidden_matrices,
    )


OPTIMIZERS: dict[str, Callable] = {"adamw": _adamw, "muon": _muon}
DECAYS: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
}


def make_optimizer(
    steps: int,
    name: str = "adamw",
    learning_rate: float = 1e-4,
    warmup: int = 0,
    decay: str = "constant",
    decay_steps: int = 0,
    clip: float = 1.0,
    weight_decay: float = 0.0,
    b1: float = 0.9,
    b2: float = 0.95,
) -> optax.GradientTransformation:
    """The update rule of a run of `steps` updates.

    The learning rate rises over `warmup` updates, stays, and decays over the last `decay_steps` (0: all after warm-up).
    Gradients are clipped to the global norm `clip`.
    """
    for key, value, table in (("name", name, OPTIMIZERS), ("decay", decay, DECAYS)):
        if value not in table:
            raise ValueError(f"{key} = {value!r} does not exist; there are: {', '.join(table)}")
    decay_steps = decay_steps or max(steps - warmup, 1)
    rate = optax.join_schedules(
        [
            lambda count: learning_rate * (count + 1) / max(warmup, 1),  # the first update is not lost
            optax.constant_schedule(learning_rate),
            DECAYS[decay](learning_rate, decay_steps),
        ],
        [warmup, max(warmup, steps - decay_steps)],
    )
    return optax.chain(optax.clip_by_global_norm(clip), OPTIMIZERS[name](rate, b1, b2, weight_decay))


def _matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim >= 2, params)


def _hidden_matrices(params):
    """Matrices of the blocks, stacked [depth, in, out]; None is left to Adam."""

    def numbers(path, leaf):
        hidden = jax.tree_util.keystr(path, simple=True, separator="/")
        if "blocks/" in hidden and hidden.endswith("kernel"):
            return MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        return None

    return jax.tree_util.tree_map_with_path(numbers, params)
