"""The command that scores a run: which rows it writes, of which samples, given what, measured by whom."""

import dataclasses
import json
import types

import numpy as np
import pytest

import dit_jax as dj
from dit_jax import evaluate, sample_cli
from dit_jax.command import options_of, parse
from dit_jax.data import audio_digits, sources
from dit_jax.diffusion.stream import Stream
from dit_jax.run import SampleOptions

CLASSES = 3
LABELS = np.arange(60, dtype=np.int32) % CLASSES
DATA = types.SimpleNamespace(name="made", dir="somewhere")
picture = dj.streams.image((2, 2, 1), patch=1)


def pictures(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Of -1, 0 and 1, which is easy to judge."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), 2, 2, 1))
    return (labels - 1.0)[:, None, None, None] + 0.01 * noise


def shown(x: np.ndarray) -> np.ndarray:
    return np.rint(x.mean((1, 2, 3))).astype(np.int32) + 1


def split(seed: int, most: int | None = None) -> dict[str, np.ndarray]:
    labels = LABELS[:most]
    return {"image": pictures(labels, seed), "hint": pictures(labels, seed + 10), "label": labels}


class Made:
    """A data set of three splits, and a sampler that draws what it is told to, who remember what they were asked."""

    def __init__(self, monkeypatch, labelled: bool = True):
        self.read: list = []
        self.drawn: list = []
        self.sample = lambda guidance, given, num: {"image": pictures(given.get("label", np.arange(num) % CLASSES))}
        features = {"image": None, **({"label": types.SimpleNamespace(num_classes=CLASSES)} if labelled else {})}
        info = types.SimpleNamespace(features=features, splits=dict.fromkeys(("test", "zoo", "train", "attic")))
        monkeypatch.setattr(evaluate.sources, "find", lambda *_: types.SimpleNamespace(info=info))
        monkeypatch.setattr(evaluate, "examples", self.examples)
        monkeypatch.setattr(evaluate, "draw", self.draw)

    def examples(self, run, name, streams, most=None):
        self.read.append((name, {*streams}, most))
        return split(["train", "test", "attic", "zoo"].index(name), most)

    def draw(self, run, params, mesh, how, examples):
        self.drawn.append((run, params, mesh, how, examples))
        yield self.sample(how.guidance, examples, how.num) | examples


def asked(**streams: Stream) -> types.SimpleNamespace:
    return types.SimpleNamespace(streams=streams, data=DATA)


def test_rows_are_real_splits_and_then_samples_of_each_class_in_turn_at_every_guidance(monkeypatch):
    made, run = Made(monkeypatch), asked(image=picture, label=dj.streams.label(CLASSES))
    how = SampleOptions(num=10, steps=7, given=("label=2",), drawn=("image",), guidance=9.0, seed=4)
    rows = [*evaluate.classes(run, "params", "mesh", how)]
    assert [row["what"] for row in rows] == [
        *(f"real data, {name} split" for name in ("train", "attic", "zoo")),
        *(f"10 samples, guidance {guidance}" for guidance in ("1", "1.5")),
    ]
    read = {"test": None, "train": 10, "attic": 10, "zoo": 10}
    assert made.read == [(name, {"image", "label"}, most) for name, most in read.items()]
    for (*who, here, given), row, guidance in zip(made.drawn, rows[3:], (1.0, 1.5), strict=True):
        assert who == [run, "params", "mesh"]
        assert here == dataclasses.replace(how, guidance=guidance, given=(), drawn=())  # the run's own gives way
        assert given.keys() == {"label"} and given["label"].tolist() == [0, 1, 2] * 3 + [0]
        assert row == {"what": row["what"], **dataclasses.asdict(here), "given": ["label"], "scores": row["scores"]}
    for row in rows:
        assert row["scores"].keys() == {"image/agreement", "image/frechet"} and row["scores"]["image/agreement"] == 1


def test_a_score_is_that_of_what_was_drawn_at_that_guidance(monkeypatch):
    """By a sampler that draws one class of the three without guidance, and the right one with it."""
    made, run = Made(monkeypatch), asked(image=picture, label=dj.streams.label(CLASSES))
    made.sample = lambda guidance, given, num: {"image": pictures(given["label"] if guidance > 1 else np.full(num, 2))}
    *_, without, guided = evaluate.classes(run, None, None, SampleOptions(num=12))
    assert without["scores"]["image/agreement"] == pytest.approx(1 / 3) and guided["scores"]["image/agreement"] == 1
    assert guided["scores"]["image/frechet"] < 0.01 < without["scores"]["image/frechet"]


def test_without_a_label_among_its_streams_nothing_is_asked_of_a_run(monkeypatch):
    """The labels of the data are read, for the judges; samples are held against no label."""
    made, run = Made(monkeypatch), asked(image=picture)
    *real, drawn, _ = evaluate.classes(run, None, None, SampleOptions(num=10))
    assert {frozenset(streams) for _, streams, _ in made.read} == {frozenset({"image", "label"})}
    assert all("image/agreement" in row["scores"] for row in real)
    assert made.drawn[0][-1] == {} and drawn["given"] == [] and drawn["scores"].keys() == {"image/frechet"}


def test_what_is_never_drawn_is_given_from_held_out_examples_with_their_labels(monkeypatch):
    """And the judge expects the label of the example that it came from."""
    hint = dataclasses.replace(picture, head=None)
    made, run = Made(monkeypatch), asked(image=picture, hint=hint, label=dj.streams.label(CLASSES))
    made.sample = lambda guidance, given, num: {"image": pictures(shown(given["hint"]))}
    rows = [*evaluate.classes(run, None, None, SampleOptions(num=100))]
    held_out = split(1)
    for (*_, given), row in zip(made.drawn, rows[3:], strict=True):
        places = [int(np.argmax((held_out["hint"] == x).all((1, 2, 3)))) for x in given["hint"]]
        np.testing.assert_array_equal(held_out["hint"][places], given["hint"])
        np.testing.assert_array_equal(held_out["label"][places], given["label"])
        assert sorted(places[:60]) == [*range(60)] and places[60:] == places[:40]  # in turn, once there are no more
        assert row["given"] == ["hint", "label"] and row["scores"]["image/agreement"] == 1
        assert "hint/agreement" not in row["scores"]


def test_measures_of_a_data_set_see_what_was_drawn_what_was_asked_and_what_was_given(monkeypatch):
    """Real held-out data are measured without judges, which have seen them, and have a row if that says something."""
    made, run = Made(monkeypatch), asked(one=picture, two=picture)
    real = lambda most: {"one": pictures(LABELS[:most], 1), "two": pictures(LABELS[:most], 2), "label": LABELS[:most]}
    monkeypatch.setattr(evaluate, "examples", lambda run, name, streams, most=None: real(most))
    made.sample = lambda guidance, given, num: {name: pictures(np.zeros(num, int)) for name in ("one", "two")}
    seen = []

    def measure(judges, sample, labels, given):
        seen.append(({*judges}, len(sample["one"]), labels is not None, given))
        return {"size": len(sample["one"]), "given": len(given)}

    monkeypatch.setitem(evaluate.MEASURES, "made", [lambda asked: measure if asked is run else None])
    rows = [*evaluate.classes(run, None, None, SampleOptions(num=7), [1.0])]
    assert rows[0] == {"what": "real data, test split", "scores": {"size": 60, "given": 0}}
    assert [row["scores"]["size"] for row in rows] == [60, 7, 7, 7, 7, 7, 7]
    assert seen == [
        (set(), 60, False, ()),
        *[({"one", "two"}, 7, True, ())] * 3,
        ({"one", "two"}, 7, False, ()),
        ({"two"}, 7, True, ("one",)),
        ({"one"}, 7, True, ("two",)),
    ]
    assert [row["what"] for row in rows[-3:]] == [
        "7 samples, guidance 1",
        "7 samples, guidance 1, given one",
        "7 samples, guidance 1, given two",
    ]


def test_every_data_set_with_measures_of_its_own_is_one_that_can_be_prepared():
    assert evaluate.MEASURES.keys() <= sources.BUILDERS.keys()


def test_flights_are_measured_where_clips_are_judged(monkeypatch):
    monkeypatch.setattr(evaluate.physics, "scores", lambda *of: {"of": of})
    measure, judge = evaluate.flights(asked()), object()
    assert measure({"clip": judge, "image": None}, {"clip": "clips"}, "labels", ()) == {
        "of": (judge, "clips", "labels")
    }
    assert measure({"image": judge}, {"clip": "clips"}, "labels", ("clip",)) == {}


def test_words_are_heard_where_speech_is_judged_and_a_word_was_asked_for(monkeypatch):
    """As the data set spells it, at its rate; and where there is a recogniser."""
    asked_for = []
    monkeypatch.setattr(evaluate, "missing", lambda names: "")
    monkeypatch.setattr(evaluate.speech, "word_accuracy", lambda *of: asked_for.append(of) or 0.75)
    measure, judges = evaluate.words(asked()), {"speech": object()}
    sample = {"speech": np.random.default_rng(0).normal(size=(3, 20, 1))}
    assert measure(judges, sample, np.array([7, 0, 7]), ()) == {"speech/words": 0.75}
    ((clips, rate, said),) = asked_for
    np.testing.assert_array_equal(clips, sample["speech"][..., 0])
    assert rate == audio_digits.RATE and said == ["seven", "zero", "seven"]
    assert measure({"image": object()}, sample, np.array([7, 0, 7]), ("speech",)) == {}
    assert measure(judges, sample, None, ()) == {}
    monkeypatch.setattr(evaluate, "missing", lambda names: ", ".join(names))
    assert measure(judges, sample, np.array([7, 0, 7]), ()) == {} and len(asked_for) == 1


@pytest.mark.parametrize("absent", ["", "gguf, tokenizers"])
def test_texts_are_both_splits_and_are_read_by_a_language_model_if_there_is_one(absent, monkeypatch, capsys):
    streams = {"text": dj.streams.text(4), "past": dj.streams.past(dj.streams.text(4))}
    monkeypatch.setattr(evaluate, "examples", lambda run, name, streams: (name, [*streams]))
    monkeypatch.setattr(evaluate, "missing", lambda names: absent)
    monkeypatch.setattr(evaluate.language_model, "load", lambda: "a reader")
    monkeypatch.setattr(evaluate.text, "score", lambda *of, **by: iter([(of, by)]))
    run = asked(**streams)
    (((*who, real), by),) = evaluate.texts(run, "params", "mesh", "how")
    assert who == [run, "params", "mesh", "how"] and by == {"reader": None if absent else "a reader"}
    assert real == {name: (name, ["text"]) for name in ("train", "test")}  # a past is in no data
    said = capsys.readouterr().out
    assert (absent in said and "not installed" in said) if absent else said == ""


@pytest.mark.parametrize("labelled", [True, False])
def test_all_rows_are_printed_and_written_with_what_was_said_on_the_shell(labelled, monkeypatch, tmp_path, capsys):
    Made(monkeypatch, labelled)
    run = types.SimpleNamespace(
        streams={}, data=DATA, sample=SampleOptions(num=3, steps=5, solver="heun", rollout="clip=9:1")
    )
    rows = [{"what": "real", "scores": {"a": 0.25}}, {"what": "drawn", "num": 8, "scores": {"a": 1 / 3, "b": 2.0}}]
    called = []
    for name in ("classes", "texts"):
        monkeypatch.setattr(evaluate, name, lambda *of, name=name: called.append((name, of)) or iter(rows))
    monkeypatch.setattr(evaluate, "restore_run", lambda workdir, step=-1: (run, f"params of {workdir}", "mesh"))
    options = {"steps": 4, "first": ("image",), "rollout": ""}
    evaluate.main(str(tmp_path), guidance=("1.0", "3"), num=8, options=options)
    how = SampleOptions(num=8, steps=4, solver="heun", first=("image",), rollout="")
    asked_for = run, f"params of {tmp_path}", "mesh", how
    assert called == [("classes", (*asked_for, [1.0, 3.0])) if labelled else ("texts", asked_for)]
    assert json.loads((tmp_path / "evaluation.json").read_text()) == rows
    assert capsys.readouterr().out == "real: a 0.25\ndrawn: a 0.3333, b 2\n"


def test_every_flag_about_drawing_means_what_it_means_when_sampling():
    """It is an entry of how samples are drawn, and is not said unless it is; guidance and num have a meaning of their
    own here."""
    said = parse(evaluate.main, ["--steps=4", "--first=name,image", "--given=label=1", "--given=name=x,y", "--num=3"])
    options = {"steps": 4, "first": ("name", "image"), "given": ("label=1", "name=x,y")}
    assert said == {"workdir": "runs/digits", "guidance": ("1.0", "1.5"), "num": 3, "step": -1, "options": options}
    rows = {"combine": "linear", "solver": "2m", "reveal": "remask", "grid": "karras"}
    some = {"interval": "0,1", "rollout": "clip=32:2", **rows}
    words = [f"--{name}={some.get(name, 1)}" for name in options_of(SampleOptions)]
    every = parse(sample_cli.main, words)["options"]
    fields = {field.name for field in dataclasses.fields(SampleOptions)}
    assert every.keys() == fields - {"every"}


@pytest.mark.parametrize("name", ["given", "drawn"])
def test_what_is_given_is_not_up_to_the_shell(name, tmp_path):
    with pytest.raises(ValueError, match=f"--{name} says nothing here"):
        evaluate.main(str(tmp_path), options={name: ("label=1",)})


@pytest.mark.parametrize("scale", ["nan", "inf"])
def test_a_scale_that_is_no_number_is_an_error(scale, monkeypatch, tmp_path):
    Made(monkeypatch)
    run = types.SimpleNamespace(streams={}, data=DATA, sample=SampleOptions())
    monkeypatch.setattr(evaluate, "restore_run", lambda workdir, step=-1: (run, None, None))
    with pytest.raises(ValueError, match=f"--guidance = {scale} should be finite"):
        evaluate.main(str(tmp_path), guidance=(scale,))
