"""The masked (absorbing) process: at level t every token is hidden with probability t (MDLM, arXiv 2406.07524)."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.schedules import align

VISIBLE = -1  # the target of a token that is not hidden: nothing to predict


@dataclasses.dataclass(frozen=True)
class Masked:
    """How a stream of tokens 0 ... vocabulary - 1 is hidden; the mask is one more token, `vocabulary`.

    The network returns logits [..., vocabulary].
    """

    vocabulary: int

    dtype = jnp.int32
    top = 1.0

    def prior(self, keys: Array, shape: tuple[int, ...]) -> Array:
        """The stream at t = 1, all hidden: keys [B] -> [B, *shape]."""
        return jnp.full((len(keys), *shape), self.vocabulary, self.dtype)

    def corrupt(self, keys: Array, x: Array, t: Array) -> tuple[Array, Array]:
        """x [B, ...] at levels t -> (z, target): the tokens with some hidden, and the hidden ones."""
        hidden = rng.uniform(keys, x.shape[1:]) < align(t, x)
        return jnp.where(hidden, self.vocabulary, x), jnp.where(hidden, x, VISIBLE)

    def loss(self, logits: Array, target: Array, t: Array) -> Array:
        """The evidence bound in nats a token, [B]: hidden tokens' cross entropy, weighted 1/t (MDLM, eq. 11)."""
        hidden = target != VISIBLE
        log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
        nll = -jnp.take_along_axis(log_p, jnp.maximum(target, 0)[..., None], axis=-1)[..., 0]
        weight = hidden / jnp.maximum(align(t, target), 1e-6)
        return jnp.mean((weight * nll).reshape(len(target), -1), axis=1)

    def move(self, keys: Array, z: Array, logits: Array, t: Array, s: Array) -> Array:
        """From level t down to s: reveal each hidden token with probability (t - s) / t, drawn from the logits."""
        t, s = align(t, z), align(s, z)
        reveal = (z == self.vocabulary) & (rng.uniform(rng.fold(keys, 0), z.shape[1:]) * t >= s)
        draw = jax.vmap(lambda key, row: jax.random.categorical(key, row.astype(jnp.float32)))
        return jnp.where(reveal, draw(rng.fold(keys, 1), logits).astype(z.dtype), z)
