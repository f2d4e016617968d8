"""What is known and what is drawn is decided, and read, before anything compiles; samples are written in all forms."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax.config import build
from dit_jax.configs import digits
from dit_jax.run import SampleOptions
from dit_jax.sampling.files import pictures, write_pictures, write_samples
from dit_jax.sampling.given import read_given
from dit_jax.sampling.plan import check_all_given, make_plan
from dit_jax.sampling.shards import merge
from dit_jax.training.loop import train

CLIP = dj.streams.video((4, 4, 4, 1), patch=(1, 2, 2))
SPEECH = dj.streams.audio(32, patch=8)
STREAMS = {
    "image": dj.streams.image((4, 4, 1)),
    "name": dj.streams.text(6),
    "clip": CLIP,
    "label": dj.streams.label(10),
    "speech": SPEECH,
    "duration": dj.streams.duration(SPEECH),
}


def plan(**options):
    return make_plan(STREAMS, SampleOptions(num=4, **options))


def test_what_is_given_is_not_drawn_and_the_rest_is():
    found = plan(given=("label=1,2", "name=one"))
    assert found.order.could_be_drawn == ("image", "clip", "speech") and found.given.keys() == {"label", "name"}
    rows, given, start = found.take(np.arange(1, 4))
    assert given["label"].tolist() == [2, 1, 2] and rows.tolist() == [1, 2, 3] and start == {}


def test_a_text_with_a_gap_is_where_drawing_starts():
    found = plan(given=("name=a*",))
    assert found.take(np.arange(4))[2].keys() == {"name"} and "name" in found.order.could_be_drawn


def test_samples_that_start_from_given_noise_share_all_else(tmp_path):
    start = {"image": np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((4, 4, 4, 1), np.float32)}
    found = make_plan(STREAMS, SampleOptions(num=4, given=("label=1,2",)), start=start)
    rows, given, begun = found.take(np.arange(2, 4))
    assert rows.tolist() == [0] * 2 and given["label"].tolist() == [1] * 2
    assert begun.keys() == {"image"} and begun["image"][:, 0, 0, 0].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": ("label=1",), "drawn": ("name",), "first": ("label",)}, "first = label should be some of"),
        ({"given": ("name=one",), "drawn": ("name",)}, "drawn = name should be some of: image, clip, speech"),
        ({"given": ("label=1",), "guidance": "name=2"}, r"guidance = 'name=2' is for streams .* given: label"),
        ({"given": ("duration=8",), "guidance": "duration=2"}, "is for streams that are given: none"),
        ({"rollout": "flip=9:1"}, "rollout = 'flip=9:1' is for one of image"),
        ({"given": ("name=a*",), "rollout": "clip=9:1"}, "from noise or a prefix"),
        ({"given": ("label=10",)}, "label 10 does not exist: labels are 0 ... 9"),
        ({"given": ("clip",)}, "--given=clip should be STREAM=VALUE"),
        ({"given": ("label=none",), "guidance": "label=2"}, "is for streams that are given: none"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(options, message):
    with pytest.raises(ValueError, match=message):
        plan(**options)


NEVER_HIDDEN = {**STREAMS, "label": dj.streams.label(10, dropout_rate=0.0)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"given": ("label=1",), "guidance": 1.5}, "guidance = 1.5 leads away from .* without label, .* no null class"),
        ({"given": ("label=1", "name=one"), "guidance": "label=2,name=3"}, "guidance = 'label=2,name=3' leads away"),
        ({"given": ("label=none",)}, "--given=label=none: this run has no null class: in training label was never"),
        ({"given": ("label=3,none",)}, "--given=label=3,none: this run has no null class"),
    ],
)
def test_what_was_never_hidden_is_not_led_away_from_and_has_no_null_class(options, message):
    with pytest.raises(ValueError, match=message):
        make_plan(NEVER_HIDDEN, SampleOptions(num=4, **options))
    plan(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"given": ("label=1",)},
        {"given": ("label=1",), "guidance": "label=1"},
        {"given": ("label=1", "name=one"), "guidance": "name=2"},
        {"given": ("label=1",), "guidance": 2.0, "weak": "runs/worse"},  # which sees the label too
    ],
)
def test_what_was_never_hidden_is_given_as_ever(options):
    found = make_plan(NEVER_HIDDEN, SampleOptions(num=4, **options))
    assert found.given["label"].tolist() == [1]
    check_all_given(NEVER_HIDDEN, found)


def test_what_was_never_hidden_has_to_be_given():
    found = make_plan(NEVER_HIDDEN, SampleOptions(num=4, given=("name=one",)))
    with pytest.raises(ValueError, match="--given=label=VALUE is missing: in training label was never hidden"):
        check_all_given(NEVER_HIDDEN, found)
    check_all_given(STREAMS, found)


def test_a_stream_that_goes_on_is_not_drawn_first(tmp_path):
    file = CLIP.view.save(np.random.default_rng(0).uniform(-1, 1, (4, 4, 4, 1)), tmp_path / "a")
    found = plan(given=(f"clip={file}:prefix=2",))
    assert found.order.prefix == (("clip", 2),) and "clip" in found.order.could_be_drawn
    with pytest.raises(ValueError, match="first = clip: clip goes on from a given part"):
        plan(given=(f"clip={file}:prefix=2",), first=("clip",))


def run_of(given: tuple[str, ...], **sample):
    config = json.loads(digits.get_config().to_json())
    return build({**config, "sample": {**config["sample"], **sample, "given": list(given)}})


def test_a_file_that_has_moved_is_no_hindrance_until_it_is_asked_for(tmp_path):
    """A run knows what it was told to give; other things can be given, and scores need none of it."""
    file = tmp_path / "three.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(file)
    run = run_of((f"image={file}",), num=2)
    assert read_given(run.streams, run.sample.given).given["image"].shape == (1, 8, 8, 1)
    file.unlink()
    same = run_of((f"image={file}",), num=2)
    with pytest.raises(OSError, match=r"cannot read the image .*three.png"):
        make_plan(same.streams, same.sample)
    assert make_plan(same.streams, dataclasses.replace(same.sample, given=("label=2",))).given.keys() == {"label"}


@pytest.mark.parametrize("given", ["image=nowhere.png", "label=10"])
def test_training_that_will_look_reads_what_is_given_before_it_begins(given, tmp_path):
    with pytest.raises((ValueError, OSError), match=r"nowhere.png|label 10 does not exist"):
        train(run_of((given,), every=5), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_given_stream_that_leaves_nothing_to_draw_is_an_error_that_says_what_to_use(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "a.png")
    streams = {name: STREAMS[name] for name in ("image", "label")}
    given = (f"image={tmp_path / 'a.png'}", "label=1")
    with pytest.raises(ValueError, match=r"a.png label=1 leaves nothing to draw, which should be one of: image; leave"):
        make_plan(streams, SampleOptions(num=4, given=given))
    assert make_plan(streams, SampleOptions(num=4, given=given[1:])).order.could_be_drawn == ("image",)


def test_nothing_is_given_where_nothing_is_said():
    """--given= takes the place of what the config gives."""
    assert SampleOptions(given=("",)) == SampleOptions() and plan(given=("",)).given == {}
    assert SampleOptions(given=("", "label=1")).given == ("label=1",)


def test_no_label_is_the_mask_and_a_stream_that_is_only_masks_is_absent():
    """Alone it is not given, so that its level is 1; among others it is a value: a network is told no level."""
    label = STREAMS["label"]
    assert label.view.read("3,none").tolist() == [3, 10] and label.process.is_mask(label.view.read("none")).all()
    absent = plan(given=("label=none",))
    assert absent.given == {} and absent.take(np.arange(4))[2] == {}
    mixed = plan(given=("label=3,none",), guidance="label=2")
    assert mixed.take(np.arange(4))[1]["label"].tolist() == [3, 10, 3, 10] and mixed.known == {}
    t = np.array([0.0, 1.0], np.float32)
    assert np.ptp(label.process.time_input(t)) == 0  # the network is told the same at both levels


def written(out, sample, protocol, is_path=False):
    """Samples as the sample command writes them."""
    write_samples(out, STREAMS, sample)
    about = {"seed": protocol["seed"], "protocol": json.dumps(protocol)}
    whole = merge(out, len(next(iter(sample.values()))), about)
    return write_pictures(whole, STREAMS, is_path)


def test_samples_are_written_in_every_form_that_somebody_reads(tmp_path):
    rng = np.random.default_rng(0)
    sample = {
        "image": rng.uniform(-1, 1, (3, 4, 4, 1)).astype(np.float32),
        "name": np.frombuffer(b"one\0\0\0two\0\0\0three\0", np.uint8).reshape(3, 6).astype(np.int32),
        "speech": rng.normal(size=(3, 32, 1)).astype(np.float32),
    }
    protocol = {"seed": 7, "steps": 5}
    assert written(tmp_path, sample, protocol) == tmp_path / "samples.png"
    with np.load(tmp_path / "samples.npz") as arrays:
        assert {name: arrays[name].shape for name in sample} == {name: x.shape for name, x in sample.items()}
        assert json.loads(str(arrays["protocol"])) == protocol and arrays["seed"] == 7
        assert arrays["arr_0"].dtype == np.uint8 and arrays["arr_0"].shape == (3, 4, 4, 3)  # as ADM reads it
        np.testing.assert_array_equal(arrays["arr_0"], pictures(STREAMS, sample)["arr_0"])
    assert [(tmp_path / "name" / f"{i}.txt").read_text() for i in range(3)] == ["one", "two", "three"]
    assert len(list((tmp_path / "speech").glob("*.wav"))) == 3
    words = {"name": sample["name"]}
    assert written(tmp_path / "words", words, protocol) == tmp_path / "words" / "samples.npz"


def test_a_way_from_one_sample_to_another_is_a_clip_as_well(tmp_path):
    sample = {"image": np.linspace(-1, 1, 5, dtype=np.float32)[:, None, None, None] * np.ones((5, 4, 4, 1), np.float32)}
    written(tmp_path, sample, {"seed": 0}, is_path=True)
    with Image.open(tmp_path / "interpolation.gif") as clip:
        assert clip.n_frames == 8  # there and back, without the ends twice
