"""The commands as a user types them: exact resume, clean stops, and mistakes that end in one line."""

import dataclasses
import inspect
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from diffusers import AutoencoderKL
from PIL import Image
from scipy.io import wavfile
from sklearn.datasets import load_sample_image

from dit_jax import train
from dit_jax.command import parse
from dit_jax.config import SECTIONS, build, config_first, shipped
from dit_jax.data import sources
from dit_jax.pretrained.vae import fingerprint
from dit_jax.run import SampleOptions

ROOT = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ, "PYTHONUNBUFFERED": "1", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # compiles faster
TINY = [
    *("--config.model.width=48", "--config.model.depth=2", "--config.model.heads=2"),
    *("--config.data.batch_size=8", "--config.train.log_every=1", "--config.checkpoint.every=5"),
    "--config.optimizer.decay=constant",  # a decay ends where the run ends, so ten updates would not begin twenty
    "--config.sample.every=0",
]


def start(*command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*command: str, status: int = 0) -> str:
    process = start(*command)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == status, output
    return output


def arrays(workdir: Path, step: int) -> list[np.ndarray]:
    checkpoint = workdir / "checkpoints" / str(step)
    reader = ocp.StandardCheckpointer()
    return [
        np.asarray(x) for item in ("params", "ema", "opt") for x in jax.tree.leaves(reader.restore(checkpoint / item))
    ]


def losses(workdir: Path) -> dict[int, float]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("straight")
    run("train.py", f"--workdir={workdir}", *TINY, "--config.train.steps=20")
    return workdir


def test_twenty_updates_are_ten_and_ten_more_in_a_new_process(straight, tmp_path):
    """Bitwise, in every array; and the losses say that the same batches were seen with the same noise.

    The checkpoint between is older than an option, which it does not name: that is no reason to refuse it.
    """
    run("train.py", f"--workdir={tmp_path}", *TINY, "--config.train.steps=10")
    written = tmp_path / "checkpoints" / "10" / "meta" / "metadata"
    meta = json.loads(written.read_text())
    del meta["config"]["model"]["attention"], meta["digest"], meta["fingerprints"]
    written.write_text(json.dumps(meta))
    output = run("train.py", f"--workdir={tmp_path}", *TINY, "--config.train.steps=20")
    assert "resuming from step 10" in output and "train.steps: 10 -> 20" in output.splitlines()
    assert losses(tmp_path) == losses(straight) and sorted(losses(straight)) == list(range(1, 21))
    ours, theirs = arrays(tmp_path, 20), arrays(straight, 20)
    assert len(ours) > 50
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def test_old_checkpoints_leave_nothing_behind(straight):
    """Of 5, 10, 15 and 20, the newest two are kept."""
    assert {path.name for path in (straight / "checkpoints").iterdir() if path.is_dir()} == {"15", "20"}


def test_a_finished_run_has_nothing_left_to_do(straight):
    before = arrays(straight, 20)
    assert "finished at step 20" in run("train.py", f"--workdir={straight}", *TINY, "--config.train.steps=20")
    for a, b in zip(before, arrays(straight, 20), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_in_ten_seconds(number, tmp_path):
    process = start("train.py", f"--workdir={tmp_path}", "--config.train.log_every=5", "--config.train.steps=100000")
    line = ""
    while not line.startswith("training"):
        line = process.stdout.readline()
        assert line, "ended before its first update"
    process.send_signal(number)
    begin = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - begin < 10 and process.returncode == 0, output
    step = int(output.split("stopped at step ")[1].split(";")[0])
    assert arrays(tmp_path, step)


@pytest.mark.heavy
def test_a_run_under_timeout_is_saved(tmp_path):
    """Which sends SIGTERM to the process and to its group: twice."""
    command = [sys.executable, "train.py", f"--workdir={tmp_path}", *TINY, "--config.train.steps=1000000"]
    done = subprocess.run(["timeout", "30", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 124 and "stopped at step " in done.stdout, done.stdout[-2000:] + done.stderr


@pytest.mark.heavy
def test_a_second_signal_leaves_at_once(tmp_path):
    process = start("train.py", f"--workdir={tmp_path}", "--config.train.log_every=5", "--config.train.steps=100000")
    while not process.stdout.readline().startswith("training"):
        assert process.poll() is None
    process.send_signal(signal.SIGSTOP)  # both are waiting when it wakes up
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=2)
    assert process.returncode in (128 + signal.SIGTERM, 128 + signal.SIGINT)


def test_sampling_writes_arrays_protocol_and_picture(straight, tmp_path):
    run(
        "sample.py",
        f"--workdir={straight}",
        "--num=5",
        "--given=label=3,7",
        "--steps=3",
        "--batch=2",
        f"--out={tmp_path}",
    )
    written = np.load(tmp_path / "samples.npz")
    assert written["image"].shape == (5, 8, 8, 1) and written["label"].tolist() == [3, 7, 3, 7, 3]
    assert written["arr_0"].shape == (5, 8, 8, 3) and written["arr_0"].dtype == np.uint8
    np.testing.assert_allclose(
        written["arr_0"][..., 1] / 127.5 - 1, np.clip(written["image"][..., 0], -1, 1), atol=4e-3
    )
    protocol = json.loads(str(written["protocol"]))
    assert protocol["steps"] == 3 and protocol["given"] == ["label=3,7"] and protocol["seed"] == 0
    assert protocol["step"] == 20
    assert (tmp_path / "samples.png").stat().st_size > 0
    assert not (tmp_path / "interpolation.gif").exists()


@pytest.mark.heavy
def test_every_choice_of_a_sampler_has_its_flag(straight, tmp_path):
    chosen = {"num": 2, "guidance": 2.0, "combine": "projected", "channels": 1, "interval": [0.1, 0.9], "steps": 3}
    chosen |= {"solver": "heun", "reveal": "remask", "grid": "karras", "shift": 2.0, "seed": 5, "batch": 3}
    chosen |= {"first": ["image"], "drawn": ["image"], "weak": str(straight)}
    said = {name: ",".join(map(str, value)) if isinstance(value, list) else value for name, value in chosen.items()}
    flags = [f"--{name}={value}" for name, value in said.items()]
    run("sample.py", f"--workdir={straight}", *flags, "--given=label=1", f"--out={tmp_path}")
    protocol = json.loads(str(np.load(tmp_path / "samples.npz")["protocol"]))
    assert {name: protocol[name] for name in chosen} == chosen
    fields = {field.name for field in dataclasses.fields(SampleOptions)}
    assert fields - chosen.keys() == {"every", "given", "rollout"}  # an image has no frames to go on with


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Path:
    """A run of four streams, and two of its samples."""
    workdir = tmp_path_factory.mktemp("joint")
    data = "--config.data.name=synthetic", "--config.train.steps=1"
    run("train.py", "--config=configs/joint_digits.py", f"--workdir={workdir}", *TINY, *data)
    run("sample.py", f"--workdir={workdir}", "--num=2", "--steps=2", f"--out={workdir / 'drawn'}")
    return workdir


@pytest.mark.heavy
def test_any_stream_can_be_given_as_it_was_written(joint, tmp_path):
    """A word, a picture, a sound and the first frames of a clip: they come back as they are, and the rest is drawn."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "seven.png")
    drawn, wav, gif = np.load(joint / "drawn" / "samples.npz"), joint / "drawn/speech/1.wav", joint / "drawn/clip/1.gif"
    for given in (
        ["--given=name=seven", f"--given=speech={wav}"],
        [f"--given=image={tmp_path / 'seven.png'}", f"--given=clip={gif}:prefix=2"],
    ):
        run(
            "sample.py",
            f"--workdir={joint}",
            *given,
            "--num=2",
            "--steps=2",
            "--seed=1",
            "--overwrite",
            f"--out={tmp_path}",
        )
        found = np.load(tmp_path / "samples.npz")
        assert all(np.isfinite(found[name]).all() for name in ("image", "name", "speech", "clip"))
        if "--given=name=seven" in given:
            assert [*map(bytes, found["name"].astype(np.uint8))] == [b"seven"] * 2
            heard = drawn["speech"][1] - drawn["speech"][1].mean()
            np.testing.assert_allclose(found["speech"], [heard / heard.std()] * 2, atol=0.01)
        else:
            np.testing.assert_allclose(found["image"][..., 0], [pixels / 127.5 - 1] * 2, atol=1e-6)
            seen = np.clip(drawn["clip"][1], -1, 1)
            np.testing.assert_allclose(found["clip"][:, :2], [seen[:2]] * 2, atol=1 / 127)
            assert np.abs(found["clip"][:, 2:] - seen[2:]).max() > 0.1


@pytest.mark.heavy
def test_what_cannot_be_given_is_named(joint, tmp_path):
    long, fast, text, wide = (tmp_path / name for name in ("long.wav", "fast.wav", "text.wav", "wide.png"))
    wavfile.write(long, 8000, np.ones(8000, np.int16))
    wavfile.write(fast, 44100, np.ones(8000, np.int16))
    Image.new("L", (16, 8)).save(wide)
    text.write_text("seven")
    for given, message in [
        ("word=seven", "STREAM is one of: image, name, speech, clip"),
        ("name=seventy", "'seventy' is 7 bytes long, and the text has 5: shorten it"),
        ("image=seven.png", "cannot read the image seven.png: No such file"),
        (f"speech={long}", f"{long} lasts 1.00 s, a clip 0.64 s: sox IN OUT trim 0 0.64"),
        (f"speech={fast}", f"{fast} has 44100 samples a second, and should have 8000: sox IN -r 8000 OUT"),
        (f"image={wide}", f"{wide} is 16 pixels wide and 8 high, and should be 8 and 8 or a multiple: magick IN"),
        (f"clip={wide}:prefix=1", f"{wide} is 16 pixels wide and 8 high, and should be "),
        (f"speech={text}", str(text)),
        (f"clip={joint}/drawn/clip/0.gif:prefix=4", "the prefix of clip, 4 groups, should be 1 ... 3"),
    ]:
        output = run("sample.py", f"--workdir={joint}", f"--given={given}", f"--out={tmp_path / 'new'}", status=1)
        assert output.startswith("error: ") and message in output and "Traceback" not in output
    assert not (tmp_path / "new").exists()


@pytest.mark.heavy
def test_a_clip_runs_from_one_end_to_the_other_and_back(straight, tmp_path):
    file = tmp_path / "end.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 24), np.uint8)).save(file)
    for ends in ("3,7", f"{file},{file}"):
        flags = [
            f"--interpolate={ends}",
            "--num=4",
            "--steps=2",
            "--given=label=2,5",
            "--solver=heun",
            "--overwrite",
            f"--out={tmp_path}",
        ]
        run("sample.py", f"--workdir={straight}", *flags)
        written = np.load(tmp_path / "samples.npz")
        assert written["image"].shape == (4, 8, 8, 1) and written["label"].tolist() == [2] * 4
        assert json.loads(str(written["protocol"]))["interpolate"] == ends
        with Image.open(tmp_path / "interpolation.gif") as clip:
            assert clip.info["loop"] == 0 and clip.width >= 256
            assert clip.n_frames == (6 if ends == "3,7" else 1)  # GIF keeps one of frames that are alike


def test_a_dry_run_says_what_would_run_and_writes_nothing(tmp_path):
    flags = "--config=configs/imagenet256.py:dit_s2", "--config.sample.guidance=label=2", "--config.optimizer.clip=inf"
    output = run("train.py", f"--workdir={tmp_path / 'w'}", *flags, "--dry_run")
    assert '"guidance": "label=2"' in output
    published, table = 32_963_360, 256 * 384  # theirs counts the fixed table of positions
    assert f"parameters: {published - table:,}" in output
    assert "mesh: {'data': 1" in output and '"batch_size": 256' in output
    assert not (tmp_path / "w").exists()


def test_the_help_of_train_says_where_keys_are_and_its_examples_are_right():
    output = run("train.py", "--help")
    line = next(line for line in output.splitlines() if line.strip().startswith("--config: "))
    assert all(name in line for name in shipped())
    for section in SECTIONS:
        (where,) = re.findall(rf"\b{section}\b[^.]*? in (dit_jax[\w/]*(?:\.py)?)", output.split("is read:")[1])
        assert (ROOT / where).exists()
        source = inspect.getsourcefile(inspect.unwrap(SECTIONS[section]))
        assert Path(source) == ROOT / where
    examples = re.findall(r"^ +python -m dit_jax.train (.*)", output.replace("\\\n", " "), re.MULTILINE)
    assert len(examples) == 3
    for words in examples:
        arguments = parse(train.main, shlex.split(words), rewrite=config_first)
        build(arguments["config"])
    assert '"width": 96' in run("-m", "dit_jax.train", *shlex.split(examples[0]))


def test_a_command_runs_from_any_directory(tmp_path):
    """With the paths of the shell that it is typed in."""
    (tmp_path / "own.py").write_text("from dit_jax.configs import digits\nget_config = digits.get_config\n")
    command = [sys.executable, str(ROOT / "train.py"), "--config=own.py", "--config.data.dir=data", "--workdir=run"]
    (tmp_path / "run").write_text("in the way")
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and (tmp_path / "data" / "digits").is_dir()
    assert done.stderr.splitlines()[-1] == (
        "error: run: File exists; a file is where a directory should be: choose another path"
    )


@pytest.fixture
def data_set(tmp_path) -> Path:
    """digits as TFDS keeps them, under another name: the folder of a version."""
    prepared = sources.prepare("digits", tmp_path / "data")
    folder = tmp_path / "data" / "mine" / "1.0.0"
    folder.mkdir(parents=True)
    for file in Path(prepared.data_dir).iterdir():
        (folder / file.name.replace("digits", "mine", 1)).write_bytes(file.read_bytes())
    note = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(note | {"name": "mine"}))
    return folder


def test_data_that_take_tensorflow_to_read_are_an_error_with_what_rewrites_them(data_set):
    """The default of `tfds build`."""
    file, data = data_set / "dataset_info.json", data_set.parent.parent
    assert sources.find("mine", data).info.splits["train"].num_examples == 899
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(ValueError) as error:
        sources.find("mine", data)
    assert str(error.value) == (
        f"{data_set} has tfrecord files, which cannot be read at random: write others beside them, by pip install "
        f"tensorflow; tfds convert_format --dataset_version_dir={data_set} --out_file_format=array_record"
    )


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("dataset_info.json", '{"name": ', "ParseError: Failed to load JSON: Expecting value"),
        ("dataset_info.json", "", "ParseError: "),
        ("dataset_info.json", '{"name": 3}', "ParseError: "),
    ],
)
def test_a_data_set_that_is_broken_is_named(name, text, reason, data_set):
    (data_set / name).write_text(text)
    with pytest.raises(ValueError) as error:
        sources.find("mine", data_set.parent.parent)
    assert str(error.value).startswith(f"{data_set.parent} is no data set as TFDS writes them: {reason}")
    assert str(error.value).endswith("; prepare it again") and "\n" not in str(error.value)


@pytest.mark.heavy
def test_train_names_mistakes(tmp_path):
    own = tmp_path / "own.py"
    own.write_text("import math\n\n\ndef get_config():\n    return math.tau2\n")
    for argument, message in [
        ("--config.train.stepz=5", "--config.train.stepz does not exist; did you mean --config.train.steps?"),
        (
            "--config.optimizer.lr=1e-3",
            "--config.optimizer.lr does not exist; did you mean --config.optimizer.learning",
        ),
        (
            "--config.streams.image.process=gaussian(prediction=v)",
            "streams.image.process=\"gaussian(prediction='v')\" is what to write, after --config. in a shell",
        ),
        ("--config.data.name=fashion_mnits", "python -m dit_jax.prepare"),
        ("--config=configs/nowhere.py", "configs/nowhere.py"),
        (f"--config={own}", f"{own}, line 5: module 'math' has no attribute 'tau2'"),
    ]:
        output = run("train.py", f"--workdir={tmp_path}", argument, status=1)
        assert output.startswith("error: ") and message in output and "Traceback" not in output


@pytest.mark.heavy
def test_sample_names_mistakes(straight, tmp_path):
    for workdir, argument, message in [
        (straight, "--given=label=10", "label 10 does not exist: labels are 0 ... 9"),
        (straight, "--given=lable=1", "STREAM is one of: image, label"),
        (straight, "--solver=dpm", "solver = 'dpm' does not exist; did you mean 'ddim'"),
        (straight, "--rollout=image=16:1", "overlap = 1 should be 1 ... 0 of the 1 groups of image"),
        (straight, "--interval=0.9,0.1", "interval = (0.9, 0.1) should be two levels, 0 <= low <= high <= 1"),
        (straight, "--interval=low,high", "--interval=low,high should be 2 numbers"),
        (straight, "--interpolate=3", "--interpolate=3 should be two seeds or two files"),
        (straight, "--interpolate=3,7", "--interpolate=3,7 takes a solver without noise: ddim, 2m, 3m, unipc, heun"),
        (straight, "--part=2,2", "--part=2,2 should be INDEX,COUNT"),
        (straight, f"--weak={tmp_path}", "there is no checkpoint"),
        (tmp_path, "--num=1", "there is no checkpoint"),
        (straight, f"--out={__file__}", f"{__file__} is a file, and should be a directory"),
        (straight, "--steps=0", "--steps = 0 should be at least 1"),
        (straight, "--config.train.steps=5", "it is a flag of python -m dit_jax.train"),
    ]:
        out = [] if argument.startswith("--out=") else [f"--out={tmp_path}"]
        output = run("sample.py", f"--workdir={workdir}", *out, *argument.split(), status=1)
        assert output.startswith("error: ") and message in output and "Traceback" not in output


@pytest.mark.heavy
def test_a_broken_checkpoint_is_named_and_the_one_before_it_used(tmp_path):
    """By who draws and by who trains, who alone sets it aside; and one is drawn from if it is asked for."""
    run("train.py", f"--workdir={tmp_path}", *TINY, "--config.train.steps=6")
    for file in (tmp_path / "checkpoints" / "6" / "ema").rglob("*"):
        if file.is_file():
            file.write_bytes(b"")
    draw = "sample.py", f"--workdir={tmp_path}", "--num=1", "--steps=1"
    named = f"{tmp_path}/checkpoints/6 is damaged: ema cannot be read ("
    first, *_ = run(*draw, f"--out={tmp_path / 'newest'}").splitlines()
    assert first.startswith(named) and first.endswith("; step 5 is used")
    run(*draw, "--step=5", f"--out={tmp_path / 'fifth'}")
    newest, fifth = (np.load(tmp_path / name / "samples.npz")["image"] for name in ("newest", "fifth"))
    np.testing.assert_array_equal(newest, fifth)
    assert run(*draw, "--step=6", status=1).startswith(f"error: {named}")
    assert run(*draw, "--step=4", status=1).endswith("has no checkpoint 4; it has 5, 6\n")
    output = run("train.py", f"--workdir={tmp_path}", *TINY, "--config.train.steps=8")
    (line,) = (line for line in output.splitlines() if line.startswith(named))
    assert line.endswith("), and is set aside as 6.damaged; step 5 is used") and "resuming from step 5" in output
    assert "Traceback" not in output and (tmp_path / "checkpoints" / "6.damaged" / "params").exists()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"5", "6.damaged", "8"}


def test_another_network_in_the_same_place_is_refused(straight):
    output = run("train.py", f"--workdir={straight}", *TINY, "--config.model.width=96", status=1)
    assert output.startswith("error: ") and "holds another network: model.width was 48 and is 96; choose" in output
    assert output.count("\n") == 1


@pytest.mark.heavy
def test_other_data_under_the_same_name_are_refused(tmp_path):
    """A class that has another name, and a picture more: nothing else would notice."""
    for i in range(6):
        file = tmp_path / "data" / "abc"[i % 3] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 40 * i, np.uint8)).save(file)
    command = ["train.py", f"--workdir={tmp_path / 'run'}", *TINY, f"--config.data.name={tmp_path / 'data'}"]
    command += ["--config.streams.label.classes=3"]
    run(*command, "--config.train.steps=1")
    (tmp_path / "data" / "b").rename(tmp_path / "data" / "d")
    (tmp_path / "data" / "a" / "9.png").write_bytes((tmp_path / "data" / "a" / "0.png").read_bytes())
    changed = "the number of examples was 6 and is 7, class 'a' has 3 files and had 2, class 'b' is now 'd'"
    output = run(*command, "--config.train.steps=2", status=1)
    assert output.startswith("error: ") and f"/1 was trained on other data: {changed}; go back to them" in output
    output = run(*command, "--config.train.steps=2", "--config.data.changed=allow")
    assert f"the data have changed: {changed}" in output.splitlines() and "finished at step 2" in output


@pytest.mark.heavy
def test_sampling_leaves_alone_what_training_is_writing(straight, tmp_path):
    """A checkpoint on its way has this name; a reader that tidied up would destroy it."""
    writing = straight / "checkpoints" / "21.orbax-checkpoint-tmp"
    writing.mkdir()
    try:
        run("sample.py", f"--workdir={straight}", "--num=1", "--steps=1", f"--out={tmp_path}")
        assert writing.exists()
    finally:
        writing.rmdir()


@pytest.mark.heavy
def test_pictures_become_latents_and_latents_pictures(tmp_path):
    """Encode a folder, train on it, draw, decode; latents of another VAE are refused."""
    photograph = load_sample_image("china.jpg")
    for i in range(8):
        file = tmp_path / "images" / f"class{i % 2}" / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[32 * i : 32 * i + 32, :32]).save(file)
    blocks = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4}
    kinds = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(**blocks, **kinds).save_pretrained(tmp_path / "vae")

    vae, data = f"--vae={tmp_path / 'vae'}", f"--data_dir={tmp_path / 'data'}"
    prepare = ("-m", "dit_jax.prepare", "tiny", f"--source={tmp_path / 'images'}", vae, data, "--size=16", "--batch=4")
    assert "encoded 8 images" in run(*prepare) and "encoded 0 images" in run(*prepare)

    digest = fingerprint(tmp_path / "vae")
    config = [
        *("--config=configs/imagenet256.py:sit_s2", *TINY, "--config.data.name=tiny", "--config.train.steps=2"),
        *("--config.streams.image.shape=(8, 8, 4)", "--config.streams.label.classes=2"),
        *("--config.sample.steps=2", "--config.sample.num=3", data.replace("--data_", "--config.data.")),
    ]
    workdir = f"--workdir={tmp_path / 'run'}"
    refused = run("train.py", workdir, *config, f"--config.streams.image.codec={'0' * 64}", status=1)
    assert digest in refused and "0" * 64 in refused and "Traceback" not in refused
    run("train.py", workdir, *config, f"--config.streams.image.codec={digest}")
    run("sample.py", workdir, vae, f"--out={tmp_path}")
    drawn = np.load(tmp_path / "samples.npz")
    assert drawn["image"].shape == (3, 8, 8, 4) and drawn["arr_0"].shape == (3, 16, 16, 3)
    assert np.ptp(drawn["arr_0"]) > 0
