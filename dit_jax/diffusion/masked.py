"""The masked (absorbing) process: at level t every token is hidden with probability t (MDLM, arXiv 2406.07524).

A sampler goes from level t down to s by choosing which tokens are visible at s: a rule

    reveal(keys [B], hidden [B, ...], logits [B, ..., vocabulary], t, s) -> visible [B, ...]

with levels [B] or [B, G]. Tokens that become visible are then drawn from the logits, independently of each other.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.process import Process
from dit_jax.diffusion.schedules import align
from dit_jax.schema import Range, check_fields

Reveal = Callable[[Array, Array, Array, Array, Array], Array]

VISIBLE = -1  # the target of a token that is not hidden: nothing to predict


def ancestral(keys: Array, hidden: Array, logits: Array, t: Array, s: Array) -> Array:
    """Each hidden token with probability (t - s) / t, as the process has it backwards."""
    t, s = align(t, hidden), align(s, hidden)
    return ~hidden | (rng.uniform(keys, hidden.shape[1:]) * t >= s)


def remask(cap: float = 0.02) -> Reveal:
    """ReMDM with a cap (Wang et al. 2025, arXiv 2503.00307): a visible token is hidden again with probability
    sigma = min(cap, (1 - alpha_s) / alpha_t), alpha = 1 - t, and so many more hidden ones are revealed that a share s
    is hidden as before. So what was drawn early, or beside what does not suit it, is drawn anew."""

    def remasked(keys: Array, hidden: Array, logits: Array, t: Array, s: Array) -> Array:
        t, s = align(t, hidden), align(s, hidden)
        sigma = jnp.where(t == s, 0.0, jnp.minimum(cap, s / jnp.maximum(1 - t, 1e-6)))
        chance = jnp.where(hidden, (t - s + sigma * (1 - t)) / jnp.maximum(t, 1e-6), 1 - sigma)
        return rng.uniform(keys, hidden.shape[1:]) < chance

    return remasked


def confident(keys: Array, hidden: Array, logits: Array, t: Array, s: Array) -> Array:
    """Those first whose most probable value is most probable, a share (t - s) / t of the hidden ones in each group.

    What is chosen depends on the distributions alone, never on the values that are drawn from them; choosing by the
    probability of the value drawn, as LLaDA does, is biased even at one token a step. Those within 0.001 nats of each
    other come in random order: where all is hidden many are alike, and rounding errors would choose. A share that is no
    whole number is rounded up or down at random, so that as many are hidden as at s on average.
    """
    groups = (*t.shape, 1)[:2]
    parts, each = (*groups, -1), (*groups, 1)
    sure = jnp.round(1000 * jnp.max(jax.nn.log_softmax(logits.astype(jnp.float32)), axis=-1))
    lot = rng.uniform(rng.fold(keys, 0), hidden.shape[1:])
    unsure = jnp.where(hidden, lot - sure, jnp.inf).reshape(parts)
    rank = jnp.argsort(jnp.argsort(unsure))
    count = jnp.sum(hidden.reshape(parts), axis=-1, keepdims=True)
    share = (s / jnp.maximum(t, 1e-6)).reshape(each)
    left = jnp.floor(count * share + rng.uniform(rng.fold(keys, 1), each[1:]))
    return ~hidden | (rank < count - left).reshape(hidden.shape)


REVEALS: dict[str, Reveal] = {"ancestral": ancestral, "remask": remask(), "confident": confident}


@dataclasses.dataclass(frozen=True)
class Masked(Process):
    """How a stream of tokens 0 ... vocabulary - 1 is hidden; the mask is one more token, `vocabulary`.

    The network returns logits [..., vocabulary]. reveal: how a sampler shows tokens.
    """

    vocabulary: Annotated[int, Range(at_least=1)]
    reveal: Annotated[Reveal, REVEALS] = ancestral

    dtype = jnp.int32

    def __post_init__(self) -> None:
        check_fields(self)

    def time_input(self, t: Array) -> Array:
        """Nothing: the hidden tokens say it themselves, so that a prompt is as good as any other visible token."""
        return jnp.zeros(t.shape[0], t.dtype)

    def prior(self, keys: Array, shape: tuple[int, ...]) -> Array:
        """The stream at t = 1, all hidden: keys [B] -> [B, *shape]."""
        return jnp.full((keys.shape[0], *shape), self.vocabulary, self.dtype)

    def corrupt(self, keys: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """x [B, ...] at levels t -> (z, target): the tokens with some hidden, and the hidden ones."""
        return self._hide(x, rng.uniform(keys, x.shape[1:]) < align(t, x))

    def corrupt_evenly(self, keys: Array, x: Array, groups: int = 1) -> tuple[Array, Array, Array]:
        """x [B, ...] in groups of L tokens, k of each hidden, k uniform in 1 ... L -> (z, target, levels k / L: [B] or
        [B, groups]).

        `loss` at the level k / L, which the network is told nothing of, estimates the same bound as at uniform levels,
        without bias and with less variance (LLaDA, arXiv 2502.09992, eq. 6): it is the mean over the hidden tokens.
        """
        length = x[0].size // groups

        def hide(key: Array) -> tuple[Array, Array]:
            number, order = jax.random.split(key)
            k = jax.random.randint(number, (groups, 1), 1, length + 1)
            places = jnp.broadcast_to(jnp.arange(length), (groups, length))
            hidden = jax.random.permutation(order, places, axis=1, independent=True) < k
            return hidden.reshape(x.shape[1:]), k.reshape(groups if groups > 1 else ()) / length

        hidden, t = jax.vmap(hide)(keys)
        return *self._hide(x, hidden), t

    def loss(self, logits: Array, target: Array, t: Array) -> Array:
        """The evidence bound in nats a token, [B]: hidden tokens' cross entropy, weighted 1/t (MDLM, eq. 11)."""
        hidden = target != VISIBLE
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        nll = -jnp.take_along_axis(log_p, jnp.maximum(target, 0)[..., None], axis=-1)[..., 0]
        weight = hidden / jnp.maximum(align(t, target), 1e-6)
        return jnp.mean((weight * nll).reshape(target.shape[0], -1), axis=1)

    def step(self, keys: Array, z: Array, logits: Array, t: Array, s: Array) -> Array:
        """From level t down to s: tokens that become visible are drawn from the logits, others stay as they are."""
        hidden = z == self.vocabulary
        visible = self.reveal(rng.fold(keys, 0), hidden, logits, t, s)
        # The default is wrong below p = 1e-7, which lowers the temperature (Zheng et al. 2024, arXiv 2409.02908).
        draw = jax.vmap(lambda key, row: jax.random.categorical(key, row.astype(jnp.float32), mode="high"))
        drawn = draw(rng.fold(keys, 1), logits).astype(z.dtype)
        return jnp.where(visible, jnp.where(hidden, drawn, z), self.vocabulary)

    def is_mask(self, z: Any) -> Any:
        return z == self.vocabulary

    def with_reveal(self, reveal: Reveal) -> "Masked":
        return dataclasses.replace(self, reveal=reveal)

    def check(self, x: Any, masks: bool = False) -> None:
        values, most = np.asarray(x), self.vocabulary - (not masks)
        wrong = values[(values < 0) | (values > most)]
        if wrong.size:
            raise ValueError(f"holds {wrong[0]}, and its values are 0 ... {most}")

    def _hide(self, x: Array, hidden: Array) -> tuple[Array, Array]:
        return jnp.where(hidden, self.vocabulary, x), jnp.where(hidden, x, VISIBLE)
