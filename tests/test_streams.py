"""Leaves: what each stream promises to the mathematics, the network and the shell."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dit_jax.config import STREAMS
from dit_jax.diffusion.ddpm import DDPM
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.stream import View
from dit_jax.run import SampleOptions
from dit_jax.sampling.given import read_given
from dit_jax.sampling.plan import make_plan
from dit_jax.streams import audio, duration, image, label, past, span, text, video

EXAMPLES = {
    "audio": audio(32, patch=4),
    "duration": duration(audio(32, patch=4), of="audio"),
    "image": image((4, 6, 3), patch=2),
    "label": label(10),
    "past": past(text(7), of="text"),
    "span": span(),
    "text": text(7),
    "video": video((4, 4, 6, 3), patch=(2, 2, 2)),
}
every_stream = pytest.mark.parametrize("stream", EXAMPLES.values(), ids=EXAMPLES)


@pytest.mark.parametrize("kind", STREAMS)
def test_every_kind_of_stream_is_tried_here(kind):
    assert kind in EXAMPLES, f"{kind} is new: give EXAMPLES a small one"


@pytest.mark.parametrize(
    ("stream", "wanted"),
    [
        *((stream, False) for stream in EXAMPLES.values()),
        (label(10, dropout_rate=0.0), True),
        (label(10, dropout_rate=1e-4), False),
        (label(1, dropout_rate=1.0), False),
        (duration(audio(32, patch=4), of="audio", dropout_rate=0.0), True),
        (span(rate=0.0), False),  # no data hold it: samplers say how far they go
    ],
)
def test_a_condition_that_training_never_hides_is_always_given(stream, wanted):
    """A past is none that anyone gives, and what is drawn is hidden as it is."""
    assert stream.always_given is wanted


@every_stream
def test_embed_makes_a_token_for_every_position_and_head_makes_the_prediction(stream):
    x = stream.process.prior(jax.random.split(jax.random.key(0), 2), stream.shape)
    tokens, _ = stream.embed(16, jnp.float32, "embed").init_with_output(jax.random.key(0), x)
    assert tokens.shape == ((2, 16) if stream.positions is None else (2, len(stream.positions), 16))
    if stream.head is not None:
        out, _ = stream.head(16, jnp.float32, "head").init_with_output(jax.random.key(0), tokens)
        logits = (stream.process.vocabulary,) if isinstance(stream.process, Masked) else ()
        assert out.shape == x.shape + logits and np.all(out == 0)


@every_stream
def test_what_is_shown_and_saved_is_one_for_each_example(stream, tmp_path):
    x = np.asarray(stream.process.prior(jax.random.split(jax.random.key(0), 3), stream.shape))
    if stream.view.show is not None:
        assert len(stream.view.show(x)) == 3
    if stream.view.features is not None:
        assert stream.view.features(x).ndim == 2 and len(stream.view.features(x)) == 3
    if stream.view.save is not None:
        files = {stream.view.save(example, tmp_path / str(i)) for i, example in enumerate(x)}
        assert len(files) == 3 and all(file.parent == tmp_path and file.exists() for file in files)


def test_a_process_that_wants_two_values_a_channel_gets_them():
    stream = image((4, 6, 3), patch=2, process=DDPM())
    tokens = jnp.ones((2, len(stream.positions), 16))
    out, _ = stream.head(16, jnp.float32, "head").init_with_output(jax.random.key(0), tokens)
    assert out.shape == (2, 4, 6, 6)


@every_stream
def test_levels_are_levels(stream):
    t = stream.levels(jnp.linspace(0.001, 0.999, 999))
    assert np.all((t >= 0) & (t <= 1))


def test_an_image_has_a_row_and_a_column_for_every_patch():
    np.testing.assert_array_equal(
        image((4, 6, 3), patch=2).positions, [(0, row, column) for row in range(2) for column in range(3)]
    )
    with pytest.raises(ValueError, match="does not divide"):
        image((4, 6, 3), patch=4)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_shows_minus_one_as_black_and_one_as_white(channels):
    x = np.linspace(-1.5, 1.5, 2 * 4 * 4 * channels).reshape(2, 4, 4, channels).astype(np.float32)
    shown = image((4, 4, channels)).view.show(x)
    assert shown.shape == x.shape and shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[x <= -1], 0)
    np.testing.assert_array_equal(shown[x >= 1], 255)
    inside = np.abs(x) < 1
    assert np.max(np.abs(shown[inside] / 127.5 - 1 - x[inside])) <= 0.5 / 127.5 + 1e-6


def test_every_byte_is_shown_as_itself():
    byte = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(image((16, 16, 1)).view.show(byte / 127.5 - 1), byte)


def test_a_labels_mask_is_its_last_embedding():
    embed = label(3).embed(8, jnp.float32, "label")
    rows, params = embed.init_with_output(jax.random.key(0), jnp.arange(4))
    assert params["params"]["embedding"].shape == (4, 8)
    np.testing.assert_array_equal(rows, params["params"]["embedding"])


@pytest.mark.parametrize(("text", "labels"), [("3", [3]), ("0,2,5", [0, 2, 5]), ("all", range(10)), ("9,9", [9, 9])])
def test_labels_are_read_from_the_shell(text, labels):
    read = label(10).view.read(text)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, list(labels))


@pytest.mark.parametrize("text", ["cat", "1.5", "", "1,,2", "0-3"])
def test_what_is_not_a_label_is_an_error_that_says_what_is(text):
    with pytest.raises(ValueError, match=r"integer, a list such as 0,2,5, all, random or none; not"):
        label(10).view.read(text)


@pytest.mark.parametrize(("text", "wrong"), [("10", 10), ("3,-1", -1), ("0,99", 99)])
def test_a_label_that_does_not_exist_is_an_error_that_names_it(text, wrong):
    with pytest.raises(ValueError, match=rf"label {wrong} does not exist: labels are 0 \.\.\. 9"):
        label(10).view.read(text)


NAMED = {
    "words": ["ant", "bee", "3", "stag beetle", "moth, cabbage"],
    "others": ["1", "2", "10"],
    "padded": ["00", "01", "02"],
    "reserved": ["all", "none", "random"],
}


@pytest.mark.parametrize(
    ("names", "text", "labels"),
    [
        ("words", "bee", [1]),
        ("words", "bee,ant , stag beetle", [1, 0, 3]),
        ("words", "moth, cabbage", [4]),
        ("words", "ant,none", [0, 5]),
        ("words", "3", [2]),
        ("others", "2", [1]),
        ("others", "10,1", [2, 0]),
        ("others", "all", [0, 1, 2]),
        ("padded", "01,1", [1, 1]),
        ("reserved", "none", [3]),
        ("reserved", "2,1", [2, 1]),
    ],
)
def test_labels_go_by_the_names_of_classes(names, text, labels):
    """And by numbers where no class has another number for its name."""
    view = label(len(NAMED[names])).view.named(NAMED[names])
    np.testing.assert_array_equal(view.read(text), labels)
    assert view.show(np.array(labels)) == [[*NAMED[names], ""][value] for value in labels]


@pytest.mark.parametrize(
    ("names", "text", "message"),
    [
        ("words", "be", "label 'be' does not exist; did you mean 'bee'"),
        ("words", "ant,wasp", "label 'wasp' does not exist; known are 3, ant, bee, moth, cabbage, stag beetle"),
        ("words", "1", "label '1' does not exist; known are"),
        ("others", "0", "label '0' does not exist; .*10"),
        ("others", "3", "label '3' does not exist; known are 1, 10, 2"),
        ("padded", "3", r"label 3 does not exist: labels are 0 \.\.\. 2"),
        ("reserved", "every", "label 'every' does not exist; known are all, none, random"),
    ],
)
def test_a_name_that_no_class_has_is_an_error_that_says_which_have(names, text, message):
    with pytest.raises(ValueError, match=message):
        label(len(NAMED[names])).view.named(NAMED[names]).read(text)


def test_of_many_names_a_few_are_said():
    names = [f"species {i:04}" for i in range(1000)]
    with pytest.raises(ValueError, match=r"known are species 0000, .*, species 0019 and 980 more$"):
        label(1000).view.named(names).read("zzz")


def test_given_values_take_turns():
    streams = {"image": EXAMPLES["image"], "label": EXAMPLES["label"]}
    given, prefix, start = read_given(streams, ["label=0,2,5"])
    np.testing.assert_array_equal(given["label"], [0, 2, 5])
    plan = make_plan(streams, SampleOptions(num=7, given=("label=0,2,5",)))
    np.testing.assert_array_equal(plan.take(np.arange(2, 7))[1]["label"], [5, 0, 2, 5, 0])
    assert prefix == start == {} and read_given(streams, []) == ({}, {}, {})


def test_a_part_of_a_stream_can_be_given():
    read = lambda text: np.array([[int(word) for word in text]], np.int32)
    word = dataclasses.replace(label(10), shape=(4,), groups=4, head=lambda *of: None, view=View(read=read))
    assert read_given({"text": word}, ["text=1234:prefix=3"]).prefix == {"text": 3}
    for wrong in ("0", "4", "x", "-1", ""):
        with pytest.raises(ValueError, match=r"the prefix of text, 4 groups, should be 1 \.\.\. 3"):
            read_given({"text": word}, [f"text=1234:prefix={wrong}"])
    gaps = dataclasses.replace(word, view=View(read=lambda text: np.array([[1, 10, 10, 4]], np.int32)))
    found = read_given({"text": gaps}, ["text=1**4"])
    assert found.given == {} and found.start["text"].tolist() == [[1, 10, 10, 4]]


def test_random_labels_are_uniform_and_always_the_same():
    labels = label(10).view.read("random")
    assert labels.shape == (50_000,) and labels.dtype == np.int32
    assert np.all(np.abs(np.bincount(labels, minlength=10) / 5000 - 1) < 5 / np.sqrt(5000))
    np.testing.assert_array_equal(labels, label(10).view.read("random"))


@pytest.mark.parametrize("text", ["label", "lable=3", "span=3", "past=3", "=3"])
def test_what_cannot_be_given_is_an_error_that_says_what_can(text):
    streams = {name: EXAMPLES[name] for name in ("image", "label", "past", "span", "text")}
    with pytest.raises(ValueError, match="STREAM=VALUE, where STREAM is one of: image, label, text"):
        read_given(streams, [text])


@every_stream
def test_what_a_stream_holds_reaches_every_token(stream):
    keys = jax.random.split(jax.random.key(0), 2)
    absent = stream.process.prior(keys, stream.shape)
    there = (absent + 1) % 3 if isinstance(stream.process, Masked) else absent + 0.5
    layer = stream.embed(16, jnp.float32, "embed")
    before, params = layer.init_with_output(jax.random.key(0), absent)
    assert np.abs(layer.apply(params, there) - before).max(-1).min() > 1e-4
