"""Joint noise levels of several streams, and of the groups of one: how they go together in training.

Each stream has its own distribution of levels (levels.py). What a model of several can be asked for afterwards, any
part given any other, depends on which combinations of levels it has seen.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from dit_jax.diffusion.keys import stream_id
from dit_jax.diffusion.levels import Quantile, stratified
from dit_jax.diffusion.schedules import align
from dit_jax.diffusion.stream import Levels, Stream, Streams, drawable

JointLevels = Callable[[Array, Streams, int], Levels]  # (key, streams, n) -> {name: [n] or [n, G]}


def diffusion_forcing(key: Array, levels: Quantile, n: int, groups: int) -> Array:
    """Diffusion forcing (Chen et al. 2024): levels [n, groups] of examples in groups, such as frames. In half of the
    examples one level for all; in a quarter, the same after a clean beginning; in a quarter, independent ones."""
    kinds, first, *keys = jax.random.split(key, 2 + groups)
    own = levels(jnp.stack([stratified(key, n) for key in keys], axis=1))
    one, kind = own[:, :1], stratified(kinds, n)[:, None]
    clean = jnp.arange(groups)[None] < jax.random.randint(first, (n, 1), 1, groups)
    return jnp.where(kind < 0.75, jnp.where(clean & (kind >= 0.5), 0.0, one), own)


def independent_groups(key: Array, levels: Quantile, n: int, groups: int) -> Array:
    """Independent levels [n, groups] of examples whose groups are drawn one after another, such as blocks of text."""
    return levels(stratified(key, n * groups).reshape(n, groups))


def independent(key: Array, streams: Streams, n: int) -> Levels:
    """Every stream at its own level: {name: [n]}, or [n, G] for one in groups: `independent_groups` if it has a past,
    and `diffusion_forcing` if not."""
    with_past = {stream.past_of for stream in streams.values()}

    def of(name: str, stream: Stream) -> Array:
        own = jax.random.fold_in(key, stream_id(name))
        if stream.groups == 1:
            return stream.levels(stratified(own, n))
        spread = independent_groups if name in with_past else diffusion_forcing
        return spread(own, stream.levels, n, stream.groups)

    return {name: of(name, stream) for name, stream in streams.items()}


def random_subsets(tied: float = 0.7) -> JointLevels:
    """Random subsets of the streams are given, drawn and absent (as in UniDiffuser, Bao et al. 2023): independent
    levels, and the corners of their cube, where samplers walk but few levels fall.

    One of the streams that can be drawn, any, is drawn in each example. Each of the others is clean, drawn as well, or
    pure noise, with shares of the three that are uniform for each example: how many others are of which kind is then as
    likely as any other split, such as all absent. With probability `tied`, those that are drawn are at one level, as
    they are while being drawn: one that any of all streams might have alone.
    """

    def levels(key: Array, streams: Streams, n: int) -> Levels:
        names = list(drawable(streams))
        t = independent(key, streams, n)
        level_key, stream_key, tie_key, always_key, share_key, *kind_keys = jax.random.split(
            jax.random.fold_in(key, 0), 5 + len(names)
        )
        of_stream = jax.random.randint(stream_key, (n,), 0, len(names))
        u = stratified(level_key, n)
        tied_level = jnp.choose(of_stream, [streams[name].levels(u) for name in names], mode="clip")
        is_tied = stratified(tie_key, n) < tied
        always_drawn = jax.random.randint(always_key, (n,), 0, len(names))
        until_clean, until_drawn = jnp.sort(jax.random.uniform(share_key, (2, n)), axis=0)

        for i, name in enumerate(names):
            kind, free = stratified(kind_keys[i], n), always_drawn != i
            own = jnp.where(align(is_tied, t[name]), align(tied_level, t[name]), t[name])
            own = jnp.where(align(free & (kind > until_drawn), own), 1.0, own)
            t[name] = jnp.where(align(free & (kind < until_clean), own), 0.0, own)
        return t

    return levels


# "corners" is the former name of random_subsets, which configs may have.
JOINT_LEVELS: dict[str, JointLevels] = {
    "independent": independent,
    **dict.fromkeys(("random_subsets", "corners"), random_subsets()),
}
