"""Data sets are built by TFDS from their sources, once, and without a word."""

import importlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from dit_jax.data import digits, joint_digits, sources
from dit_jax.data.audio_digits import WORDS
from dit_jax.data.building import preparer


def test_a_data_set_is_built_once_and_nothing_is_said(tmp_path, capfd):
    prepare = preparer(digits.Digits)
    prepare(tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    prepare(tmp_path)
    assert files and {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == files
    assert capfd.readouterr().out == ""
    assert sources.find("digits", tmp_path).info.splits["train"].num_examples == 899


@pytest.mark.parametrize("name", sources.BUILDERS)
def test_a_builder_is_called_as_its_row_is(name):
    """Or what it has built would not be found."""
    assert callable(importlib.import_module(sources.BUILDERS[name]).prepare)
    assert tfds.builder_cls(name).name == name


def test_rows_of_handwriting_are_dealt_out_to_the_splits_by_turns():
    rows = {split: [row for row, _, _ in digits.handwritten(split)] for split in ("train", "test")}
    assert sorted(rows["train"] + rows["test"]) == list(range(1797))
    assert all(row % 2 == 0 for row in rows["train"])


def test_a_joint_example_is_one_digit_in_four_ways():
    """What is spelled and spoken is the label, by voices of the split; the clip is a flight of the image."""
    spoken: list = []

    def speak(word, voice, speed, pitch):
        spoken.append((word, voice.partition("+")[2]))
        return np.sin(np.arange(4000) / 5)

    builder = type("Builder", (), {})()
    original, joint_digits.speaker = joint_digits.speaker, lambda: speak
    try:
        examples = joint_digits.JointDigits._generate_examples(builder, "test")
        found = [next(examples)[1] for _ in range(3)]
    finally:
        joint_digits.speaker = original
    voices = joint_digits.VOICES["test"].split()
    for example, (word, voice) in zip(found, spoken, strict=True):
        assert word == WORDS[example["label"]] == bytes(example["name"]).rstrip(b"\0").decode() and voice in voices
        light = np.asarray(example["image"], float).sum()
        np.testing.assert_allclose(example["clip"].astype(float).sum((1, 2, 3)), light)
