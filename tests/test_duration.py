"""Durations: a clip that ends is what a shorter clip would be, and nothing after its end matters to anything."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.data import sources
from dit_jax.diffusion.gaussian import Gaussian, noise
from dit_jax.diffusion.guidance import classifier_free
from dit_jax.diffusion.objective import losses_at
from dit_jax.network.layers import MODERN
from dit_jax.network.layout import first_value
from dit_jax.streams import audio, duration, image, label, past, text, video

KEY = jax.random.key(0)
LENGTH, PATCH = 24, 4
SPEECH = audio(LENGTH, patch=PATCH)


def of(streams):
    """(a small model of these streams, parameters that are nowhere zero)."""
    model, rng = dj.DiT(streams, width=24, depth=2, heads=2, block=MODERN), np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, KEY)
    return model, jax.tree.map(lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes)


def ended(**others):
    """The same of a clip with a duration, which says nothing but where the end is."""
    model, params = of({"speech": SPEECH, **others, "duration": duration(SPEECH)})
    silent = jax.tree.map(jnp.zeros_like, params["params"]["duration_embed"])
    return model, {"params": {**params["params"], "duration_embed": silent}}


def noised(values, length=LENGTH):
    n = len(values)
    x = {"speech": jax.random.normal(KEY, (n, length, 1)), "duration": jnp.asarray(values, jnp.int32)}
    return x, {"speech": jnp.linspace(0.2, 1, n), "duration": jnp.zeros(n)}


@pytest.mark.parametrize("tokens", [1, 3, 6])
def test_a_clip_that_ends_is_a_shorter_clip(tokens):
    """The same network on a stream of just so many tokens says the same of it."""
    model, params = ended()
    others = {name: part for name, part in params["params"].items() if name != "duration_embed"}
    cut = dj.DiT({"speech": audio(tokens * PATCH, patch=PATCH)}, width=24, depth=2, heads=2, block=model.block)
    x, t = noised([tokens * PATCH] * 4)
    said = jax.jit(model.apply)(params, x, t)["speech"]
    shorter = {"speech": x["speech"][:, : tokens * PATCH]}
    wanted = jax.jit(cut.apply)({"params": others}, shorter, {"speech": t["speech"]})["speech"]
    np.testing.assert_allclose(said[:, : tokens * PATCH], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(said[:, tokens * PATCH :], 0)
    assert np.abs(wanted).max() > 0.1


def test_a_hidden_duration_ends_nothing():
    model, params = ended()
    plain = {name: part for name, part in params["params"].items() if name != "duration_embed"}
    x, t = noised([LENGTH + 1] * 4)  # the mask
    whole = dj.DiT({"speech": SPEECH}, width=24, depth=2, heads=2, block=model.block)
    wanted = jax.jit(whole.apply)({"params": plain}, {"speech": x["speech"]}, {"speech": t["speech"]})
    found = jax.jit(model.apply)(params, x, t | {"duration": jnp.ones(4)})
    np.testing.assert_allclose(found["speech"], wanted["speech"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "others", [{}, {"text": text(4, 5)}, {"text": text(4, 5, blocks=2)}], ids=["alone", "", "past"]
)
def test_what_comes_after_the_end_reaches_nothing(others):
    """An end within a token, too: its other samples are heard, and said to be silent."""
    if others and others["text"].groups > 1:
        others = {**others, "past": past(others["text"])}
    model, params = ended(**others)
    x, t = noised([0, 9, 12, 23])  # 0, which no data have, is taken for 1
    x |= {name: jnp.arange(4 * 4).reshape(4, 4) % 5 for name in others}
    t |= {name: jnp.zeros(4) if name == "past" else jnp.ones(4) for name in others}
    after = jnp.arange(LENGTH) >= -(-jnp.maximum(x["duration"], 1)[:, None] // PATCH) * PATCH
    apply = jax.jit(functools.partial(model.apply, params))
    said, again = (apply(x | {"speech": jnp.where(after[..., None], loud, x["speech"])}, t) for loud in (0.0, 1e3))
    jax.tree.map(np.testing.assert_array_equal, said, again)
    here = np.arange(LENGTH) < np.maximum(x["duration"], 1)[:, None]
    np.testing.assert_array_equal(np.any(said["speech"] != 0, axis=2), here)


@pytest.mark.parametrize("guidance", [None, classifier_free(2.0)], ids=["", "guided"])
def test_samples_end_when_they_are_told_to(guidance):
    model, params = of({"speech": SPEECH, "duration": duration(SPEECH)})
    values = jnp.array([1, 8, 13, LENGTH])
    predict = functools.partial(model.apply, params)
    draw = jax.jit(
        lambda values: dj.sample(predict, model.streams, KEY, 4, {"duration": values}, steps=3, guidance=guidance)
    )
    drawn = draw(values)["speech"]
    np.testing.assert_array_equal(np.any(drawn != 0, axis=2), np.arange(LENGTH) < values[:, None])


def test_silence_after_the_end_costs_nothing_and_all_that_is_heard_counts_alike():
    """At initialisation a network says 0: the loss is the energy of what is heard, over the level squared."""
    model = dj.DiT({"speech": SPEECH, "duration": duration(SPEECH, dropout_rate=0.0)}, width=24, depth=1, heads=2)
    params, values = model.init(KEY), jnp.array([8, 16])
    sound = jax.random.normal(KEY, (2, LENGTH, 1)) * (jnp.arange(LENGTH) < values[:, None])[..., None]
    t = {"speech": jnp.full(2, 0.5), "duration": jnp.zeros(2)}
    keys = jax.random.split(KEY, 2)
    predict = functools.partial(model.apply, params)
    found = losses_at(predict, model.streams, keys, {"speech": sound, "duration": values}, t)["speech"]
    np.testing.assert_allclose(found, np.mean(np.square(sound), axis=(1, 2)) / 0.5**2, rtol=1e-5)


def test_frames_end_as_samples_do():
    clip = video((4, 4, 4, 1), patch=(1, 2, 2))
    model, params = of({"clip": clip, "duration": duration(clip, "clip")})
    x = {"clip": jax.random.normal(KEY, (2, 4, 4, 4, 1)), "duration": jnp.array([1, 3])}
    said = jax.jit(model.apply)(params, x, {"clip": jnp.ones((2, 4)), "duration": jnp.zeros(2)})["clip"]
    np.testing.assert_array_equal(np.any(said != 0, axis=(2, 3, 4)), [[1, 0, 0, 0], [1, 1, 1, 0]])


def test_durations_are_read_from_the_shell():
    stream = duration(SPEECH)
    np.testing.assert_array_equal(stream.view.read("1,24"), [1, 24])
    assert stream.view.show(stream.view.read("7,24")) == ["7", "24"] and stream.view.show(np.array([25])) == [""]
    for wrong, message in (
        ("0", "duration 0 should be 1 ... 24 samples"),
        ("25", "duration 25"),
        ("long", "not 'long'"),
    ):
        with pytest.raises(ValueError, match=message):
            stream.view.read(wrong)


@pytest.mark.parametrize(
    "stream",
    [label(3), text(4, 5), image((4, 4, 1), process=Gaussian(prediction=noise))],
    ids=["label", "text", "noise"],
)
def test_only_what_predicts_silence_by_zeros_can_end(stream):
    with pytest.raises(ValueError, match="of = 'it' should be a Gaussian stream that predicts x"):
        duration(stream, "it")


def test_words_are_silent_after_their_durations(tmp_path, monkeypatch):
    pytest.importorskip("espeakng_loader", reason="the voices are in the wheel espeakng-loader")
    from dit_jax.data import audio_digits

    monkeypatch.setattr(audio_digits, "VOICES", {"train": "m3", "test": "f2"})
    monkeypatch.setattr(audio_digits, "TAKES", 1)
    sources.prepare("audio_digits", tmp_path)
    speech = audio(audio_digits.LENGTH, patch=128)
    streams = {"speech": speech, "duration": duration(speech)}
    words = sources.load("audio_digits", "train", tmp_path, streams)
    lasted = [
        (word["duration"], np.ptp(word["speech"][word["duration"] :])) for word in map(words.__getitem__, range(20))
    ]
    assert {silence for _, silence in lasted if silence} == set()
    assert 1000 < min(lasted)[0] < max(lasted)[0] <= audio_digits.LENGTH


CLIPS = {
    "frames": video((8, 4, 4, 1), patch=(1, 2, 2)),
    "tubelets": video((8, 4, 4, 1), patch=(2, 2, 2)),
    "speech": SPEECH,
}


@pytest.mark.parametrize("kind", CLIPS)
def test_a_duration_says_how_many_tokens_along_time_have_begun(kind):
    """One embedding for each number of them, another for what is hidden: frames of a clip count as patches of sound."""
    stream = CLIPS[kind]
    spoken, most = duration(stream), stream.shape[0]
    steps = {"frames": 8, "tubelets": 4, "speech": LENGTH // PATCH}[kind]
    values = jnp.arange(1, most + 2)
    found, _ = spoken.embed(8, jnp.float32, "x").init_with_output(KEY, values)
    begun = [-(-value // (most // steps)) for value in range(1, most + 1)] + ["hidden"]
    for i, j in np.ndindex(len(begun), len(begun)):
        assert np.array_equal(found[i], found[j]) == (begun[i] == begun[j]), (begun[i], begun[j])
    assert np.all(np.isfinite(found)) and len(set(begun)) == steps + 1


@pytest.mark.parametrize("kind", CLIPS)
def test_a_token_is_heard_where_its_first_value_is(kind):
    stream = CLIPS[kind]
    starts = first_value(stream)
    size = stream.shape[0] // len(np.unique(stream.positions[:, 0]))
    np.testing.assert_array_equal(starts, stream.positions[:, 0] * size)


def test_only_what_lies_along_time_can_end():
    with pytest.raises(ValueError, match="of = 'picture' should be a stream along time, such as one of audio or video"):
        duration(image((4, 4, 1)), of="picture")


def test_factorised_attention_takes_no_duration():
    clip = CLIPS["frames"]
    streams = {"clip": clip, "end": duration(clip, of="clip")}
    with pytest.raises(ValueError, match="factorised attention takes no duration, and there is one of clip"):
        dj.DiT(streams, width=24, depth=2, heads=2, attention="factorised")
