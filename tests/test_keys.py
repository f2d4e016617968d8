"""One seed may train, encode, score and draw: no two uses see the same noise, and samples keep the keys they have."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.diffusion.keys import domain, example_keys, fold, normal, stream_id
from dit_jax.diffusion.sampler import PRIOR, STEPS
from dit_jax.diffusion.stream import Stream
from dit_jax.training.update import training_keys

KEY, N = jax.random.key(0), 64
NOISE = Stream(shape=(3,), process=Gaussian(), levels=jnp.ones_like, embed=None, head=object)
STREAMS = {"x": NOISE, "y": NOISE}


def of_samples(key=KEY, steps=20) -> np.ndarray:
    """The noise of every stream of samples 0 ... N - 1: where they start, and what their steps add."""
    keys = example_keys(key, jnp.arange(N))
    starts = [fold(keys, PRIOR), *(fold(keys, STEPS + step) for step in range(steps))]
    return np.concatenate([normal(fold(start, stream_id(name)), (3,)) for start in starts for name in STREAMS])


def seen_by(call) -> np.ndarray:
    """What a call shows its network where all is noise, run without a compiler: [examples, 3]."""
    seen = []

    def predict(x, t):
        known = [name for name in STREAMS if not isinstance(x[name], jax.core.Tracer)]  # not what is differentiated
        seen.extend(np.asarray(x[name])[np.asarray(t[name]) == 1] for name in known)
        return {name: jnp.zeros_like(z) for name, z in x.items()}

    with jax.disable_jit():
        call(predict)
    return np.unique(np.concatenate(seen), axis=0)


def shared(ours: np.ndarray, theirs: np.ndarray) -> int:
    """How many rows of one are rows of the other, but for rounding."""
    return len({*map(tuple, ours.round(4).tolist())} & {*map(tuple, theirs.round(4).tolist())})


BATCH = {name: np.zeros((N, 3), np.float32) for name in STREAMS}
USES = {
    "loss": lambda predict: dj.loss(predict, STREAMS, KEY, BATCH),
    "encode": lambda predict: dj.encode(predict, STREAMS, KEY, {"x": BATCH["x"]}, steps=1),
    "likelihood": lambda predict: dj.log_likelihood(predict, STREAMS, KEY, {"x": BATCH["x"][:2]}, steps=1),
}


@pytest.mark.parametrize("use", USES)
def test_no_other_use_of_a_key_sees_the_noise_of_its_samples(use):
    """Example 0 of a loss once had the noise that sample 1 of the same key starts from."""
    noise = seen_by(USES[use])
    assert len(noise) > 1 and shared(noise, of_samples()) == 0


def test_the_noise_that_samples_are_looked_for_in_is_theirs():
    noise = seen_by(lambda predict: dj.sample(predict, STREAMS, KEY, N, steps=1))
    assert shared(noise, of_samples()) == len(noise) == 2 * N


def test_training_and_initialisation_have_keys_that_no_sample_has():
    """Of any of the first thousand updates, and of any sample: nothing that is folded in is folded in there."""
    data = lambda key: tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())
    init, root = training_keys(0)
    samples = {data(key) for key in example_keys(jax.random.key(0), jnp.arange(5000))}
    ours = {data(init), data(root), *map(data, example_keys(root, jnp.arange(1000)))}
    assert len(ours) == 1002 and not ours & samples
    old = {data(key) for key in training_keys(0, apart=False)}
    assert old == {data(key) for key in jax.random.split(jax.random.key(0))} and old <= samples


def test_domains_are_apart_from_each_other_and_from_all_that_is_folded_in():
    """Rows, steps and streams are below 2^31, which domains are not."""
    folded = [jax.random.key_data(domain(KEY, name)).tolist() for name in ("train", "init", "encode", "bound")]
    assert len({*map(tuple, folded)}) == 4
    highest = jax.random.key_data(jax.random.fold_in(KEY, stream_id("train"))).tolist()
    assert highest != folded[0]
    assert all(stream_id(name) < 2**31 for name in map("".join, itertools.permutations("train")))
