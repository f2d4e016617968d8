"""The language model that reads what is drawn: a token's cost depends on its past alone, and language costs least."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.data.packages import missing
from dit_jax.evaluation import language_model
from dit_jax.evaluation.language_model import costs

VOCABULARY, WIDTH, DEPTH = 11, 16, 2
SHAPES = {
    "attn_norm": (WIDTH,),
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH // 2, WIDTH),
    "attn_v": (WIDTH // 2, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_norm": (WIDTH,),
    "ffn_gate": (24, WIDTH),
    "ffn_up": (24, WIDTH),
    "ffn_down": (WIDTH, 24),
}
SMALL = jax.jit(functools.partial(costs, heads=4, shared=2, base=100.0, epsilon=1e-5))


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(0)
    blocks = {f"{name}.weight": rng.standard_normal((DEPTH, *shape), np.float32) for name, shape in SHAPES.items()}
    ends = {"embedding": rng.standard_normal((VOCABULARY, WIDTH), np.float32), "norm": np.ones(WIDTH, np.float32)}
    return {**ends, "blocks": blocks}


@pytest.fixture
def ids():
    return np.random.default_rng(1).integers(VOCABULARY, size=(3, 9)).astype(np.int32)


def test_what_a_token_costs_depends_on_those_before_it_alone(params, ids):
    for place in range(1, 9):
        changed = ids.copy()
        changed[:, place:] = (changed[:, place:] + 1) % VOCABULARY
        for before, after in zip(SMALL(params, ids), SMALL(params, changed), strict=True):
            np.testing.assert_array_equal(before[:, : place - 1], after[:, : place - 1])


def test_the_order_of_what_came_before_matters(params, ids):
    swapped = ids[:, [0, 2, 1, *range(3, 9)]]
    moved = np.any(ids != swapped, axis=1)
    assert moved.any() and np.all(SMALL(params, ids)[0][moved, -1] != SMALL(params, swapped)[0][moved, -1])


def test_costs_are_those_of_a_distribution_and_the_entropy_is_its_mean(params, ids):
    """Replace the last token by every other."""
    every = np.repeat(ids[:1], VOCABULARY, axis=0)
    every[:, -1] = np.arange(VOCABULARY)
    bits, entropy = (np.asarray(part[:, -1]) for part in SMALL(params, every))
    assert np.sum(2.0**-bits) == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(entropy, np.sum(2.0**-bits * bits), rtol=1e-5)


def test_a_model_that_knows_nothing_pays_for_every_token_alike(params, ids):
    for part in SMALL({**params, "norm": jnp.zeros(WIDTH)}, ids):
        np.testing.assert_allclose(part, np.log2(VOCABULARY), rtol=1e-6)


# ---- SmolLM2 ----

VERSES = [
    b"In the beginning God created the heaven and the earth. And the earth was without form, and void;",
    b"Now there was a famine in the days when the judges ruled, and a certain man of Bethlehem went to sojourn.",
    b"For God so loved the world.",
]


@pytest.fixture(scope="module")
def reader():
    if absent := missing(language_model.PACKAGES):
        pytest.skip(f"not installed: {absent}")
    return language_model.load(batch=4)


def test_a_text_costs_the_same_alone_and_beside_longer_ones(reader):
    together = reader(VERSES)
    assert together[2].tolist() == [*map(len, VERSES)]
    for i in (1, 2):
        np.testing.assert_allclose([part[0] for part in reader([VERSES[i]])], [part[i] for part in together], rtol=1e-4)


def test_language_costs_less_than_its_words_in_another_order_and_they_less_than_letters(reader):
    rng = np.random.default_rng(0)
    shuffled = [b" ".join(rng.permutation(verse.split())) for verse in VERSES]
    letters = [rng.choice([*b"abcdefghijklmnopqrstuvwxyz"], len(verse)).astype(np.uint8).tobytes() for verse in VERSES]
    bits, entropy, size = (part.reshape(3, 3).sum(1) for part in reader(VERSES + shuffled + letters))
    real, disordered, noise = bits / size
    assert 1.3 * real < disordered < 0.7 * noise and noise > np.log2(26)
    assert np.all(entropy > 0) and bits[2] > entropy[2]


def test_what_is_said_again_and_again_costs_less_and_less(reader):
    bits, _, size = reader([VERSES[0] * times for times in (1, 2, 3, 4)])
    assert np.all(np.diff(bits, 2) < 0) and bits[3] - bits[2] < 0.2 * bits[0]
    assert size.tolist() == [len(VERSES[0]) * times for times in (1, 2, 3, 4)]


def test_without_its_packages_there_is_a_command_that_installs_them(monkeypatch):
    monkeypatch.setattr(language_model, "PACKAGES", ("numpy", "no_such_package"))
    assert missing(language_model.PACKAGES) == "no_such_package"
    with pytest.raises(ValueError, match="needs no_such_package: pip install"):
        language_model.load()
