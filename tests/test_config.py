"""A mistake in a config is one sentence, with the key, the value and the fix, before anything compiles."""

import copy
import json

import pytest

from configs import digits, fashion_mnist, imagenet256
from dit_jax.config import ConfigError, build, default, stream
from dit_jax.parallel.mesh import make_mesh
from dit_jax.training.loop import placement


def changed(path: str, value) -> dict:
    """The digits config as a plain dict, with one entry changed or added."""
    config = json.loads(digits.get_config().to_json())
    *sections, key = path.split(".")
    section = config
    for name in sections:
        section = section[name]
    section[key] = value
    return config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.stepz", 5, r"train.stepz does not exist; did you mean 'steps'"),
        ("streams.image.pach", 2, r"streams.image.pach does not exist; did you mean 'patch'"),
        ("trian", {}, r"config.trian does not exist; did you mean 'train'"),
        ("train.steps", "5", r"train.steps = '5' is a str, and has to be int"),
        ("train.steps", True, r"train.steps = True is a bool, and has to be int"),
        ("train.steps", 1.5, r"train.steps = 1.5 is a float, and has to be int"),
        ("train.steps", 0, r"train.steps = 0 must be at least 1"),
        ("optimizer.learning_rate", False, r"optimizer.learning_rate = False is a bool, and has to be float"),
        ("optimizer.name", "adam", r"optimizer: name = 'adam' does not exist; there are: adamw, muon"),
        ("model.block", "modren", r"model.block = 'modren' does not exist; did you mean 'modern'"),
        ("model.heads", 5, r"model.heads = 5 does not divide model.width = 96"),
        ("model.heads", 0, r"model.heads = 0 does not divide"),
        ("model.dtype", "float8", r"model.dtype = 'float8' does not exist"),
        ("streams.image.kind", "imge", r"streams.image.kind = 'imge' does not exist; did you mean 'image'"),
        ("streams.image.patch", 3, r"streams.image: patch \(3, 3\) does not divide the shape \(8, 8\)"),
        (
            "streams.image.process",
            "gaussian(prediction='eps')",
            r"streams.image.process.prediction = 'eps' does not exist",
        ),
        ("streams.image.process", "gaussian", r"streams.image.process = 'gaussian' should be a call of one of"),
        ("sample.grid", "kharras", r"sample.grid = 'kharras' does not exist; did you mean 'karras'"),
        ("streams.image.levels", "logit_norm()", r"streams.image.levels = 'logit_norm' .* did you mean 'logit_normal'"),
        (
            "streams.image.levels",
            "uniform(shfit=2.0)",
            r"streams.image.levels.shfit does not exist; did you mean 'shift'",
        ),
        ("streams.image.levels", "uniform", r"streams.image.levels = 'uniform' should be a call of one of"),
        ("sample.given", ["label=10"], r"sample.given: label 10 does not exist: labels are 0 ... 9"),
        ("sample.solver", "dpm", r"sample.solver = 'dpm' does not exist"),
        ("parallel.mode", "pjit", r"parallel.mode = 'pjit' does not exist; did you mean"),
        ("data.augment", "flop", r"data.augment = 'flop' does not exist; did you mean 'flip'"),
        ("train.accumulation", 7, r"data.batch_size = 64 is not divisible by train.accumulation = 7"),
        ("streams", {"label": stream("label", classes=10)}, r"streams needs at least one with tokens"),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(ConfigError, match=message):
        build(changed(path, value))


def test_a_missing_entry_is_named():
    config = changed("train.seed", 0)
    del config["streams"]["label"]["classes"]
    with pytest.raises(ConfigError, match=r"streams.label.classes is missing"):
        build(config)


def test_what_does_not_fit_the_devices_is_named():
    with pytest.raises(ValueError, match=r"data.batch_size = 60 is not divisible by 8: 8 devices x"):
        placement(build(changed("data.batch_size", 60)))
    with pytest.raises(ValueError, match=r"parallel.fsdp = 3.* does not fit 8 devices"):
        make_mesh(fsdp=3)
    with pytest.raises(ValueError, match=r"parallel.tensor = 2 does not divide model.heads = 3"):
        placement(build(changed("parallel", {"tensor": 2})))
    with pytest.raises(ValueError, match=r"parallel.context = 8 does not divide the number of tokens = 4"):
        placement(build(changed("streams.image.patch", 4) | {"parallel": {"context": 8}}))
    with pytest.raises(ValueError, match=r"parallel.mode = 'pmap' splits data only"):
        placement(build(changed("parallel", {"mode": "pmap", "fsdp": 8})))


def test_an_int_may_stand_for_a_float_and_nothing_else_changes():
    assert build(changed("train.ema", 0)).train.ema == 0.0
    config = changed("train.seed", 3)
    before = copy.deepcopy(config)
    assert build(config).config == before == config


def test_a_config_survives_its_checkpoint():
    """Built from what a checkpoint holds, a run is built from the same numbers."""
    run = build(digits.get_config())
    assert build(json.loads(json.dumps(run.config))).config == run.config


def test_keys_of_a_config_file_are_locked():
    config = default()
    with pytest.raises(AttributeError, match="steps"):
        config.train.stepz = 1


@pytest.mark.parametrize(
    "config",
    [digits.get_config(), fashion_mnist.get_config(), *(imagenet256.get_config(v) for v in imagenet256.VARIANTS)],
)
def test_every_config_builds(config):
    placement(build(config))
