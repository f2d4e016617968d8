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
WARM_UP, DECAY = 20, 0.98  # of the spread of gradient norms


class State(NamedTuple):
    """What training changes. step [] counts the updates done, skipped ones too; ema averages params. opt: the
    optimizer's state, and with it the spread of gradient norms where spikes are skipped."""

    step: Array
    params: Any
    ema: Any
    opt: Any


class Spread(NamedTuple):
    """The running mean and mean square of the logarithm of gradient norms, over the updates that were made."""

    updates: Array
    mean: Array
    square: Array

    def is_spike(self, norm: Array, deviations: float) -> Array:
        """Whether a norm is so many standard deviations above the mean, once WARM_UP of them are known."""
        std = jnp.sqrt(jnp.maximum(self.square - self.mean**2, 0.0))
        return (self.updates >= WARM_UP) & (jnp.log(norm) > self.mean + deviations * jnp.maximum(std, 0.05))

    def with_norm(self, norm: Array) -> "Spread":
        """The spread with one norm more, whose weight decays by DECAY an update."""
        share = jnp.maximum(1 / (self.updates + 1), 1 - DECAY)
        value = jnp.log(jnp.maximum(norm, 1e-30))
        mean = self.mean + share * (value - self.mean)
        return Spread(self.updates + 1, mean, self.square + share * (value**2 - self.square))


Step = Callable[[State, dict[str, Array], Array], tuple[State, dict]]


def make_init(model, optimizer: optax.GradientTransformation, spike: float = 0.0) -> Callable[[Array], State]:
    """init(key) -> the state before the first update. spike: as in `make_step`."""

    def init(key: Array) -> State:
        params = model.init(key)
        opt = optimizer.init(params)
        if spike:
            opt = (opt, Spread(jnp.zeros((), jnp.int32), jnp.zeros(()), jnp.zeros(())))
        return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), opt)

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
    spike: float = 0.0,
    trainable: Callable[[Any], Any] = lambda updates: updates,
    axis: str | None = None,
) -> Step:
    """step(state, batch, rows) -> (state, metrics).

    batch {name: [b, *shape]} holds the rows `rows` [b] of a global batch of `batch_size`. Levels are spread over the
    global batch and noise belongs to its rows, so it does not matter how the rows are dealt out to devices. All
    randomness of an update follows from the key `root` and the step. uncertainty: (params, t) -> that of each stream's
    loss, {name: [b]}; the loss in the metrics goes without. trainable: updates -> updates, 0 for frozen parameters.
    `axis` is the mapped axis under pmap: means over it are explicit there, and implied by the shardings under jit.

    An update whose loss or gradient is not finite is skipped: nothing changes but the count of steps, and the metrics
    say so. With `spike`, so is one whose gradient norm is so many standard deviations beyond those before it.
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

        new, norm, is_good = _updated(state, loss, grads, optimizer, trainable, ema, spike)
        by_level = across({name: _by_level(loss, t[name]) for name, loss in losses.items()})
        metrics = {
            "loss": loss,
            "grad_norm": norm,
            "skipped": ~is_good,
            "by_level": jax.tree.map(lambda x: jnp.where(is_good, x, 0.0), by_level),
        }
        return new, metrics

    return step


def _updated(
    state: State,
    loss: Array,
    grads: Any,
    optimizer: optax.GradientTransformation,
    trainable: Callable[[Any], Any],
    ema: float,
    spike: float,
) -> tuple[State, Array, Array]:
    """(the state after an update, its gradient norm, whether it is made); one that is not made leaves all as it was."""
    opt, spread = state.opt if spike else (state.opt, None)
    norm = optax.tree.norm(grads)
    is_good = jnp.isfinite(loss) & jnp.isfinite(norm)
    if spread is not None:
        is_good &= ~spread.is_spike(norm, spike)

    updates, opt = optimizer.update(grads, opt, state.params)
    params = optax.apply_updates(state.params, trainable(updates))
    keep = jnp.minimum(ema, (1 + state.step) / (10 + state.step))  # short memory at first, the start is no guide
    average = jax.tree.map(lambda old, new: old + (1 - keep) * (new - old), state.ema, params)

    new = params, average, opt if spread is None else (opt, spread.with_norm(norm))
    kept = jax.tree.map(lambda new, old: jnp.where(is_good, new, old), new, tuple(state[1:]))
    return State(state.step + 1, *kept), norm, is_good


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
