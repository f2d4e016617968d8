"""Calls in a notebook are checked as commands are: one sentence about names, shapes, types and ranges, while tracing.

Nothing is computed by then, and a compiled program has no trace of it.
"""

import functools
import pydoc
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.diffusion import objective, sampler
from dit_jax.names import ConfigError
from dit_jax.network import dit

B = 9
STREAMS = {"image": dj.streams.image((6, 6, 1), patch=3), "label": dj.streams.label(10)}
SOUND = {"sound": dj.streams.audio(64, patch=8), "text": dj.streams.text(5)}
CLIP = {"clip": dj.streams.video((4, 6, 6, 1), patch=(1, 3, 3))}
KEY = jax.random.key(0)
PIXELS = "pixels are in -1 ... 1, which bytes are as x / 127.5 - 1"
COMPILED: list[str] = []

jax.monitoring.register_event_duration_secs_listener(lambda event, _, **__: COMPILED.append(event))


def never(x, t):
    raise AssertionError("the network was asked")


@pytest.fixture
def refuses():
    """refuses(call, message): a ValueError that says so, before anything is compiled; inside jit as well."""

    def check(call, message):
        for run in (call, lambda: jax.jit(call)()):
            COMPILED.clear()
            with pytest.raises(ValueError, match=f"^{re.escape(message)}") as error:
                run()
            assert "\n" not in str(error.value)
            assert not [event for event in COMPILED if event.endswith("backend_compile_duration")]

    return check


def images(value=0.0, dtype=np.float32, shape=(B, 6, 6, 1)):
    return np.full(shape, value, dtype)


def labels(value=3, dtype=np.int32, shape=(B,)):
    return np.full(shape, value, dtype)


# Whatever is wrong with arrays, in a batch as in what is given: {name: array} and the sentence.
ARRAYS = [
    ({"image": images(), "label": labels(), "lable": 3}, "the stream 'lable' does not exist; did you mean 'label'?"),
    ({"image": images(), "label": labels(shape=(4,))}, "label has 4 examples, and should have 9, one for each sample"),
    ({"image": images(), "label": labels(17)}, "label holds 17, and its values are 0 ... 9"),
    ({"image": images(), "label": labels(-1)}, "label holds -1, and its values are 0 ... 9"),
    ({"image": images(), "label": labels(dtype=np.float32)}, "label is float32, and should be int32"),
    ({"image": images(), "label": labels(dtype=bool)}, "label is bool, and should be int32"),
    ({"image": images(), "label": np.eye(9, 10)}, "label has the shape (9, 10), and should have [B], of B examples"),
    ({"image": images(), "label": 3}, "label has the shape (), and should have [B], of B examples"),
    ({"image": images(200, np.uint8), "label": labels()}, f"image is uint8, and should be float32: {PIXELS}"),
    ({"image": images(1, int), "label": labels()}, f"image is int64, and should be float32: {PIXELS}"),
    ({"image": images(255.0), "label": labels()}, f"image holds values up to 255: {PIXELS}"),
    ({"image": images(np.nan), "label": labels()}, "image holds a value that is not finite"),
    (
        {"image": images(shape=(B, 6, 6)), "label": labels()},
        "image has the shape (9, 6, 6), and should have [B, 6, 6, 1], of B examples",
    ),
    (
        {"image": images(shape=(B, 1, 6, 6)), "label": labels()},
        "image has the shape (9, 1, 6, 6), and should have [B, 6, 6, 1], of B ex",
    ),
    (
        {"image": images(shape=(6, 6, 1)), "label": labels()},
        "image has the shape (6, 6, 1), and should have [B, 6, 6, 1], of B examples",
    ),
]


@pytest.mark.parametrize(("arrays", "message"), ARRAYS)
def test_a_batch_that_is_not_of_these_streams_is_refused(arrays, message, refuses):
    refuses(lambda: dj.loss(never, STREAMS, KEY, arrays), f"the batch: {message}")


@pytest.mark.parametrize(("arrays", "message"), ARRAYS)
def test_what_is_given_is_refused_for_the_same_reasons(arrays, message, refuses):
    refuses(lambda: dj.sample(never, STREAMS, KEY, B, arrays), f"given: {message}")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"sound": np.full((B, 64, 1), 3e4, np.float32)}, "sound holds values up to 3e+04: a clip has mean 0 and"),
        ({"sound": np.zeros((B, 64), np.float32)}, "sound has the shape (9, 64), and should have [B, 64, 1], of B"),
        ({"text": np.full((B, 5), 256)}, "text holds 256, and its values are 0 ... 255"),
        ({"text": np.full((B, 5), "a")}, "text is <U1, and should be int32"),
    ],
)
def test_sound_and_text_are_looked_at_too(value, message, refuses):
    refuses(lambda: dj.sample(never, SOUND, KEY, B, value), f"given: {message}")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": images()}, "the batch has no 'label'; it has image"),
        ({"image": images(), "lable": labels()}, "the batch has no 'label'; did you mean it by 'lable'?"),
        ({}, "the batch has no 'image'; it has nothing"),
        ([images()], "the batch should be a dict, {stream: array}, and is a list"),
    ],
)
def test_a_batch_has_every_stream(batch, message, refuses):
    refuses(lambda: dj.loss(never, STREAMS, KEY, batch), message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": [labels()]}, "given should be a dict, {stream: array}, and is a list"),
        ({"solver": "hein"}, "solver = 'hein' does not exist; did you mean 'heun'?"),
        ({"solver": 3}, "solver = 3 should be one of: 'ddim', 'ancestral', '2m'"),
        ({"solver": None}, "solver = None should be one of: 'ddim', 'ancestral', '2m'"),
        ({"grid": "karas"}, "grid = 'karas' does not exist; did you mean 'karras'?"),
        ({"guidance": "1.5"}, "guidance = '1.5' should be a number, {stream: number}, or as dj.classifier_free is"),
        ({"guidance": {"lable": 2.0}}, "guidance: the stream 'lable' does not exist; did you mean 'label'?"),
        ({"steps": 0}, "steps = 0 should be at least 1"),
        ({"steps": 2.5}, "steps = 2.5 should be a whole number"),
        ({"shift": 0.0}, "shift = 0.0 should be above 0"),
        ({"shift": float("nan")}, "shift = nan should be above 0"),
        ({"num": 0}, "num = 0 should be at least 1"),
        ({"num": 9.0}, "num = 9.0 should be a whole number"),
        ({"num": None}, "say either num, how many samples to draw, or rows, which ones"),
        ({"rows": np.arange(B)}, "say either num, how many samples to draw, or rows, which ones"),
        (
            {"num": None, "rows": np.zeros((3, 3), int)},
            "rows should be whole numbers, [num], and are int64 of shape (3",
        ),
        ({"num": None, "rows": np.arange(9.0)}, "rows should be whole numbers, [num], and are float64 of shape (9,)"),
        ({"num": None, "rows": []}, "rows should be whole numbers, [num], and are float64 of shape (0,)"),
        ({"first": "image"}, "first = 'image' should be several names, such as ['image']"),
        ({"drawn": "image"}, "drawn = 'image' should be several names, such as ['image']"),
        ({"drawn": ["imgae"]}, "drawn: the stream 'imgae' does not exist; did you mean 'image'?"),
        ({"given": {"label": labels()}, "prefix": {"label": 1}}, "prefix: label = 1 should be left out: it is given"),
        ({"start": {"image": images(shape=(4, 6, 6, 1))}}, "start: image has 4 examples, and should have 9, one for"),
        ({"key": 0}, "key = 0 should be a random key, such as jax.random.key(0)"),
        ({"key": np.zeros(2)}, "key = array([0., 0.]) should be a random key, such as jax.random.key(0)"),
    ],
)
def test_what_cannot_be_drawn_is_named(options, message, refuses):
    refuses(lambda: dj.sample(never, STREAMS, **{"key": KEY, "num": B} | options), message)


def test_one_key_is_asked_for_and_not_several(refuses):
    keys = jax.random.split(KEY, 4)
    refuses(
        lambda: dj.sample(never, STREAMS, keys, B), "key holds 4 keys, and should be one, such as jax.random.key(0)"
    )
    refuses(lambda: dj.loss(never, STREAMS, 3, {}), "key = 3 should be a random key, such as jax.random.key(0)")


@pytest.mark.parametrize(("groups", "message"), [(4, "4"), (0, "0"), (1.5, "1.5")])
def test_a_prefix_is_a_part(groups, message, refuses):
    given = {"clip": np.zeros((B, 4, 6, 6, 1), np.float32)}
    sentence = f"prefix: clip = {message} should be 1 ... 3 of its 4 groups"
    refuses(lambda: dj.sample(never, CLIP, KEY, B, given, prefix={"clip": groups}), sentence)


@pytest.mark.parametrize("call", [dj.encode, dj.log_likelihood], ids=["encode", "log_likelihood"])
def test_the_flow_is_asked_about_the_same(call, refuses):
    for key, x, given, message in [
        (KEY, {"image": images(255.0)}, {}, f"x: image holds values up to 255: {PIXELS}"),
        (KEY, {"image": images()}, {"label": labels(17)}, "given: label holds 17, and its values are 0 ... 9"),
        (KEY, {"image": images()}, {"label": labels(shape=(4,))}, "given: label has 4 examples, and should have 9, on"),
        (KEY, {}, {}, "x is empty, and should have one or more of: image, label"),
        (7, {"image": images()}, {}, "key = 7 should be a random key"),
    ]:
        refuses(lambda key=key, x=x, given=given: call(never, STREAMS, key, x, given), message)


MODEL = dj.DiT(STREAMS, width=24, depth=1, heads=2)
X = {"image": images(), "label": labels()}
T = {"image": np.full(B, 0.5, np.float32), "label": np.zeros(B, np.float32)}


@pytest.fixture(scope="module")
def params():
    return MODEL.init(KEY)


@pytest.mark.parametrize(
    ("x", "t", "message"),
    [
        ({"image": images(), "lable": labels()}, T, "x has no 'label'; did you mean it by 'lable'?"),
        (X | {"lable": labels()}, T, "x: the stream 'lable' does not exist; did you mean 'label'?"),
        ({"image": images()}, T, "x has no 'label'; it has image"),
        (X | {"label": labels(shape=(4,))}, T, "x: label has 4 examples, and should have 9, one for each sample"),
        (X | {"image": images(1, np.uint8)}, T, f"x: image is uint8, and should be float32: {PIXELS}"),
        (X | {"label": labels(17)}, T, "x: label holds 17, and its values are 0 ... 10"),  # 10 is the mask
        (X | {"label": labels(dtype=np.float32)}, T, "x: label is float32, and should be int32"),
        (X, {"label": T["label"]}, "t has no 'image'; it has label"),
        (X, {"imgae": T["image"]}, "t: the stream 'imgae' does not exist; did you mean 'image'?"),
        (X, T | {"image": 0.5}, "t: image has the shape (), and should have (9,): a level of each example"),
        (
            X,
            T | {"image": T["image"][:4]},
            "t: image has the shape (4,), and should have (9,): a level of each example",
        ),
        (X, T | {"image": 500 * T["image"]}, "t: image holds 250.0, and levels are 0 ... 1: 0 is data, 1 is noise"),
        (images(), T, "x should be a dict, {stream: array}, and is a ndarray"),
    ],
)
def test_a_network_says_what_it_takes(x, t, message, params, refuses):
    refuses(lambda: MODEL.apply(params, x, t), message)


def test_levels_are_of_examples_or_of_their_groups(refuses):
    model = dj.DiT(CLIP, width=24, depth=1, heads=2)
    weights, x = jax.eval_shape(model.init, KEY), {"clip": np.zeros((B, 4, 6, 6, 1), np.float32)}
    for shape in ((B,), (B, 1), (B, 2), (B, 4)):
        jax.eval_shape(model.apply, weights, x, {"clip": np.zeros(shape)})
    message = "t: clip has the shape (9, 3), and should have (9,) or (9, 4): a level of each example"
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(model.apply, weights, x, {"clip": np.zeros((B, 3))})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dj.streams.image(shape=(8, 8)), "shape = (8, 8) should be 3 numbers, height, width, channels"),
        (
            lambda: dj.streams.image((8, 8, 1), patch=3),
            "patch (3, 3) does not divide the shape (8, 8); choose divisors",
        ),
        (lambda: dj.streams.image((8, 8, 1), patch=2.5), "patch = 2.5 is a float, and has to be int"),
        (lambda: dj.streams.image((8, 8, 1), patch=0), "patch = 0 should be at least 1"),
        (lambda: dj.streams.image(64), "shape = 64 is a int, and has to be tuple"),
        (lambda: dj.streams.image((8, 8, "1")), "shape[2] = '1' is a str, and has to be int"),
        (lambda: dj.streams.image((8, 8, 1), process=5), "process = 5 is a int, and has to be Gaussian or str"),
        (lambda: dj.streams.image((8, 8, 1), process=dj.Masked(3)), "process = Masked("),
        (lambda: dj.streams.image((8, 8, 1), levels=0.5), "levels = 0.5 is a float, and has to be a function or str"),
        (
            lambda: dj.streams.image((8, 8, 1), process="gaussian(schedule=cosine)"),
            "process=\"gaussian(schedule='cosine')\" is what to write, after --config. in a shell: "
            "gaussian(schedule=cosine) has no quotes around cosine",
        ),
        (lambda: dj.streams.label("10"), "classes = '10' is a str, and has to be int"),
        (lambda: dj.streams.label(10, dropout_rate=1.5), "dropout_rate = 1.5 should be at least 0 and at most 1"),
        (lambda: dj.streams.video((4, 8, 8)), "shape = (4, 8, 8) should be 4 numbers, frames, height, width, channels"),
        (lambda: dj.streams.video((4, 8, 8, 1), patch=4), "patch = 4 is a int, and has to be tuple"),
        (
            lambda: dj.streams.video((4, 8, 8, 1), patch=(1, 3, 3)),
            "patch (1, 3, 3) does not divide the shape (4, 8, 8)",
        ),
        (lambda: dj.streams.audio(64, basis="fourier"), "basis = 'fourier' does not exist; known are"),
        (lambda: dj.streams.text(8, blocks=3), "blocks = 3 should divide length = 8"),
        (lambda: dj.streams.past("text"), "stream = 'text' is a str, and has to be Stream"),
        (lambda: dj.streams.duration("speech"), "stream = 'speech' is a str, and has to be Stream"),
        (lambda: dj.Gaussian(prediction="eps"), "prediction = 'eps' does not exist"),
        (lambda: dj.Gaussian(schedule=0.5), "schedule = 0.5 is a float, and has to be a function"),
        (lambda: dj.Masked("10"), "vocabulary = '10' is a str, and has to be int"),
        (lambda: dj.DiT(STREAMS, width="48"), "width = '48' is a str, and has to be int"),
        (lambda: dj.DiT(STREAMS, depth=1.5), "depth = 1.5 is a float, and has to be int"),
    ],
)
def test_arguments_of_constructors_are_as_they_are_annotated(call, message, refuses):
    refuses(call, message)


def test_numbers_of_numpy_and_lists_are_as_good():
    stream = dj.streams.image(list(np.zeros((8, 8, 1)).shape), patch=np.int64(2))
    assert stream.shape == (8, 8, 1) and len(stream.positions) == 16
    assert dj.streams.label(np.int32(10), dropout_rate=np.float32(0.5)).process.vocabulary == 10
    assert dj.streams.label(10, dropout_rate=0).process.vocabulary == 10
    assert dj.streams.image((8, 8, 1), process=dj.DDPM()).process == dj.DDPM()
    assert dj.DiT(STREAMS, width=np.int64(24), heads=2).width == 24


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dj.streams.image((8, 8, 1), pach=2), r"image\(\) has no argument 'pach'; did you mean 'patch'\?"),
        (lambda: dj.streams.label(10, rate=0.1), r"label\(\) has no argument 'rate'; did you mean 'dropout_rate'\?"),
        (lambda: dj.streams.label(), "missing a required argument: 'classes'"),
    ],
)
def test_an_argument_that_is_not_there_is_a_type_error_as_everywhere_in_python(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_values_of_latents_have_no_scale():
    """A VAE's latents, and streams of one's own, may be of any size."""
    latents = {"image": dj.streams.image((4, 4, 4), codec="0" * 64)}
    jax.eval_shape(lambda: dj.loss(lambda x, t: x, latents, KEY, {"image": np.full((2, 4, 4, 4), 200.0)}))


def mean(x, t):
    """A network that goes by all that it is given."""
    return {"image": 0.5 * x["image"] + 0.01 * x["label"][:, None, None, None]}


@pytest.mark.parametrize(
    ("options", "same"),
    [
        ({"solver": "heun"}, {"solver": dj.SOLVERS["heun"]}),
        ({"grid": "karras"}, {"grid": dj.GRIDS["karras"]}),
        ({"guidance": 1.5}, {"guidance": dj.classifier_free(1.5)}),
        ({"guidance": {"label": 3}}, {"guidance": dj.classifier_free({"label": 3})}),
        ({"given": {"label": [3] * 4}}, {"given": {"label": jnp.full(4, 3)}}),
        ({"num": np.int64(4)}, {"rows": range(4)}),
    ],
)
def test_names_numbers_and_lists_are_what_they_stand_for(options, same):
    how = {"key": KEY, "given": {"label": np.full(4, 3)}, "steps": 4}
    draw = lambda which: dj.sample(mean, STREAMS, **how | ({} if "rows" in which else {"num": 4}) | which)["image"]
    one, other = (jax.jit(functools.partial(draw, which))() for which in (options, same))
    np.testing.assert_array_equal(one, other)
    different = jax.jit(lambda: draw({"key": jax.random.key(1)}))()
    assert np.abs(one - different).max() > 0.1


def test_the_name_of_an_objective_is_its_row():
    batch = {"image": images(shape=(4, 6, 6, 1)), "label": labels(shape=(4,))}
    assert dj.loss(mean, STREAMS, KEY, batch, "denoise") == dj.loss(mean, STREAMS, KEY, batch, dj.OBJECTIVES["denoise"])
    for options, message in [
        ({"objective": "denoice"}, "objective = 'denoice' does not exist; did you mean 'denoise'"),
        ({"joint_levels": "random"}, "joint_levels = 'random' does not exist; did you mean 'random_subsets'"),
        ({"objective": 3}, "objective = 3 should be one of: 'denoise', 'meanflow', 'improved_meanflow'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            dj.loss(mean, STREAMS, KEY, batch, **options)


def test_a_key_of_the_old_kind_draws_too():
    draw = jax.jit(lambda key: dj.sample(mean, STREAMS, key, 2, {"label": np.zeros(2, int)}, steps=2)["image"])
    np.testing.assert_array_equal(draw(jax.random.PRNGKey(0)), draw(jax.random.key(0)))


def test_the_program_is_the_same_without_the_checks(params, monkeypatch):
    """Nothing of them is in it: they look at names, shapes and types, which are gone when it is compiled."""

    def programs() -> list[str]:
        predict = functools.partial(MODEL.apply, params)
        draw = lambda key, label: dj.sample(predict, STREAMS, key, B, {"label": label}, steps=2, guidance=1.5)
        cost = lambda key, batch: dj.loss(predict, STREAMS, key, batch)
        traced = jax.make_jaxpr(draw)(KEY, labels()), jax.make_jaxpr(cost)(KEY, X)
        return [re.sub("0x[0-9a-f]+", "", str(jaxpr)) for jaxpr in traced]

    checked, silent = programs(), lambda *_, **__: None
    for module, names in {
        sampler: ("check_key", "check_sample", "check_numbers", "check_count"),
        objective: ("check_key", "check_arrays", "check_values"),
        dit: ("check_inputs",),
    }.items():
        for name in names:
            monkeypatch.setattr(module, name, silent)
    assert programs() == checked and len(checked[0]) > 1000


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            dj.sample,
            ["predict: 'Predict'", "streams: 'Streams'", "given: 'Arrays | None'", "solver: 'Solver | str' = '2m'"],
        ),
        (dj.loss, ["predict: 'Predict'", "batch: 'Arrays'", "objective: 'Objective | str' = 'denoise'"]),
        (dj.streams.image, ["levels: 'Quantile | str'", "process: 'Gaussian | str'"]),
        (dj.classifier_free, ["combine: 'Combine'", "-> 'Guidance'"]),
    ],
)
def test_help_calls_types_by_their_names(what, words):
    text = pydoc.render_doc(what, renderer=pydoc.plaintext)
    for word in words:
        assert word in text or word.replace("'", "") in text, text  # Python 3.14 has no quotes
    assert "collections.abc" not in text
