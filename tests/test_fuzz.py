"""Whatever is written into a config or on a command line is a run or a sentence: no traceback, no hang, no nonsense."""

import contextlib
import io
import json
import random

import numpy as np
import pytest

from dit_jax import convert, evaluate, prepare, sample_cli
from dit_jax import train as command
from dit_jax.command import parse
from dit_jax.config import SECTIONS, build, config_first, default, stream
from dit_jax.configs import digits, digits_meanflow, joint_digits, text_kjv_blocks, video_digits
from dit_jax.names import ConfigError
from dit_jax.schema import Range, notes, parameters, plain

COUNT = 250
BASES = [digits, digits_meanflow, joint_digits, text_kjv_blocks, video_digits]
NUMBERS = [0, -1, 1, 2, 3, 10**9, 2**31, 2**32, 2**64, -(2**40), 0.0, -0.5, 0.5, 1.0, 1.5, 1e30, -1e30]
NUMBERS += [float("nan"), float("inf"), float("-inf")]
CALLS = ["gaussian()", "uniform(", "logit_normal(std=-1.0)", "dropout(rate=2.0)", "gaussian(schedule=smooth)"]
CALLS += ["gaussian(prediction='x', clamp=-1.0)", "label=3", "image=nowhere.png", "name=*", "a=b=c", "clip=9:1"]
CALLS += ["gaussian(schedule=cosine, prediction=v)", "modern(norm=layer)", "(" * 300, "gaussian(" * 100, "'gaussian()'"]
OTHERS = ["", " ", "none", "adamw", "2m", "1e400", "\0", "é", *CALLS]
OTHERS += [None, True, False, [], [1, 2], ["label=all"], ["x"], {}, {"a": 1}, [None], [[1]]]


def anything(rng: random.Random):
    return rng.choice(NUMBERS if rng.random() < 0.6 else OTHERS)


def paths(config: dict) -> list[tuple[str, ...]]:
    """Every entry: of a section, or of a stream."""
    found = [(section, key) for section, entries in config.items() if section != "streams" for key in entries]
    found += [("streams", name, key) for name, entries in config["streams"].items() for key in entries]
    return found


def inside(run) -> None:
    """Whether all numbers of a run are in the ranges of their annotations."""
    for section in ("data", "train", "checkpoint", "parallel", "sample", "model"):
        record = getattr(run, section)
        for name, parameter in parameters(SECTIONS[section]).items():
            for note in notes(parameter.annotation):
                value = getattr(record, name, None)
                if isinstance(note, Range) and isinstance(value, int | float):
                    assert value in note, (section, name, value)


@pytest.mark.parametrize("seed", range(COUNT))
def test_any_value_of_any_entry_of_a_config_is_a_run_or_a_sentence(seed):
    rng = random.Random(seed)
    config = json.loads(rng.choice(BASES).get_config().to_json())
    for _ in range(rng.choice([1, 1, 2, 3])):
        *sections, key = rng.choice(paths(config))
        entries = config
        for name in sections:
            entries = entries[name]
        entries[key if rng.random() < 0.95 else key + "s"] = anything(rng)
    try:
        inside(build(config))
    except ConfigError as error:
        assert str(error) and "\n" not in str(error).replace("\\n", "")


@pytest.mark.parametrize("seed", range(COUNT))
def test_any_words_after_a_command_are_its_arguments_or_a_sentence(seed):
    """Parsing alone: nothing runs."""
    rng = random.Random(seed)
    main = rng.choice([command.main, sample_cli.main, evaluate.main, prepare.main, convert.main])
    names = [
        *parameters(main),
        "num",
        "steps",
        "given",
        "guidance",
        "interval",
        "config.train.steps",
        "config.x.y",
        "config.optimizer.lr",
        "config.streams.image.process",
        "config.streams.image.shape",
        "config.sample.guidance",
        "config.",
        "config.a[",
        "lr",
        "hlp",
    ]
    words = []
    for _ in range(rng.choice([0, 1, 2, 3])):
        value = rng.choice([str(anything(rng)), "digits", "5", "0.2,0.8", "label=1"])
        dash = rng.choice(["--", "--", "--", "-", "---", "--no", "\u2013", "\u2014"])
        words.append(
            rng.choice([f"{dash}{rng.choice(names)}={value}", f"{dash}{rng.choice(names)}", value, "--", "-x"])
        )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        try:
            found = parse(main, words, ["--config=digits"] if main is command.main else [], config_first)
            assert found.keys() <= parameters(main).keys()
        except (ValueError, OSError) as error:
            assert str(error) and "\n" not in str(error)


def entries_with(kind: type) -> list[tuple[str, str, Range]]:
    """Of all sections, the options whose annotation has a range of numbers."""
    return [
        (section, name, note)
        for section, function in SECTIONS.items()
        for name, parameter in parameters(function).items()
        for note in notes(parameter.annotation)
        if isinstance(note, Range) and plain(parameter.annotation) is kind
    ]


@pytest.mark.parametrize(("section", "name", "range_"), [*entries_with(int), *entries_with(float)])
def test_a_number_outside_its_range_is_an_error_that_says_the_range(section, name, range_):
    kind = plain(parameters(SECTIONS[section])[name].annotation)
    outside = [value for value in NUMBERS if value not in range_ and (kind is float or isinstance(value, int))]
    assert outside, "a range that everything is in"
    for value in outside:
        config = json.loads(digits.get_config().to_json())
        config[section][name] = kind(value)
        with pytest.raises(ConfigError) as error:
            build(config)
        assert f"{section}.{name} = " in str(error.value) and str(range_) in str(error.value)


def test_defaults_are_inside_their_ranges():
    config = default()
    config.streams = {"image": stream("image", shape=(8, 8, 1))}
    inside(build(config))
    assert np.isfinite(build(config).optimizer.learning_rate(0))
