"""Byte-pair encoding: nothing is lost, the library `tokenizers` does the same, and data of other merges are refused."""

import collections
import itertools
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from dit_jax.configs import text_kjv_bpe
from dit_jax.data import kjv, kjv_bpe, pipeline, sources
from dit_jax.media import bpe
from dit_jax.streams import text

ROOT = Path(__file__).parent.parent
ENGLISH = (ROOT / "README.md").read_bytes() + (ROOT / "docs" / "design.md").read_bytes()
BIBLE = bpe.read(text_kjv_bpe.MERGES)


def skewed(n, seed=0):
    """Bytes of which few are frequent, with long runs."""
    return (np.random.default_rng(seed).geometric(0.4, n) - 1).astype(np.uint8).tobytes()


def spelled(tokens, merges):
    pieces = bpe.pieces(merges)
    return b"".join(pieces[token] for token in tokens)


@pytest.mark.parametrize("merges", [[], BIBLE, bpe.learn(skewed(5000), 60)])
@pytest.mark.parametrize(
    "said", [b"", b"\0", bytes(range(256)), b"aaaaa", skewed(999, 1), np.random.default_rng(0).bytes(9999), ENGLISH]
)
def test_any_bytes_come_back(said, merges):
    tokens = bpe.encode(said, merges)
    assert spelled(tokens, merges) == said
    assert tokens.dtype == np.int32 and len(tokens) <= len(said)


def test_a_run_is_merged_from_the_left():
    merges = [(97, 97), (256, 256)]
    wanted = {1: [97], 2: [256], 3: [256, 97], 4: [257], 5: [257, 97], 6: [257, 256], 7: [257, 256, 97]}
    for n, tokens in wanted.items():
        assert bpe.encode(b"a" * n, merges).tolist() == tokens
        assert bpe.encode(b"b" + b"a" * n + b"b" + b"a" * n, merges).tolist() == [98, *tokens, 98, *tokens]


def test_each_merge_is_of_a_most_frequent_pair():
    tokens = list(skewed(3000))
    for new, (a, b) in enumerate(bpe.learn(bytes(tokens), 40), start=256):
        pairs = collections.Counter(itertools.pairwise(tokens))
        assert pairs[a, b] == max(pairs.values())
        left, tokens = tokens, []
        while left:
            whole = left[:2] == [a, b]
            tokens.append(new if whole else left[0])
            left = left[1 + whole :]


# ---- The library writes bytes as letters that can be seen, and its tokens have other numbers ----

LETTERS = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def letters(piece):
    """Bytes as the library writes them."""
    seen = [byte for byte in range(256) if byte in {*range(33, 127), *range(161, 173), *range(174, 256)}]
    unseen = [byte for byte in range(256) if byte not in seen]
    table = {byte: chr(byte) for byte in seen} | {byte: chr(256 + i) for i, byte in enumerate(unseen)}
    return "".join(table[byte] for byte in piece)


def library(merges):
    pieces = [letters(piece) for piece in bpe.pieces(merges)]
    pairs = [(pieces[a], pieces[b]) for a, b in merges]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return tokenizer


@pytest.mark.parametrize("merges", [BIBLE, bpe.learn(ENGLISH, 300)])
@pytest.mark.parametrize("said", [ENGLISH, b"In the beginning God", "é ↔ 七".encode(), b"aaaa   \n\n\n  ...."])
def test_text_is_encoded_as_the_library_does(said, merges):
    assert bpe.encode(said, merges).tolist() == library(merges).encode(said.decode()).ids


def test_merges_are_those_that_the_library_learns():
    said = "".join(np.random.default_rng(0).choice([*"abcdefgh"], 30_000, p=np.arange(1, 9) / 36))  # has no ties
    tokenizer = library([])
    trainer = trainers.BpeTrainer(vocab_size=256 + 30, initial_alphabet=[*LETTERS], show_progress=False)
    tokenizer.train_from_iterator([said], trainer)
    merges = bpe.learn(said.encode(), 30)
    assert {letters(piece) for piece in bpe.pieces(merges)} == tokenizer.get_vocab().keys()
    assert [*map(letters, bpe.pieces(merges)[256:])] == [tokenizer.id_to_token(i) for i in range(256, 286)]


def test_merges_are_read_as_they_were_written():
    assert bpe.read(bpe.write(BIBLE)) == BIBLE and bpe.write(BIBLE) == text_kjv_bpe.MERGES
    assert bpe.read("") == [] and bpe.write([]) == ""


@pytest.mark.parametrize("said", ["116", "116,104 257,1", "116,-1", "1,2,3", "t,h", "256,0"])
def test_what_is_no_merge_is_an_error_that_says_so(said):
    with pytest.raises(ValueError, match=r"should be two tokens below 25[67], such as 116,104"):
        text(8, merges=said)


def test_a_text_too_short_for_its_merges_is_an_error():
    with pytest.raises(ValueError, match="a text of 4 bytes has no 3 pairs to merge"):
        bpe.learn(b"aaaa", 3)


# ---- The Bible ----


def test_the_merges_of_the_config_are_those_of_the_train_split_and_the_whole_bible_comes_back(tmp_path):
    try:
        splits = kjv.read_splits(tmp_path)
    except FileNotFoundError as error:
        pytest.skip(f"the King James Bible cannot be fetched: {error}")
    assert bpe.learn(splits["train"], 30) == BIBLE[:30]
    for said in splits.values():
        assert spelled(bpe.encode(said, BIBLE), BIBLE) == said


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A directory with both data sets of a text that is not the Bible, and that text."""
    splits = {"train": ENGLISH, "test": ENGLISH[::-1]}
    monkeypatch.setattr(kjv, "read_splits", lambda folder: splits)
    monkeypatch.setattr(kjv_bpe, "read_splits", lambda folder: splits)
    monkeypatch.setattr(kjv_bpe, "MERGES", 20)
    kjv.prepare(tmp_path), kjv_bpe.prepare(tmp_path)
    return tmp_path, splits


def test_a_data_set_holds_its_text_and_the_merges_that_its_train_split_taught(prepared):
    data_dir, splits = prepared
    merges = sources.find("kjv_bpe", data_dir).info.metadata["merges"]["text"]
    assert bpe.read(merges) == bpe.learn(splits["train"], 20)
    stream = text(128, merges=merges)
    for split, said in splits.items():
        source = sources.load("kjv_bpe", split, data_dir, {"text": stream})
        found = b"".join(stream.view.to_bytes(pipeline.picked(source, range(len(source)))["text"]))
        assert said.startswith(found) and len(said) - len(found) < 128 * max(map(len, bpe.pieces(bpe.read(merges))))


@pytest.mark.parametrize(
    ("name", "merges", "complaint"),
    [
        ("kjv_bpe", "1,1", "kjv_bpe has text of 20 merges, but streams.text.merges are 1: set them to those in"),
        ("kjv_bpe", "", "kjv_bpe has text of 20 merges, but streams.text.merges are 0: set"),
        ("kjv_bpe", "1,1 " * 20, "kjv_bpe has text of 20 merges, but streams.text.merges are other 20: set"),
        ("kjv", "1,1", "kjv has text of 0 merges, but streams.text.merges are 1: set"),
    ],
)
def test_data_of_other_merges_are_refused(name, merges, complaint, prepared):
    with pytest.raises(ValueError, match=complaint):
        sources.load(name, "train", prepared[0], {"text": text(128, merges=merges)})
