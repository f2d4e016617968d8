"""Text: what the shell says and what people see, the Bible's pieces, and scores in bits a byte."""

import collections
import dataclasses
import gzip
import json

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from dit_jax.config import build
from dit_jax.configs import text_kjv
from dit_jax.data import kjv, pipeline, sources
from dit_jax.evaluation import text as evaluation
from dit_jax.names import ConfigError
from dit_jax.parallel.mesh import AXES, make_mesh
from dit_jax.sampling.given import read_given
from dit_jax.streams import text

HIDDEN = 256
CONFIG = json.loads(text_kjv.get_config().to_json())


def spoken(tokens):
    """Tokens as text, with a _ for each hidden one and a . for each NUL."""
    return "".join({HIDDEN: "_", 0: "."}.get(token, chr(token)) for token in tokens)


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ("seven", "seven..."),
        ("", "........"),
        ("*", "________"),
        ("Amen*", "Amen____"),
        ("*Amen!", "___Amen!"),
        ("a*b", "a______b"),
        (r"2\*3", "2*3....."),
        (r"\**\*", "*______*"),
        ("12345678", "12345678"),
        ("1234*5678", "12345678"),
    ],
)
def test_one_asterisk_is_a_gap_of_all_that_is_left(said, tokens):
    found = text(8).view.read(said)
    assert found.shape == (1, 8) and found.dtype == np.int32
    assert spoken(found[0]) == tokens


def test_a_text_with_a_gap_is_where_samples_start_and_a_whole_one_is_given():
    streams = {"text": text(8)}
    assert read_given(streams, ["text=a*"]).start["text"].tolist() == [[97, *[HIDDEN] * 7]]
    assert read_given(streams, ["text=a"]).given["text"].tolist() == [[97, *[0] * 7]]


def test_a_file_is_read_as_it_is_but_for_one_newline_at_its_end(tmp_path):
    file = tmp_path / "psalm.txt"
    for ending, end in ((b"", HIDDEN), (b"\n", HIDDEN), (b"\n\n", 10)):
        file.write_bytes("é*".encode() + ending)
        assert text(5).view.read(f"@{file}").tolist() == [[0xC3, 0xA9, HIDDEN, HIDDEN, end]]
    with pytest.raises(FileNotFoundError):
        text(5).view.read("@nowhere.txt")


@pytest.mark.parametrize(
    ("said", "vocabulary", "complaint"),
    [("123456", 256, "is 6 bytes long, and the text has 5"), ("a*b*", 256, "2 gaps"), ("é", 128, "has the byte 195")],
)
def test_what_is_no_text_is_an_error_that_says_why(said, vocabulary, complaint):
    with pytest.raises(ValueError, match=complaint):
        text(5, vocabulary).view.read(said)


def test_configs_choose_what_there_is():
    config = {**CONFIG, "streams": {"text": {**CONFIG["streams"]["text"], "vocabulary": 257}}}
    with pytest.raises(ConfigError, match=r"vocabulary = 257 should be at least 2 and at most 256"):
        build(config)


def test_what_is_shown_and_saved_is_what_was_read(tmp_path):
    stream = text(16)
    for said in ("seven", "In the\nbeginning", "é ↔ 七"):
        assert stream.view.show(stream.view.read(said)) == [said]
        file = stream.view.save(stream.view.read(said)[0], tmp_path / "1.5")
        assert file == tmp_path / "1.5.txt" and file.read_text(encoding="utf-8") == said
    assert stream.view.show(np.array([[HIDDEN, 0xFF, 0, 65]])) == ["�A"]
    assert text(3, 128).view.show(np.array([[128, 0, 65]])) == ["A"]


# ---- Tokens of several bytes: th, "the", and "he " ----

MERGES = "116,104 256,101 104,101 258,32"
THE = 257


@pytest.mark.parametrize(
    ("said", "tokens"),
    [
        ("the *", [THE, 32, 260, 260, 260, 260]),
        ("*the", [260, 260, 260, 260, 260, THE]),
        ("t*he ", [116, 260, 260, 260, 260, 259]),
        ("he th", [259, 256, 0, 0, 0, 0]),
    ],
)
def test_a_gap_is_of_hidden_tokens_and_what_is_beside_it_is_encoded_by_itself(said, tokens):
    assert text(6, merges=MERGES).view.read(said).tolist() == [tokens]


def test_tokens_are_shown_saved_and_spelled_as_the_bytes_that_they_stand_for(tmp_path):
    stream = text(6, merges=MERGES)
    assert stream.view.show(stream.view.read("he the*")) == ["he the"]
    assert stream.view.save(stream.view.read("the é")[0], tmp_path / "1").read_text(encoding="utf-8") == "the é"
    assert stream.view.to_bytes(np.array([[THE, 0, 260, 0xFF, 259, 260]])) == [b"the\0\xffhe "]


def test_what_is_no_text_of_tokens_is_an_error_that_says_why():
    with pytest.raises(ValueError, match="is 5 tokens long, and the text has 3"):
        text(3, merges=MERGES).view.read("the the the")
    with pytest.raises(ValueError, match="vocabulary = 128 should be 256"):
        text(3, 128, merges=MERGES)


# ---- The Bible ----


@pytest.fixture
def bible(tmp_path, monkeypatch):
    """A program that prints three books of two verses, and the books."""
    books = {"Gen": ["In the beginning ", "And"], "Ruth": ["Now it came to pass", "And"], "1Jn": ["That which", "For"]}
    lines = [f"{book}1:{i} {verse * 99}" for book, verses in books.items() for i, verse in enumerate(verses)]
    (program := tmp_path / "usr/bin/bible").parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\ncat <<END\n" + "\n".join(lines) + "\nEND\n")
    program.chmod(0o755)
    monkeypatch.setattr(kjv, "debian", lambda package, folder: tmp_path)
    monkeypatch.setattr(kjv, "VERSES", len(lines))
    return {book: "".join(f"{(verse * 99).strip()}\n" for verse in verses) for book, verses in books.items()}


def test_a_split_is_the_text_of_its_books_in_order_but_for_a_last_short_piece(bible, tmp_path):
    kjv.prepare(tmp_path)
    for split, books in (("train", ("Gen", "1Jn")), ("test", ("Ruth",))):
        source = sources.load("kjv", split, tmp_path, {"text": text(256)})
        found = pipeline.batch(source, 0, len(source))["text"]
        whole = "".join(bible[book] for book in books)
        assert bytes(found.ravel().tolist()).decode() == whole[: len(whole) // 256 * 256]


def test_another_text_is_an_error(bible, tmp_path, monkeypatch):
    monkeypatch.setattr(kjv, "VERSES", 31_102)
    with pytest.raises(ValueError, match="printed 6 verses, not 31102"):
        list(kjv.read_verses(tmp_path))


# ---- Scores ----


def words(n, length=32, seed=0):
    return (
        np.random.default_rng(seed).choice([97, 98, 99, 32], size=(n, length), p=[0.5, 0.2, 0.1, 0.2]).astype(np.int32)
    )


def witten_bell(texts, order):
    """The same model, written with dictionaries and recursion."""
    after = collections.defaultdict(collections.Counter)
    for row in texts.tolist():
        for i, byte in enumerate(row):
            for n in range(min(i, order - 1) + 1):
                after[tuple(row[i - n : i])][byte] += 1

    def p(byte, context):
        shorter = p(byte, context[1:]) if context else 1 / 256
        seen = after.get(context, {})
        return (seen[byte] + len(seen) * shorter) / (sum(seen.values()) + len(seen)) if seen else shorter

    return lambda row, i: -np.log2(p(row[i], tuple(row[max(0, i - order + 1) : i])))


@pytest.mark.parametrize("order", [1, 3])
def test_the_n_gram_model_is_witten_and_bells(order):
    judge, other = evaluation.ngram(words(20), order), witten_bell(words(20), order)
    texts = np.concatenate([words(3, seed=1), np.arange(32)[None] + 80])
    wanted = [[other(row, i) for i in range(32)] for row in texts.tolist()]
    np.testing.assert_allclose(judge(texts), wanted, rtol=1e-12)


def test_the_n_gram_model_is_a_distribution():
    texts = np.concatenate([np.repeat(words(1, 8), 256, 0), np.arange(256)[:, None]], axis=1)
    assert np.sum(2.0 ** -evaluation.ngram(words(20), 6)(texts)[:, -1]) == pytest.approx(1, abs=1e-12)


def test_noise_cannot_be_compressed_and_what_is_known_costs_nothing():
    noise = np.random.default_rng(0).integers(256, size=(40, 256))
    alone, after = evaluation.compressed(lambda data: gzip.compress(data, 9), noise, noise)
    assert 8 < alone < 8.1 and after < 0.2


def test_entropy_is_that_of_words():
    row = np.frombuffer(b"a a a a b b cc dd\0", np.uint8)
    assert evaluation.entropy(row[None]) == pytest.approx(1.75)


def tiny():
    config = json.loads(json.dumps(CONFIG))
    config["streams"]["text"]["length"] = 32
    config["model"] |= {"width": 16, "depth": 1, "heads": 1}
    return build(config)


def test_an_untrained_model_pays_alike_for_every_token_and_bits_are_counted_by_the_byte():
    config = json.loads(json.dumps(tiny().config))
    config["streams"]["text"]["merges"] = MERGES
    run = build(config)
    params = run.model.init(jax.random.key(0))
    texts = np.random.default_rng(0).integers(260, size=(10, 32)).astype(np.int32)
    real = {split: {"text": texts} for split in ("train", "test")}
    how = dataclasses.replace(run.sample, num=4, batch=8, steps=2)
    row = next(evaluation.score(run, params, make_mesh(), how, real))
    size = sum(map(len, run.streams["text"].view.to_bytes(texts)))
    assert size > texts.size
    assert row["scores"]["bits_per_byte"] == pytest.approx(texts.size * np.log2(260) / size)
    loss = run.streams["text"].process.loss(np.zeros((1, 32, 260)), texts[:1], np.ones(1))
    assert loss.item() == pytest.approx(np.log(260))


def test_bits_a_byte_are_those_of_all_texts_for_all_bytes_with_the_error_of_a_ratio():
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 150, size=(2000, 100))
    bits = 2 * lengths + 10 * rng.standard_normal(lengths.shape)
    found = [evaluation.per_byte(*pair) for pair in zip(bits, lengths, strict=True)]
    ratios = [scores["bits_per_byte"] for scores in found]
    assert np.mean(ratios) == pytest.approx(2, abs=1e-3)
    assert np.mean([scores["standard_error"] for scores in found]) == pytest.approx(np.std(ratios), rel=0.05)
    assert evaluation.per_byte(np.array([3.0, 5.0]), np.array([4, 4])) == {"bits_per_byte": 1, "standard_error": 0.25}


def test_texts_of_one_length_are_rows_and_others_are_cut_anew():
    assert evaluation.in_rows([b"abc", b"def"]).tobytes() == b"abcdef"
    rows = evaluation.in_rows([b"a", b"bcde", b"fg"])
    assert rows.shape == (3, 2) and rows.tobytes() == b"abcdef"


def test_a_bound_depends_on_neither_batch_nor_mesh():
    run, texts = tiny(), words(5)
    how, rng = dataclasses.replace(run.sample, batch=8), np.random.default_rng(0)
    shapes = jax.eval_shape(run.model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: 0.3 * rng.standard_normal(leaf.shape, np.float32), shapes)
    many = evaluation.bound(run, params, make_mesh(), how, "text", texts, draws=3)
    one = Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES, axis_types=(AxisType.Auto,) * 4)
    few = evaluation.bound(run, params, one, dataclasses.replace(how, batch=4), "text", texts, draws=3)
    np.testing.assert_allclose(many, few, rtol=1e-5)
    assert np.std(many) > 0.01


def test_scores_put_the_model_beside_its_rivals_and_samples_beside_real_text():
    run = tiny()
    how = dataclasses.replace(run.sample, num=4, batch=8, steps=2)
    real = {split: {"text": words(20, seed=seed)} for seed, split in enumerate(("train", "test"))}

    def reader(texts):  # pays 1 bit for an "a" and 3 for anything else, and expects 2
        size = np.array([*map(len, texts)])
        return np.array([3 * len(text) - 2 * text.count(b"a") for text in texts]), 2 * size, size

    rows = {
        row["what"]: row["scores"]
        for row in evaluation.score(run, run.model.init(jax.random.key(0)), make_mesh(), how, real, reader=reader)
    }
    bits = {what: scores["bits_per_byte"] for what, scores in rows.items() if "bits_per_byte" in scores}
    source = -np.sum(np.array([0.5, 0.2, 0.1, 0.2]) * np.log2([0.5, 0.2, 0.1, 0.2]))
    assert bits["20 held-out texts, model"] == pytest.approx(8)
    assert source < bits["20 held-out texts, 6-gram model"] < bits["20 held-out texts, gzip"] < 8
    assert rows["4 samples"]["language_model_bits_per_byte"] > 2.5
    alike = real["test"]["text"][[0, 5, 10, 15]]
    paid = 3 - 2 * np.mean(alike == ord("a"))
    assert rows["4 held-out texts"]["language_model_bits_per_byte"] == pytest.approx(paid)
    assert rows["4 held-out texts"]["language_model_entropy_per_byte"] == 2
    assert rows["4 samples"]["judged_bits_per_byte"] > 5 > rows["4 held-out texts"]["judged_bits_per_byte"]
