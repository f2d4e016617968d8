"""A mistake in a config is one sentence, with the key, the value and the fix, before anything compiles."""

import copy
import importlib
import json

import pytest

from dit_jax import train
from dit_jax.command import parse
from dit_jax.config import build, config_first, default, load, stream
from dit_jax.configs import audio_digits, digits, digits_meanflow, fashion_mnist, imagenet256
from dit_jax.names import ConfigError
from dit_jax.network.layers import PUBLISHED
from dit_jax.parallel.mesh import make_mesh
from dit_jax.training.placement import placement


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
        ("train.steps", 0, r"train.steps = 0 should be at least 1"),
        ("train.init", "gs://b/run", r"train.init = gs://b/run is no path of this machine"),
        ("data.dir", "gs://b/data", r"data.dir = gs://b/data is no path of this machine"),
        ("data.name", "s3://b/pets", r"data.name = s3://b/pets is no path of this machine"),
        ("sample.weak", "gs://b/run", r"sample.weak = gs://b/run is no path of this machine"),
        ("optimizer.learning_rate", False, r"optimizer.learning_rate = False is a bool, and has to be float"),
        ("optimizer.name", "adam", r"optimizer.name = 'adam' does not exist; did you mean 'adamw'"),
        ("model.block", "modren", r"model.block = 'modren' does not exist; did you mean 'modern'"),
        ("model.heads", 5, r"model.heads = 5 does not divide width = 96"),
        ("model.heads", 0, r"model.heads = 0 should be at least 1"),
        ("model.dtype", "float8", r"model.dtype = 'float8' does not exist"),
        ("streams.image.kind", "imge", r"streams.image.kind = 'imge' does not exist; did you mean 'image'"),
        ("streams.image.patch", 3, r"streams.image: patch \(3, 3\) does not divide the shape \(8, 8\)"),
        (
            "streams.image.process",
            "gaussian(prediction='eps')",
            r"streams.image.process.prediction = 'eps' does not exist",
        ),
        ("streams.image.process", "gaussian(", r"streams.image.process = 'gaussian\(' should be a call of one of"),
        (
            "streams.image.process",
            "gaussian(schedule=smooth, prediction=v)",
            r"^streams.image.process=\"gaussian\(schedule='smooth', prediction='v'\)\" is what to write, after "
            r"--config. in a shell: gaussian\(schedule=smooth, prediction=v\) has no quotes around smooth, v$",
        ),
        (
            "streams.image.levels",
            "log_normal(mean=-1.0, schedule=edm)",
            r"^streams.image.levels=\"log_normal\(mean=-1.0, schedule='edm'\)\" is what .* no quotes around edm$",
        ),
        ("model.block", "modern(norm=layer)", r"^model.block=\"modern\(norm='layer'\)\" is what to write"),
        ("streams.image.process", "(" * 5000, r"should be a call of one of: gaussian\(\), ddpm\(\)"),
        ("optimizer.lr", 1e-3, r"optimizer.lr does not exist; did you mean 'learning_rate'"),
        ("data.bs", 8, r"data.bs does not exist; did you mean 'batch_size'"),
        ("streams.image.shape", [8, 8], r"streams.image.shape = \(8, 8\) should be 3 numbers, height, width, channels"),
        ("sample.grid", "kharras", r"sample.grid = 'kharras' does not exist; did you mean 'karras'"),
        ("streams.image.levels", "logit_norm()", r"streams.image.levels = 'logit_norm' .* did you mean 'logit_normal'"),
        (
            "streams.image.levels",
            "uniform(shfit=2.0)",
            r"streams.image.levels.shfit does not exist; did you mean 'shift'",
        ),
        ("streams.image.levels", "uniform(2.0)", r"streams.image.levels = 'uniform\(2.0\)' should be a call of one of"),
        (
            "sample.given",
            ["lable=1"],
            r"sample.given: --given=lable=1 should be STREAM=VALUE",
        ),
        ("sample.solver", "dpm", r"sample.solver = 'dpm' does not exist"),
        ("parallel.mode", "pjit", r"parallel.mode = 'pjit' does not exist; did you mean"),
        ("data.augment", "flop", r"data.augment = 'flop' does not exist; did you mean 'flip'"),
        ("train.ema", 1.5, r"train.ema = 1.5 should be at least 0 and below 1"),
        ("train.ema", -3.0, r"train.ema = -3.0 should be at least 0 and below 1"),
        ("optimizer.clip", 0.0, r"optimizer.clip = 0.0 should be above 0, or inf"),
        ("optimizer.warmup", 1501, r"optimizer.warmup = 1501 should be 0 ... 1500, the updates of the run"),
        ("train.accumulation", 7, r"data.batch_size = 64 is not divisible by train.accumulation = 7"),
        ("streams", {"label": stream("label", classes=10)}, r"streams needs at least one with tokens"),
    ],
)
def test_mistakes_are_named(path, value, message):
    with pytest.raises(ConfigError, match=message):
        build(changed(path, value))


def test_what_a_config_cannot_hold_is_named():
    for value, message in [({1}, "Object of type set is not JSON serializable"), (len, "Object of type builtin")]:
        with pytest.raises(ConfigError, match=f"config holds what is no number, word or list of them: {message}"):
            build(changed("train.seed", value))


START = "from dit_jax.config import default, stream\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:\n    pass\n", "{}, line 1: SyntaxError: "),
        (START + "config = default(\n", "{}, line 2: SyntaxError: '(' was never closed"),
        ("import nowhere_at_all\n", "{}, line 1: No module named 'nowhere_at_all'"),
        ("from dit_jax.config import defualt\n", "{}, line 1: cannot import name 'defualt' from 'dit_jax.config'"),
        (START + "\ndef get_config():\n    return {}['x']\n", "{}, line 4: KeyError: 'x'"),
        (START + "\ndef get_config():\n    assert 1 > 2\n", "{}, line 4: AssertionError"),
        (START + "\ndef get_config():\n    return 1 / 0\n", "{}, line 4: division by zero"),
        (
            START + "\ndef get_config():\n    return open('nowhere')\n",
            "{}, line 4: [Errno 2] No such file or directory",
        ),
        (
            START + "\ndef get_config():\n    config = default()\n    config.train.stepz = 5\n    return config\n",
            '{}, line 5: \'Key "stepz" does not exist and cannot be added since the config is locked. Other fields',
        ),
        (
            START + "\ndef get_config():\n    return stream('imge')\n",
            "{}, line 4: kind = 'imge' does not exist; did you mean 'image'?",
        ),
        ("\n", "--config={}: {} has no get_config(), which returns a config; "),
        ("get_config = 3\n", "--config={}: {} has no get_config(), which returns a config; "),
        ("def get_config():\n    default = 3\n", "{}: get_config() returns a NoneType, and should return a config; "),
        ("def get_config():\n    return [1]\n", "{}: get_config() returns a list, and should return a config; "),
        ("def get_config(size):\n    return {}\n", "--config={} needs a variant, --config={}:VARIANT"),
        (
            "VARIANTS = 'small', 'large'\ndef get_config(size):\n    return {}\n",
            "--config={} needs a variant, --config={}:VARIANT, which is one of: small, large",
        ),
        ("\0", "{}"),
        ("#" + "\xff", ""),
    ],
)
def test_a_broken_config_file_is_named_with_its_line_and_the_reason(text, message, tmp_path):
    file = tmp_path / "own.py"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError) as error:
        load(str(file))
    assert str(error.value).startswith(message.replace("{}", str(file))) and "\n" not in str(error.value)


def test_a_dict_is_a_config_too(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("def get_config(word):\n    return {'train': {'steps': len(word)}}\n")
    assert load(f"{file}:abc").train.steps == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--config.optimizer.lr=1e-3",
            "--config.optimizer.lr does not exist; did you mean --config.optimizer.learning_",
        ),
        ("--config.lr=1e-3", "--config.lr does not exist; did you mean --config.optimizer.learning_rate?"),
        ("--config.model.lr 1", "--config.model.lr does not exist; did you mean --config.optimizer.learning_rate?"),
        (
            "--config.train.batch_size=8",
            "--config.train.batch_size does not exist; did you mean --config.data.batch_size?",
        ),
        ("--config.batch_size=8", "--config.batch_size does not exist; did you mean --config.data.batch_size?"),
        ("--config.steps=8", "did you mean --config.sample.steps or --config.train.steps?"),
        ("--config.train.stepz=8", "--config.train.stepz does not exist; did you mean --config.train.steps?"),
        (
            "--config.streams.imgae.patch=1",
            "--config.streams.imgae.patch does not exist; did you mean --config.streams.im",
        ),
        ("--config.checkpoint.qqq=1", "--config.checkpoint.qqq does not exist; --config.checkpoint has every, keep"),
        (
            "--config.qqq=1",
            "--config.qqq does not exist; --config has checkpoint, data, model, optimizer",
        ),
        ("--config.=1", "--config. does not exist; --config has checkpoint, data"),
        ("--steps=8", "--steps does not exist; did you mean --config.sample.steps or --config.train.steps?"),
        ("--lr 1", "--lr does not exist; did you mean --config.optimizer.learning_rate?"),
        ("--wrkdir=runs/x", "--wrkdir does not exist; did you mean --workdir?"),
        ("--config.train.steps=many", "--config.train.steps=many should be a whole number"),
        ("--config.train.steps=1.5", "--config.train.steps=1.5 should be a whole number"),
        ("--config.train.ema=x", "--config.train.ema=x should be a number"),
        (
            "--config.streams.image.shape=(8, 8",
            "--config.streams.image.shape=(8, 8 should be values such as (32, 32, 3)",
        ),
        ("--dry_run=maybe", "--dry_run=maybe should be true or false"),
        ("--config=digit", "--config=digit is no config that comes with the package; did you mean 'digits'?"),
        ("--config=", "--config= is no config that comes with the package; known are"),
        (
            "--config=nowhere/digits.py",
            "--config=nowhere/digits.py: there is no such file; --config=digits comes with th",
        ),
        ("--config=nowhere/own.py", "--config=nowhere/own.py: there is no such file; paths start in /"),
        ("--config=digits:large", "--config=digits:large has no variants; say --config=digits"),
        ("--config=imagenet256:dit_xl22", "--config=imagenet256:dit_xl22 is no variant of it; did you mean 'dit_xl2'?"),
        ("--config.streams[image]=3", "--config has no such key: "),
        ("digits", "what is 'digits'? Flags are written --name=value"),
        ("--workdir=", "--workdir is empty; where it is left out, it is runs/digits"),
    ],
)
def test_a_command_line_that_no_config_has_is_one_sentence(words, message):
    words = words.split() if "(" not in words else [words]
    with pytest.raises(ValueError) as error:
        parse(train.main, words, ["--config=digits"], config_first)
    assert str(error.value).startswith(message) or message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        ["--config=digits", "--config.train.steps=7"],
        ["--config.train.steps=7", "--config=digits"],
        ["--config.train.steps", "7", "--config", "digits"],
        ["-config=digits", "-config.train.steps=7"],
        ["--config.train.steps=7"],
        ["--config=text_kjv", "--config.train.steps=5", "--config=digits", "--config.train.steps=7"],
    ],
)
def test_flags_are_written_in_any_order_and_the_last_counts(words):
    """With one dash or two, and a space or none."""
    found = parse(train.main, [*words, "--workdir", "runs/x"], ["--config=digits"], config_first)
    assert (found["config"].train.steps, found["config"].model.width, found["workdir"]) == (7, 96, "runs/x")


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


def test_an_objective_that_needs_velocities_says_so():
    config = json.loads(digits_meanflow.get_config().to_json())
    config["streams"]["image"]["process"] = "gaussian(prediction='x')"
    with pytest.raises(ConfigError, match=r"train.objective = 'improved_meanflow' needs a stream that predicts veloci"):
        build(config)


def test_only_an_image_can_be_mirrored():
    config = json.loads(audio_digits.get_config().to_json())
    config["data"]["augment"] = "flip"
    with pytest.raises(ConfigError, match=r"data.augment = 'flip' mirrors a stream 'image'; there are: speech, label"):
        build(config)


def test_guidance_is_a_number_or_one_for_each_stream():
    """In a config file as on the command line, whichever its default is; a list is neither."""
    config = digits.get_config()
    for value in ("label=2", 2.5, 3):
        config.sample.guidance = value
        assert build(config).sample.guidance == value
    config.sample.guidance = "label"
    with pytest.raises(ConfigError, match=r"sample.guidance = 'label' should be a number, or STREAM=NUMBER"):
        build(config)


@pytest.mark.parametrize("variant", ["dit_xl2", "sit_xl2"])
def test_imagenet_is_trained_as_published(variant):
    """As in section 4 of DiT (arXiv 2212.09748), which SiT follows (arXiv 2401.08740), and in the code of both: AdamW
    with PyTorch's betas, a constant rate, no decay, no warm-up, no clipping, flips, one label of ten dropped."""
    run = build(imagenet256.get_config(variant))
    config = run.config["optimizer"]
    assert (config["name"], config["learning_rate"], config["b1"], config["b2"]) == ("adamw", 1e-4, 0.9, 0.999)
    assert (config["weight_decay"], config["warmup"], config["decay"]) == (0.0, 0, "constant")
    assert config["clip"] == float("inf") and run.train.accumulation == 1 and run.train.levels == "independent"
    assert (run.data.batch_size, run.data.augment) == (256, "flip")
    assert (run.train.ema, run.train.steps) == (0.9999, 400_000)
    assert (run.model.width, run.model.depth, run.model.heads, run.model.mlp_ratio) == (1152, 28, 16, 4.0)
    assert run.model.block == PUBLISHED and run.config["streams"]["label"]["dropout_rate"] == 0.1


@pytest.mark.parametrize("name", ["imagenet256", "text_kjv_gpu"])
def test_no_config_has_the_habits_of_one_chip(name):
    """Unrolled layers are faster on some GPUs and do not compile for TPUs: who has one says so."""
    config = importlib.import_module(f"configs.{name}").get_config()
    assert config.model.unroll == 1 and config.model.remat == "dots"


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
