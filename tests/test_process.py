"""What every process answers, and that one from outside the package is a stream like any other."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import stats

import dit_jax as dj
from dit_jax.diffusion import keys as rng
from dit_jax.diffusion.ddpm import PROCESSES
from dit_jax.diffusion.gaussian import velocity
from dit_jax.diffusion.grids import GRIDS
from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.levels import uniform
from dit_jax.diffusion.masked import REVEALS, Masked
from dit_jax.diffusion.meanflow import Span
from dit_jax.diffusion.process import Process
from dit_jax.diffusion.schedules import align
from dit_jax.network.tokens import TIME, positions

VOCABULARY, LENGTH = 5, 6


@dataclasses.dataclass(frozen=True)
class Replaced(Process):
    """Uniform discrete diffusion (D3PM, Austin et al. 2021): at level t a token is any with probability t."""

    vocabulary: int

    dtype = jnp.int32

    def prior(self, keys, shape):
        return jnp.floor(rng.uniform(keys, shape) * self.vocabulary).astype(self.dtype)

    def corrupt(self, keys, x, t):
        replaced = rng.uniform(rng.fold(keys, 0), x.shape[1:]) < align(t, x)
        return jnp.where(replaced, self.prior(rng.fold(keys, 1), x.shape[1:]), x), x

    def loss(self, prediction, target, t):
        log_p = jax.nn.log_softmax(prediction)
        nll = -jnp.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]
        return jnp.mean(jnp.where(align(t, target) > 0, nll, 0.0).reshape(len(target), -1), axis=1)

    def step(self, keys, z, prediction, t, s):
        draw = jax.vmap(lambda key, logits: jax.random.categorical(key, logits))
        clean = draw(rng.fold(keys, 0), prediction).astype(z.dtype)
        moved = self.corrupt(rng.fold(keys, 1), clean, s)[0]
        return jnp.where(align(t == s, z), z, moved)


def stream(process: Process) -> dj.Stream:
    return dj.Stream(
        shape=(LENGTH,),
        process=process,
        levels=uniform(),
        positions=positions((LENGTH,), (TIME,)),
        embed=lambda width, dtype, name: nn.Embed(VOCABULARY, width, name=name),
        head=lambda width, dtype, name: nn.Dense(VOCABULARY, kernel_init=nn.initializers.zeros, name=name),
    )


# Each as it is made, and the shape of an example: those that configs call, and the others.
PROCESS = {
    **{name: (make, (2, 3)) for name, make in PROCESSES.items()},
    "gaussian edm": (lambda: dj.Gaussian("edm", "edm", clock="c_noise"), (2, 3)),
    "masked": (lambda: Masked(VOCABULARY), (LENGTH,)),
    "span": (Span, ()),
    "replaced": (lambda: Replaced(VOCABULARY), (LENGTH,)),
}
every_process = pytest.mark.parametrize(("make", "shape"), PROCESS.values(), ids=PROCESS)
KEYS = example_keys(jax.random.key(0), jnp.arange(4))


def examples(process: Process, shape: tuple[int, ...]) -> jax.Array:
    if process.vocabulary is not None:
        return jax.random.randint(jax.random.key(1), (4, *shape), 0, process.vocabulary)
    return jax.random.uniform(jax.random.key(1), (4, *shape), minval=-1)


@every_process
def test_data_are_left_alone_at_level_zero(make, shape):
    process = make()
    x = examples(process, shape)
    np.testing.assert_allclose(process.corrupt(KEYS, x, jnp.zeros(4))[0], x, atol=1e-6)


@every_process
def test_an_example_depends_on_its_own_key_alone(make, shape):
    process = make()
    x, t = examples(process, shape), jnp.linspace(0.1, 0.9, 4)
    whole = process.corrupt(KEYS, x, t), process.prior(KEYS, shape)
    one = process.corrupt(KEYS[2:3], x[2:3], t[2:3]), process.prior(KEYS[2:3], shape)
    jax.tree.map(lambda all_, own: np.testing.assert_array_equal(all_[2:3], own), whole, one)


@every_process
def test_what_it_says_of_itself_is_true_of_what_it_makes(make, shape):
    process = make()
    x, prior = examples(process, shape), process.prior(KEYS, shape)
    assert prior.shape == x.shape and prior.dtype == process.dtype
    process.check(np.asarray(x))
    if process.vocabulary is not None and np.any(process.is_mask(np.asarray(prior))):
        process.check(np.asarray(prior), masks=True)
        with pytest.raises(ValueError, match=f"and its values are 0 ... {VOCABULARY - 1}"):
            process.check(np.asarray(prior))
    assert not np.any(process.is_mask(np.asarray(x)))
    assert process.time_input(jnp.full(4, 0.5)).shape == (4,)
    for grid in GRIDS.values():
        row = process.level_row(grid, 7)
        assert row[0] == 1 and row[-1] == 0 and np.all(np.diff(row) < 0) and len(row) == 8
    assert process.predicts(velocity) is False
    assert all(process.with_reveal(rule).dtype == process.dtype for rule in REVEALS.values())


@every_process
def test_what_is_given_costs_nothing_and_the_truth_costs_least(make, shape):
    process = make()
    if isinstance(process, Span):
        return  # it is never scored
    x = examples(process, shape)
    for t, cheap in ((jnp.zeros(4), True), (jnp.full(4, 0.6), False)):
        _, target = process.corrupt(KEYS, x, t)
        if process.vocabulary is None:
            best = jnp.concatenate([target, jnp.zeros_like(target)], -1)[..., : 2 * x.shape[-1]]
        else:
            best = 20.0 * jax.nn.one_hot(jnp.maximum(target, 0), process.vocabulary)
        other = best + 30 * jax.random.normal(jax.random.key(3), best.shape)
        truth, wrong = process.loss(best, target, t), process.loss(other, target, t)
        assert truth.shape == (4,) and np.all(np.isfinite(truth))
        assert np.all(wrong == 0) if cheap else np.all(truth.sum() < wrong.sum())


def test_a_process_from_outside_is_drawn_as_its_denoiser_says():
    """Tokens that depend on each other by none, so that the exact denoiser is known: frequencies are its own."""
    p, n = np.array([0.4, 0.3, 0.2, 0.08, 0.02]), 3000
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(p, jnp.float32)), (n, LENGTH, VOCABULARY))
    streams = {"word": stream(Replaced(VOCABULARY)), "label": dj.streams.label(3)}
    draw = jax.jit(lambda key: dj.sample(lambda x, t: {"word": logits}, streams, key, n, steps=3))
    counts = np.bincount(np.ravel(draw(jax.random.key(0))["word"]), minlength=VOCABULARY)
    assert stats.chisquare(counts, p * n * LENGTH).pvalue > 1e-3


def test_a_process_from_outside_trains_is_drawn_and_is_guided():
    """With an image beside it, in one network; nothing in the package has to know of it."""
    streams = {"word": stream(Replaced(VOCABULARY)), "image": dj.streams.image((4, 4, 1)), "label": dj.streams.label(2)}
    model = dj.DiT(streams, width=24, depth=1, heads=2, weights="learned")
    labels = np.arange(32, dtype=np.int32) % 2
    batch = {"word": np.tile(labels[:, None] * 3, LENGTH), "image": np.zeros((32, 4, 4, 1)), "label": labels}
    optimizer = optax.adam(1e-2)

    @jax.jit
    def update(params, state, key):
        loss = lambda params: dj.loss(functools.partial(model.apply, params), streams, key, batch)
        value, gradient = jax.value_and_grad(loss)(params)
        change, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, change), state, value

    params, losses = model.init(jax.random.key(0)), []
    state = optimizer.init(params)
    for step in range(60):
        params, state, value = update(params, state, jax.random.key(step))
        losses.append(float(value))
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    given = {"label": jnp.arange(8) % 2}
    draw = jax.jit(
        lambda key: dj.sample(
            functools.partial(model.apply, params),
            streams,
            key,
            8,
            given=given,
            steps=6,
            guidance=dj.classifier_free(2.0),
            first=["word"],
        )
    )
    drawn = draw(jax.random.key(1))
    assert drawn["image"].shape == (8, 4, 4, 1)
    assert np.mean(np.asarray(drawn["word"]) == 3 * (np.arange(8) % 2)[:, None]) > 0.9
