"""Scores against closed forms, and pictures against their pixels."""

import dataclasses
import itertools
import types

import numpy as np
import pytest

import dit_jax as dj
from dit_jax import evaluate
from dit_jax.data import sources
from dit_jax.diffusion.levels import uniform
from dit_jax.diffusion.masked import Masked
from dit_jax.diffusion.stream import Stream
from dit_jax.evaluation.frechet import frechet_distance
from dit_jax.evaluation.judge import described, scores, train_judge, train_judges
from dit_jax.run import SampleOptions


def exactly(mean: np.ndarray, root: np.ndarray, n: int) -> np.ndarray:
    """n points whose sample mean and covariance are exactly `mean` and root root^T."""
    x = np.random.default_rng(0).normal(size=(n, len(mean)))
    x -= x.mean(0)
    white = np.linalg.inv(np.linalg.cholesky(np.cov(x, rowvar=False)))
    return mean + x @ white.T @ root.T


def test_frechet_distance_of_commuting_gaussians():
    """|mean gap|^2 + sum (std_a - std_b)^2 in any common basis."""
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    a, b = np.array([1.0, 2.0, 0.5]), np.array([2.0, 2.0, 1.5])
    gap = np.array([0.3, 0.0, -1.0])
    got = frechet_distance(exactly(np.zeros(3), turn * a, 50), exactly(gap, turn * b, 70))
    assert got == pytest.approx(gap @ gap + ((a - b) ** 2).sum(), abs=1e-9)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    """In two dimensions tr (A B)^{1/2} = sqrt(tr A B + 2 sqrt(det A B))."""
    rng = np.random.default_rng(2)
    root_a, root_b = rng.normal(size=(2, 2, 2))
    a, b = root_a @ root_a.T, root_b @ root_b.T
    cross = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    got = frechet_distance(exactly(np.zeros(2), root_a, 40), exactly(np.zeros(2), root_b, 40))
    assert got == pytest.approx(np.trace(a) + np.trace(b) - 2 * cross, abs=1e-8)


def test_frechet_distance_is_zero_from_itself_even_where_a_pixel_never_changes():
    x = np.random.default_rng(3).normal(size=(30, 5))
    x[:, 2] = 0
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


def word(length: int) -> Stream:
    return Stream(shape=(length,), process=Masked(8), levels=uniform(), embed=None, head=object)


def test_the_judge_knows_what_it_was_taught_and_nothing_else():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 3, 300)
    images = rng.normal(size=(300, 4, 4, 1)) * 0.1 + labels[:, None, None, None]
    judge = train_judge(images[:200], labels[:200])
    np.testing.assert_array_equal(judge(images[200:]), labels[200:])


def test_nobody_judges_what_has_no_labels_or_one():
    """Features are compared with those of real data all the same."""
    streams, pictures = {"picture": dj.streams.image((2, 2, 1), patch=1)}, np.random.default_rng(0).normal(size=(9, 4))
    real = {"picture": pictures.reshape(9, 2, 2, 1)}
    for labels in (None, np.zeros(9, int)):
        assert train_judges(streams, real, labels) == {}
        found = scores(streams, {}, real, described(streams, real), labels)
        assert found == {"picture/frechet": pytest.approx(0, abs=1e-9)}


def test_scores_are_the_shares_that_they_say():
    """Of 8 samples, 6 pictures and 7 words are right, and 5 of each at once; one word exists nowhere."""
    streams = {"picture": dj.streams.image((2, 2, 1), patch=1), "word": word(3), "label": dj.streams.label(2)}
    rng, labels = np.random.default_rng(5), np.arange(40, dtype=np.int32) % 2
    words = np.array([[1, 2, 3], [3, 2, 1]], np.int32)
    pictures = (labels * 2.0 - 1)[:, None, None, None] + 0.1 * rng.normal(size=(40, 2, 2, 1))
    real = {"picture": pictures, "word": words[labels], "label": labels}
    judges = train_judges(streams, real, labels)
    assert judges.keys() == {"picture", "word"}
    wanted, seen, said = labels[:8], labels[:8].copy(), words[labels[:8]].copy()
    seen[:2] = 1 - seen[:2]
    said[2] = [3, 3, 3]
    sample = {"picture": (seen * 2.0 - 1)[:, None, None, None] * np.ones((1, 2, 2, 1)), "word": said, "label": wanted}
    found = scores(streams, judges, sample, described(streams, real), wanted)
    assert found["picture/agreement"] == 6 / 8 and found["word/agreement"] == 7 / 8 and found["coherence"] == 5 / 8
    flat = lambda x: x.reshape(len(x), -1)
    assert found["picture/frechet"] == frechet_distance(flat(sample["picture"]), flat(pictures))
    assert not any("agreement" in key for key in scores(streams, judges, sample, described(streams, real), None))


def test_streams_that_agree_on_nothing_do_not_agree():
    """Of three samples of two words each, one is the same word twice, one is two words, and one no word at all."""
    streams, words = {"one": word(2), "other": word(2)}, np.array([[1, 2], [2, 1]], np.int32)
    judges = train_judges(streams, {"one": words, "other": words}, np.arange(2))
    sample = {
        "one": np.array([[1, 2], [1, 2], [3, 3]], np.int32),
        "other": np.array([[1, 2], [2, 1], [3, 3]], np.int32),
    }
    assert scores(streams, judges, sample, {}, None)["coherence"] == 1 / 3


def test_every_part_is_given_once_and_judged_never(monkeypatch):
    """By a sampler that knows all answers but of one stream, which it always draws as class 0: a third of them."""
    names, labels = ("one", "two", "word"), np.arange(90, dtype=np.int32) % 3
    picture = lambda: dj.streams.image((2, 2, 1), patch=1)
    streams = {"one": picture(), "two": picture(), "word": dataclasses.replace(word(3), codec_id="")}
    noise = np.random.default_rng(6).normal(size=(2, 90, 2, 2, 1)) * 0.01
    levels = (labels - 1.0)[:, None, None, None]
    real = {"one": levels + noise[0], "two": levels + noise[1], "word": np.repeat(labels[:, None] + 1, 3, 1)}
    real["label"] = labels
    asked = []

    def draw(run, params, mesh, how, examples):
        asked.append((how.guidance, tuple(examples)))
        row = np.arange(how.num) % 3  # rows 0, 1, 2 are one of each class
        for name, x in examples.items():
            row = x[:, 0] - 1 if name == "word" else np.rint(x.mean((1, 2, 3))).astype(int) + 1
        rows = {"one": row, "two": np.zeros_like(row), "word": row}
        yield {**{name: real[name][rows[name]] for name in names}, **examples}

    has = sources.Contents(("train", "test"), "test", 3)
    monkeypatch.setattr(evaluate.sources, "contents", lambda *_: has)
    monkeypatch.setattr(evaluate, "examples", lambda run, split, streams, most=None: real)
    monkeypatch.setattr(evaluate, "draw", draw)
    data = types.SimpleNamespace(name="made", dir="", holdout=0.0)
    run = types.SimpleNamespace(streams=streams, data=data)
    first, *rows = evaluate.classes(run, None, None, SampleOptions(num=90), [1.0, 2.0])
    assert first["scores"]["coherence"] == 1
    parts = [part for size in range(3) for part in itertools.combinations(names, size)]
    assert asked == [(guidance, part) for guidance in (1.0, 2.0) for part in parts]
    for row, (guidance, part) in zip(rows, asked, strict=True):
        assert row["guidance"] == guidance and row["given"] == list(part)
        right = {name: 1 / 3 if name == "two" else 1 for name in names if name not in part}
        found = {name: row["scores"].get(f"{name}/agreement") for name in names}
        assert found == {name: pytest.approx(right[name]) if part and name in right else None for name in names}
        if len(right) > 1:
            assert row["scores"]["coherence"] == pytest.approx(1 / 3 if "two" in right else 1)


def test_a_caption_is_judged_unless_all_was_given(monkeypatch):
    """By a judge that was fitted on each stream's real pictures, and hears captions as they are written."""
    heard = {}

    def train(pictures, captions):
        def judge(seen, said):
            heard[len(pictures[0].shape)] = captions, said
            return np.eye(len(seen))

        return judge

    text = dj.streams.text(8)
    streams = {"clip": dj.streams.video((2, 4, 4, 3)), "still": dj.streams.image((4, 4, 3)), "name": text}
    names = [*(f"fist, {tone}" for tone in "ab"), *map(str, range(20))]
    said = np.concatenate([text.view.read(name) for name in names])
    sample = {"clip": np.zeros((22, 2, 4, 4, 3)), "still": np.zeros((22, 4, 4, 3)), "name": said}
    monkeypatch.setattr(evaluate, "examples", lambda run, split, streams: sample)
    monkeypatch.setattr(evaluate.alignment, "PACKAGES", ())
    monkeypatch.setattr(evaluate.alignment, "train", train)
    measure = evaluate.captions(types.SimpleNamespace(streams=streams))
    for given, wanted in {
        (): {"clip/caption": 1, "still/caption": 1},
        ("name", "clip"): {"still/caption": 1},
        ("clip", "still"): {"clip/caption": 1, "still/caption": 1},
        ("clip", "still", "name"): {},
    }.items():
        assert measure({}, sample, None, given) == wanted
    written = [f"fist, {tone}" for tone in "ab"] + [f"{i}" for i in range(20)]
    assert heard == {4: (written, written), 3: (written, written)}


def test_examples_are_a_split_in_order_or_some_of_it_each_once(monkeypatch):
    split = [{"image": np.full((2, 2, 1), i)} for i in range(50)]
    monkeypatch.setattr(evaluate.sources, "load", lambda *_: split)
    run = types.SimpleNamespace(data=types.SimpleNamespace(name="made", dir="", holdout=0.0, unreadable="stop"))
    every = evaluate.examples(run, "test", {})["image"]
    assert every.shape == (50, 2, 2, 1) and every[:, 0, 0, 0].tolist() == [*range(50)]
    some = evaluate.examples(run, "test", {}, most=20)["image"][:, 0, 0, 0].tolist()
    assert len(some) == 20 and some == sorted({*some}) and some != [*range(20)]
