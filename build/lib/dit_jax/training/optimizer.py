"""Optimizers: gradient clipping, a rule, a learning rate that warms up and decays; all from optax."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers

from dit_jax.names import ConfigError
from dit_jax.parallel.mesh import constrain
from dit_jax.schema import Range, checks


def _adamw(learning_rate, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW (Loshchilov & Hutter 2019); kernels and embeddings decay."""
    return optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay, mask=decays)


def _muon(learning_rate, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
    """Orthogonalised momentum for the blocks' matrices, which decay, and NAdam for all else (Jordan et al. 2024).

    Updates are scaled to the size of Adam's (arXiv 2502.16982), so both take the same learning rate.
    """
    rule = optax.contrib.muon(
        learning_rate,
        beta=0.95,
        weight_decay=weight_decay,
        adam_b1=b1,
        adam_b2=b2,
        consistent_rms=0.2,
        muon_weight_dimension_numbers=_hidden_matrices,
    )

    def update(updates, state, params=None):
        return tuple(map(_by_layer, rule.update(*map(_by_layer, (updates, state, params)))))

    return optax.GradientTransformation(rule.init, update)


OPTIMIZERS: dict[str, Callable] = {"adamw": _adamw, "muon": _muon}
DECAYS: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.0, steps),
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps),
}


class Optimizer(NamedTuple):
    """An optax.GradientTransformation, and its learning rate after so many updates."""

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]
    learning_rate: optax.Schedule


def updates_made(state: Any) -> int:
    """How many updates an optimizer's state has seen: all that were not skipped."""
    _, count = optax.tree_utils.tree_get_all_with_path(state, "count")[0]
    return int(jnp.ravel(count)[0])  # pmap has one for each device


@checks
def make_optimizer(
    steps: int,
    name: Annotated[str, OPTIMIZERS] = "adamw",
    learning_rate: Annotated[float, Range(at_least=0)] = 1e-4,
    warmup: Annotated[int, Range(at_least=0)] = 0,
    decay: Annotated[str, DECAYS] = "constant",
    decay_steps: Annotated[int, Range(at_least=0)] = 0,
    clip: Annotated[float, Range(above=0, or_infinite=True)] = 1.0,
    weight_decay: Annotated[float, Range(at_least=0)] = 0.0,
    b1: Annotated[float, Range(at_least=0, below=1)] = 0.9,
    b2: Annotated[float, Range(at_least=0, below=1)] = 0.95,
) -> Optimizer:
    """The update rule of a run of `steps` updates.

    The learning rate rises over `warmup` updates, stays, and decays over the last `decay_steps` (0: all after warm-up).
    Gradients are clipped to the global norm `clip`, which does nothing where it is infinite. Raises ConfigError for a
    name that does not exist and for a number out of range.
    """
    if warmup > steps:
        raise ConfigError(f"warmup = {warmup} should be 0 ... {steps}, the updates of the run")
    if decay_steps > steps - warmup:
        raise ConfigError(f"decay_steps = {decay_steps} should be 0 ... {steps - warmup}, the updates after warm-up")
    decay_steps = decay_steps or max(steps - warmup, 1)
    rate = optax.join_schedules(
        [
            lambda count: learning_rate * (count + 1) / max(warmup, 1),  # the first update is not lost
            optax.constant_schedule(learning_rate),
            DECAYS[decay](learning_rate, decay_steps),
        ],
        [warmup, max(warmup, steps - decay_steps)],
    )
    rule = optax.chain(optax.clip_by_global_norm(clip), OPTIMIZERS[name](rate, b1, b2, weight_decay))
    return Optimizer(rule.init, rule.update, rate)


def decays(params):
    """Which leaves weight decay shrinks: kernels and embeddings; biases and learned offsets never, stacked or not."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key in ("kernel", "embedding"), params)


def _hidden_matrices(params):
    """Matrices of the blocks, stacked [depth, in, out]; None is left to Adam."""
    stacked = MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return jax.tree_util.tree_map_with_path(lambda path, _: stacked if _is_hidden(path) else None, params)


def _by_layer(tree):
    """The same parameters, updates or state, but each layer's matrices lie whole on one of the devices of fsdp.

    Orthogonalising needs whole matrices. So every device gathers the layers that it works on, and not all of them.
    """
    return jax.tree_util.tree_map_with_path(lambda path, x: constrain(x, "fsdp") if _is_hidden(path) else x, tree)


def _is_hidden(path) -> bool:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    return "blocks/" in name and name.endswith("kernel")
