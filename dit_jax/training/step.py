"""One training update, as a pure function of the state, the batch, and nothing else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from dit_jax.diffusion.joint_levels import JointLevels, independent
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.objective import Objective, losses_at, total
from dit_jax.diffusion.stream import Streams

BINS = 10  # of noise level, for the loss by level


class State(NamedTuple):
    """What training changes. step [] counts the updates done; ema averages params."""

    step: Array
    params: Any
    ema: Any
    opt: Any


Step = Callable[[State, dict[str, Array], Array], tuple[State, dict]]


def make_init(model, optimizer: optax.GradientTransformation) -> Callable[[Array], State]:
    def init(key: Array) -> State:
        params = model.init(key)
        return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params))

    return init


def make_step(
    apply: Callable,
    streams: Streams,
    optimizer: optax.GradientTransformation,
    *,
    root: Array,
    batch_size: int,
    ema: float,
    objective: Objective = losses_at,
    joint_levels: JointLevels = independent,
    uncertainty: Callable = lambda params, t: {},
    accumulation: int = 1,
    axis: str | None = None,
) -> Step:
    """step(state, batch, rows) -> (state, metrics).

    batch {name: [b, *shape]} holds the rows `rows` [b] of a global batch of `batch_size`. Levels are spread over the
    global batch and noise belongs to its rows, so it does not matter how the rows are dealt out to devices. All
    randomness of an update follows from the key `root` and the step. uncertainty: (params, t) -> that of each stream's
    loss, {name: [b]}; the loss in the metrics goes without. `axis` is the mapped axis under pmap: means over it are
    explicit there, and implied by the shardings under jit.
    """
    across = (lambda x: jax.lax.pmean(x, axis)) if axis else (lambda x: x)

    def mean_loss(params, batch, keys, t):
        losses = objective(lambda x, t: apply(params, x, t), streams, keys, batch, t)
        return jnp.mean(total(losses, uncertainty(params, t))), losses

    def step(state: State, batch: dict[str, Array], rows: Array) -> tuple[State, dict]:
        level_key, noise_key = jax.random.split(jax.random.fold_in(root, state.step))
        t = {name: level[rows] for name, level in joint_levels(level_key, streams, batch_size).items()}
        examples = batch, example_keys(noise_key, rows), t
        gradient = jax.grad(mean_loss, has_aux=True)
        if accumulation == 1:
            grads, losses = gradient(state.params, *examples)
        else:
            grads, losses = _accumulate(gradient, state.params, examples, accumulation)
        loss, grads = across((jnp.mean(total(losses)), grads))

        updates, opt = optimizer.update(grads, state.opt, state.params)
        params = optax.apply_updates(state.params, updates)
        keep = jnp.minimum(ema, (1 + state.step) / (10 + state.step))  # short memory at first, the start is no guide
        average = jax.tree.map(lambda old, new: old + (1 - keep) * (new - old), state.ema, params)
        metrics = {
            "loss": loss,
            "grad_norm": optax.tree.norm(grads),
            "by_level": across({name: _by_level(loss, t[name]) for name, loss in losses.items()}),
        }
        return State(state.step + 1, params, average, opt), metrics

    return step


def _accumulate(gradient, params, examples, count: int):
    """The same gradient in `count` pieces of the batch, one after another. Pieces are strided, so that a batch that is
    split over devices stays where it is."""
    split = lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
    join = lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
    add = lambda a, b: jax.tree.map(jnp.add, a, b)

    def piece(sums, examples):
        grads, losses = gradient(params, *examples)
        return add(sums, grads), losses

    sums, losses = jax.lax.scan(piece, jax.tree.map(jnp.zeros_like, params), jax.tree.map(split, examples))
    return jax.tree.map(lambda x: x / count, sums), jax.tree.map(join, losses)


def _by_level(loss: Array, t: Array) -> tuple[Array, Array]:
    """(sum of losses, count) in each of BINS equal bins of t, [BINS] each."""
    level = jnp.mean(t.reshape(len(t), -1), axis=1)
    inside = jax.nn.one_hot(jnp.minimum(level * BINS, BINS - 1).astype(jnp.int32), BINS)
    return loss @ inside, jnp.sum(inside, 0)
