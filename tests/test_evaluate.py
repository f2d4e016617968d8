"""The command that scores a run: which rows it writes, of which samples, given what, measured by whom."""

import dataclasses
import json
import types

import numpy as np
import pytest
from PIL import Image

import dit_jax as dj
from dit_jax import evaluate, sample_cli
from dit_jax.command import options_of, parse
from dit_jax.data import audio_digits, sources
from dit_jax.data.pipeline import UnreadableError
from dit_jax.diffusion.stream import Stream
from dit_jax.run import DataOptions, SampleOptions

CLASSES = 3
LABELS = np.arange(60, dtype=np.int32) % CLASSES
DATA = types.SimpleNamespace(name="made", dir="somewhere", holdout=0.25, unreadable="stop")
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
        has = sources.Contents(("test", "zoo", "train", "attic"), "test", CLASSES if labelled else 0)
        monkeypatch.setattr(evaluate.sources, "contents", lambda *of: {("made", "somewhere", 0.25): has}[of])
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
    Made(monkeypatch, labelled=False)
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
    others = {"workdir": "runs/digits", "guidance": ("1.0", "1.5"), "num": 3, "step": -1, "distributed": ""}
    assert said == others | {"options": options}
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


@pytest.mark.parametrize("scale", ["label=2", "2x", "", "name=2"])
def test_a_scale_for_one_stream_is_refused_before_anything_is_read(scale):
    with pytest.raises(ValueError, match=rf"--guidance={scale} should be numbers: .*, as in --guidance=1,2"):
        evaluate.main("no such run", guidance=("1", scale))


@pytest.mark.parametrize("num", [1, 0, -3])
def test_one_sample_has_no_score(num):
    """Its covariance is none."""
    with pytest.raises(ValueError, match=f"--num = {num} should be at least 2"):
        evaluate.main("no such run", num=num)


# Of a folder of images -----------------------------------------------------------------------------------------------


@pytest.fixture
def insects(tmp_path):
    """Sixty ants, dark, and sixty bees, light."""
    rng = np.random.default_rng(0)
    for name, level in (("ant", 40), ("bee", 200)):
        (tmp_path / name).mkdir()
        for i in range(60):
            pixels = np.uint8(level + rng.integers(-20, 20, (2, 2)))
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


def of_folder(path, holdout=0.25, **streams: Stream) -> types.SimpleNamespace:
    return types.SimpleNamespace(streams=streams, data=DataOptions(name=str(path), holdout=holdout))


def test_a_run_on_a_folder_is_scored_against_what_is_held_out_of_it(insects, monkeypatch):
    """By a sampler that draws held-out images themselves, of the class that is asked for, or else only bees."""
    run = of_folder(insects, image=picture, label=dj.streams.label(2))
    real = evaluate.examples(run, "test", run.streams)
    asked_for = []

    def draw(run, params, mesh, how, examples):
        asked_for.append(examples["label"].tolist())
        wanted = examples["label"] if how.guidance > 1 else np.ones_like(examples["label"])
        rows = [np.flatnonzero(real["label"] == label)[i // 2 % 9] for i, label in enumerate(wanted)]
        yield {"image": real["image"][rows], **examples}

    monkeypatch.setattr(evaluate, "draw", draw)
    train, bees, both = evaluate.classes(run, None, None, SampleOptions(num=18))
    assert train["what"] == "real data, train split" and train["scores"]["image/agreement"] == 1
    assert asked_for == [[0, 1] * 9] * 2
    assert bees["scores"]["image/agreement"] == 0.5 and both["scores"]["image/agreement"] == 1
    assert train["scores"]["image/frechet"] < 0.02
    assert 10 * both["scores"]["image/frechet"] < bees["scores"]["image/frechet"]


def test_a_class_that_nothing_is_held_out_of_is_not_asked_for(insects, monkeypatch, capsys):
    (insects / "cicada").mkdir()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(insects / "cicada" / "0.png")  # each class keeps one
    run = of_folder(insects, image=picture, label=dj.streams.label(3))

    def draw(run, params, mesh, how, examples):
        assert examples["label"].tolist() == [0, 1, 0, 1]
        yield {"image": np.zeros((4, 2, 2, 1)), **examples}

    monkeypatch.setattr(evaluate, "draw", draw)
    assert len([*evaluate.classes(run, None, None, SampleOptions(num=4))]) == 3
    assert "nothing is held out of 1 of 3 classes" in capsys.readouterr().out


@pytest.mark.parametrize("flat", [False, True])
def test_images_are_scored_without_labels(flat, insects, monkeypatch):
    """Whose run has none; those that lie in no class have a Frechet distance alone."""
    for file in [*(insects / "ant").iterdir()] * flat:
        file.rename(insects / file.name)
    for name in ("ant", "bee") if flat else ():
        for file in (insects / name).iterdir():
            file.unlink()
        (insects / name).rmdir()
    run = of_folder(insects, image=picture)
    monkeypatch.setattr(
        evaluate, "draw", lambda run, params, mesh, how, examples: iter([{"image": np.zeros((4, 2, 2, 1))}])
    )
    real, drawn, _ = evaluate.classes(run, None, None, SampleOptions(num=4))
    assert drawn["given"] == [] and drawn["scores"].keys() == {"image/frechet"}
    assert real["scores"].keys() == {"image/frechet"} | ({"image/agreement"} if not flat else set())


def test_guidance_without_a_null_class_is_refused_before_anything_is_drawn(monkeypatch):
    streams = {"image": picture, "label": dj.streams.label(CLASSES, dropout_rate=0)}
    run = types.SimpleNamespace(streams=streams, data=DATA, sample=SampleOptions())
    monkeypatch.setattr(evaluate, "restore_run", lambda *of, **more: (run, None, None))
    monkeypatch.setattr(evaluate, "contents_of", lambda run: pytest.fail("data were looked for"))
    with pytest.raises(ValueError, match=r"guidance = 1.5 leads away .* no null class: in training label was never"):
        evaluate.main("a run", guidance=("1", "1.5"))


@pytest.mark.parametrize(
    ("name", "holdout", "message"),
    [
        ("synthetic", 0.1, "no data to score samples against: its data.name is 'synthetic', as that of published"),
        ("FOLDER", 0.0, r"nothing of .* is held out .* data.holdout above 0, or with test/ beside train/"),
        ("FOLDER", 1e-9, r"nothing of .* is held out .* data.holdout above 0, or with test/ beside train/"),
    ],
)
def test_without_held_out_data_nothing_is_scored_and_what_is_missing_is_said(name, holdout, message, insects):
    run = of_folder(name.replace("FOLDER", str(insects)), holdout, image=picture, label=dj.streams.label(2))
    with pytest.raises(ValueError, match=message):
        evaluate.contents_of(run)


def test_an_example_that_cannot_be_used_stops_a_score_or_is_left_out(insects):
    run = of_folder(insects, image=picture, label=dj.streams.label(2))
    files = [file for file, _ in sources.original(sources.load(run.data.name, "test", "", run.streams, 0.25)).files]
    files[3].write_text("no image")
    with pytest.raises(UnreadableError, match=rf"example 3 of {len(files)} cannot be used: cannot read the image .*"):
        evaluate.examples(run, "test", run.streams)
    run.data = dataclasses.replace(run.data, unreadable="skip")
    assert len(evaluate.examples(run, "test", run.streams)["label"]) == len(files) - 1
    for file in files[1:]:
        file.write_text("no image")
    with pytest.raises(ValueError, match="has 1 examples in its split test, and scores take 2 or more"):
        evaluate.examples(run, "test", run.streams)
