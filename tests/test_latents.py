"""Prepared latents are what the encoder makes of images, however many devices, batches, processes and kills it took."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from sklearn.datasets import load_sample_image

import dit_jax as dj
from dit_jax import prepare
from dit_jax.data import latents, pipeline, sources
from dit_jax.data.folder import Folder
from dit_jax.network.vae import VAE
from dit_jax.pretrained import vae as pretrained

SIZE, IMAGES, ROOT = 16, 10, Path(__file__).parent.parent
SMALL = VAE((8, 16), layers=1, groups=4, scale=0.5)


def save_vae(folder: Path, seed: int) -> Path:
    """Random weights, in the published layout."""
    rng, tensors = np.random.default_rng(seed), {}
    for path, leaf in jax.tree.leaves_with_path(jax.eval_shape(SMALL.init, jax.random.key(0))):
        shape = pretrained.published_shape(leaf.shape)
        scale = 1 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5
        tensors[pretrained.published_key(path)] = np.float32(scale * rng.standard_normal(shape))
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / pretrained.WEIGHTS)
    (folder / "config.json").write_text(json.dumps({"norm_num_groups": SMALL.groups, "scaling_factor": SMALL.scale}))
    return folder


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    return save_vae(tmp_path_factory.mktemp("vae"), seed=0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Crops of scikit-learn's two photographs, of any size, a class each."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for i in range(IMAGES):
        name = ("china", "flower")[i % 2]
        (root / name).mkdir(exist_ok=True)
        top, left, height, width = rng.integers((0, 0, SIZE, SIZE), (300, 500, 100, 100))
        crop = load_sample_image(f"{name}.jpg")[top : top + height, left : left + width]
        Image.fromarray(crop).save(root / name / f"{i}.png")
    return root


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(latents, "SHARD", 4)


def arguments(images, vae, data_dir, name="photos", batch=8, **flags) -> dict:
    flags = {"source": images, "vae": vae, "data_dir": data_dir, "size": SIZE, "batch": batch, **flags}
    return {"name": name} | {flag: str(value) if isinstance(value, Path) else value for flag, value in flags.items()}


def start(images, vae, data_dir, before="", **flags) -> subprocess.Popen:
    """The command in a process of its own, on eight devices and with shards of four images, after some other lines."""
    program = f"""
import jax
from dit_jax import prepare
from dit_jax.data import latents
jax.config.update("jax_num_cpu_devices", 8)
latents.SHARD = 4
{before}
prepare.main(**{arguments(images, vae, data_dir, **flags)!r})
"""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, **pipes)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory, images, vae):
    """The uninterrupted run that others are compared with."""
    path = tmp_path_factory.mktemp("data")
    uninterrupted = start(images, vae, path)
    said, _ = uninterrupted.communicate(timeout=300)
    assert uninterrupted.returncode == 0, said
    return path


def streams(codec: str, shape=(SIZE // 2, SIZE // 2, 4), classes=2) -> dict:
    image = dataclasses.replace(dj.streams.image(shape, patch=2), codec_id=codec)
    return {"image": image, "label": dj.streams.label(classes)}


def stored(data_dir, split="train") -> dict[str, np.ndarray]:
    """Every record, in order, as TFDS reads it."""
    records = sources.find("photos", data_dir).as_data_source(split)
    return {name: np.stack([record[name] for record in records]) for name in ("image", "flipped", "label")}


def shards(data_dir) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(Path(data_dir).glob("photos/*/*array_record*"))}


def close(ours, theirs):
    """To two units in float16's last place."""
    np.testing.assert_allclose(ours.astype(np.float32), theirs, rtol=2**-9, atol=1e-4)


# ---- What is written ----


def test_latents_are_what_the_encoder_makes_of_fitted_images(data_dir, images, vae):
    model, params = pretrained.load(vae)
    found, folder = stored(data_dir), Folder(images, (SIZE, SIZE, 3))
    pixels = pipeline.batch(folder, 0, len(folder))
    assert found["label"].tolist() == pixels["label"].tolist() == [0] * 5 + [1] * 5
    encode = jax.jit(lambda x: model.apply(params, x, method="encode"))
    for name, seen in (("image", pixels["image"]), ("flipped", pixels["image"][:, :, ::-1])):
        assert found[name].shape == (IMAGES, 8, 8, 8) and found[name].dtype == np.float16
        close(found[name], np.concatenate(encode(seen), -1))
    assert np.abs(found["flipped"] - found["image"][:, :, ::-1]).max() > 0.01  # why both are kept


def test_metadata_say_what_made_them_and_how_they_are_spread(data_dir, images, vae):
    info = sources.find("photos", data_dir).info
    made = info.metadata
    assert made["vae"] == pretrained.fingerprint(vae) and made["scale"] == 0.5 and made["size"] == SIZE
    assert "ADM" in made["crop"] and info.features["label"].names == ["china", "flower"]
    assert info.splits["train"].num_examples == made["splits"]["train"]["images"] == IMAGES
    assert info.splits["train"].shard_lengths == [4, 4, 2]
    mean, std = np.split(stored(data_dir)["image"].astype(np.float64), 2, axis=-1)
    np.testing.assert_allclose(made["splits"]["train"]["mean"], mean.mean((0, 1, 2)), rtol=1e-6)
    draws = mean + std * np.random.default_rng(0).standard_normal((2000, *mean.shape))
    np.testing.assert_allclose(made["splits"]["train"]["std"], draws.std((0, 1, 2, 3)), rtol=0.01)
    expected = np.sqrt((std**2).mean((0, 1, 2)) + mean.var((0, 1, 2)))
    np.testing.assert_allclose(made["splits"]["train"]["std"], expected, rtol=1e-6)


@pytest.mark.parametrize(("devices", "batch"), [(1, 1), (1, 3), (2, 4), (8, 16)])
def test_devices_and_batches_do_not_matter(devices, batch, data_dir, images, vae, tmp_path, monkeypatch):
    some = jax.local_devices()[:devices]
    monkeypatch.setattr(jax, "local_devices", lambda: some)
    monkeypatch.setattr(jax, "local_device_count", lambda: devices)
    prepare.main(**arguments(images, vae, tmp_path, batch=batch))
    ours, theirs = stored(tmp_path), stored(data_dir)
    assert np.array_equal(ours["label"], theirs["label"])
    close(ours["image"], theirs["image"])
    close(ours["flipped"], theirs["flipped"])


def test_processes_share_the_shards(data_dir, images, vae, tmp_path):
    """What two hosts write, each without knowing of the other, is what one writes."""
    model, params = pretrained.load(vae)
    folder, directory = Folder(images, (SIZE, SIZE, 3)), tmp_path / "photos" / latents.VERSION
    encode = prepare.compile_encoder(model, params, (8, SIZE, SIZE, 3))
    made = {"vae": pretrained.fingerprint(vae), "scale": model.scale, "size": SIZE, "shape": [8, 8, 8]}
    latents.begin(directory, "train", folder, made)
    latents.begin(directory, "train", folder, made, first=False)
    assert list(latents.write(directory, "train", folder, encode, 8, part=(1, 2))) == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="00000-of-00003 is missing"):
        latents.finish(directory, "train")
    assert list(latents.write(directory, "train", folder, encode, 8, part=(0, 2)))[-1] == 6
    latents.finish(directory, "train")
    assert shards(tmp_path) == shards(data_dir)
    assert (
        sources.find("photos", tmp_path).info.metadata["splits"]
        == sources.find("photos", data_dir).info.metadata["splits"]
    )


def test_a_job_of_two_processes_is_one(data_dir, images, vae, tmp_path):
    """As on two hosts that share a disk: each encodes its shards, and waits for the other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    processes = [start(images, vae, tmp_path, distributed=f"localhost:{port},2,{index}") for index in range(2)]
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "encoded 6 images" in said[0] and "process 1 of 2" in said[1] and "encoded" not in said[1]
    assert shards(tmp_path) == shards(data_dir)


def test_killed_and_resumed_is_uninterrupted(data_dir, images, vae, tmp_path, capsys):
    """Killed as it is about to name the second shard; then the first is kept, and the second made again."""
    kill = """
import os, pathlib
rename = pathlib.Path.replace
def replace(self, target):
    if "00001-of" in target.name:
        os.kill(os.getpid(), 9)
    return rename(self, target)
pathlib.Path.replace = replace
"""
    killed = start(images, vae, tmp_path, before=kill)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    first = tmp_path / "photos" / latents.VERSION / "photos-train.array_record-00000-of-00003"
    assert shards(tmp_path).keys() == {first.name, first.name.replace("00000-", "00001-") + ".incomplete"}
    with pytest.raises(FileNotFoundError, match="photos"):
        sources.load("photos", "train", tmp_path, streams(None))
    written = first.stat().st_mtime_ns
    prepare.main(**arguments(images, vae, tmp_path))
    assert "encoded 6 images" in capsys.readouterr().out and first.stat().st_mtime_ns == written
    assert shards(tmp_path) == shards(data_dir)
    prepare.main(**arguments(images, vae, tmp_path))
    assert "encoded 0 images" in capsys.readouterr().out and shards(tmp_path) == shards(data_dir)


def test_splits_are_added_one_by_one(images, vae, tmp_path, capsys):
    prepare.main(**arguments(images, vae, tmp_path))
    prepare.main(**arguments(images, vae, tmp_path, split="test"))
    assert f"{IMAGES} train + {IMAGES} test examples" in capsys.readouterr().out
    train, test = (stored(tmp_path, split) for split in ("train", "test"))
    assert all(np.array_equal(train[name], test[name]) for name in train)


def test_what_was_begun_otherwise_is_refused(data_dir, images, vae, tmp_path):
    other, before = save_vae(tmp_path / "other", seed=1), shards(data_dir)
    old, new = pretrained.fingerprint(vae), pretrained.fingerprint(other)
    fewer, third = tmp_path / "fewer", tmp_path / "third"
    shutil.copytree(images, fewer)
    shutil.copytree(images, third)
    next(fewer.glob("*/*.png")).unlink()
    shutil.copytree(images / "china", third / "porcelain")
    for flags, message in [
        ({"vae": other}, f"begun with vae = {old}, which is now {new}: delete it, or give another --data_dir"),
        ({"size": 32}, "begun with size = 16, which is now 32"),
        ({"images": fewer}, "begun with images = 10, which is now 9"),
        ({"images": third, "split": "test"}, "begun with classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            prepare.main(**arguments(**{"images": images, "vae": vae, "data_dir": data_dir, **flags}))
    next(fewer.glob("*/*.png")).rename(fewer / "china" / "renamed.png")
    shutil.copy(next(images.glob("*/*.png")), fewer / "china" / "another.png")
    with pytest.raises(ValueError, match="begun with listing"):
        prepare.main(**arguments(fewer, vae, data_dir))
    assert shards(data_dir) == before


# ---- What is read ----


def test_a_source_draws_from_the_posterior_by_the_index_alone(data_dir, vae):
    codec = pretrained.fingerprint(vae)
    source, again = (sources.load("photos", "train", data_dir, streams(codec)) for _ in range(2))
    mean, std = np.split(stored(data_dir)["image"].astype(np.float32), 2, axis=-1)
    found = pipeline.batch(source, 0, len(source))
    assert found["image"].dtype == np.float32 and found["label"].dtype == np.int32
    assert np.array_equal(found["image"], pipeline.batch(again, 0, len(again))["image"])
    noise = (found["image"] / SMALL.scale - mean) / std
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1
    assert np.abs(np.corrcoef(noise.reshape(IMAGES, -1)) - np.eye(IMAGES)).max() < 0.3


@pytest.mark.parametrize("augment", pipeline.AUGMENTATIONS)
def test_training_draws_anew_in_every_epoch_as_a_function_of_seed_and_index(augment, data_dir, vae):
    source = sources.load("photos", "train", data_dir, streams(pretrained.fingerprint(vae)))
    examples, again = (pipeline.examples(source, 3, augment) for _ in range(2))
    batches = pipeline.batches(examples, 0, IMAGES, threads=2)
    epochs = [next(batches) for _ in range(8)]
    for step, epoch in enumerate(epochs):
        assert np.array_equal(epoch["image"], pipeline.batch(again, step, IMAGES)["image"])
    drawn = {image.tobytes() for epoch in epochs for image in epoch["image"]}
    assert len(drawn) == 8 * IMAGES


def test_flip_takes_the_latents_of_the_mirror_image_half_of_the_time(data_dir, vae):
    source = sources.load("photos", "train", data_dir, streams(pretrained.fingerprint(vae)))
    records = stored(data_dir)
    records["image"][..., 4:] = records["flipped"][..., 4:] = 0  # draws are means: which of the two can be told
    source.records = [{name: array[i] for name, array in records.items()} for i in range(IMAGES)]
    mirrored = 0
    for example in (pipeline.examples(source, 0, "flip")[i] for i in range(400)):
        means = {name: records[name][..., :4].astype(np.float32) * SMALL.scale for name in ("image", "flipped")}
        seen = [name for name in means if any(np.array_equal(example["image"], mean) for mean in means[name])]
        assert len(seen) == 1
        mirrored += seen == ["flipped"]
    assert 140 < mirrored < 260  # 200 +- 6 standard deviations


def test_a_model_trains_on_them(data_dir, vae):
    of = streams(pretrained.fingerprint(vae))
    batch = pipeline.batch(pipeline.examples(sources.load("photos", "train", data_dir, of), 0, "flip"), 0, 8)
    model = dj.DiT(of, width=12, depth=1, heads=1)
    params = model.init(jax.random.key(0))
    loss = jax.jit(lambda params, key, batch: dj.loss(lambda x, t: model.apply(params, x, t), of, key, batch))
    assert np.isfinite(loss(params, jax.random.key(1), batch))


@pytest.mark.parametrize("codec", ["", "f" * 64])
def test_latents_of_another_vae_are_refused(codec, data_dir, vae):
    with pytest.raises(ValueError, match=r"change streams\.image\.codec, or make the data with") as error:
        sources.load("photos", "train", data_dir, streams(codec))
    assert pretrained.fingerprint(vae) in str(error.value) and (codec or "made for images") in str(error.value)


def test_images_are_refused_where_latents_are_meant(images, tmp_path):
    for name, shape, classes in ((str(images), (SIZE, SIZE, 3), 2), ("digits", (8, 8, 1), 10)):
        with pytest.raises(ValueError, match=f"{name} has images, but .* latents of the VAE abc"):
            sources.load(name, "train", tmp_path, streams("abc", shape, classes))


@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [
        ((32, 32, 4), 2, r"shape \(8, 8, 4\), but streams.image.shape is \(32, 32, 4\)"),
        ((8, 8, 4), 3, "2 classes, but streams.label.classes is 3"),
    ],
)
def test_latents_must_suit_the_config(shape, classes, message, data_dir, vae):
    with pytest.raises(ValueError, match=message):
        sources.load("photos", "train", data_dir, streams(pretrained.fingerprint(vae), shape, classes))


# ---- Mistakes ----


def test_mistakes_end_in_one_line(images, vae, tmp_path):
    for name, flags, message in [
        ("imagenet256", {}, "nothing here prepares 'imagenet256'; .*--source=DIR --vae=FILE"),
        ("imagenet256", {"vae": vae}, "need both --source=DIR"),
        ("imagenet256", {"source": images}, "need both --source=DIR"),
        ("imagenet256", {"source": images, "vae": tmp_path / "no"}, "there is no file .*no; use the diffusion_pytorch"),
        ("imagenet256", {"source": tmp_path / "no", "vae": vae}, "no such folder of images: .*no"),
        ("imagenet256", {"source": images, "vae": vae, "size": 15}, "--size=15 is no multiple of the 2 pixels"),
        ("imagenet256", {"source": images, "vae": vae, "batch": 12}, "--batch=12 does not divide among 8 devices"),
        ("Photos!", {"source": images, "vae": vae}, "Photos! and --split=train have to be made of lower case"),
        (
            "imagenet256",
            {"source": images, "vae": vae, "distributed": "here,2,2"},
            "--distributed=here,2,2 should be auto",
        ),
        ("digits", {"source": images, "vae": vae}, "digits is made of its own files: it takes --data_dir only"),
        ("fashion_mnist", {"size": 28}, "fashion_mnist is made of its own files"),
    ]:
        flags = {flag: str(value) if isinstance(value, Path) else value for flag, value in flags.items()}
        with pytest.raises((ValueError, OSError), match=f"^[^\n]*{message}"):
            prepare.main(name, str(tmp_path), **flags)


def test_an_image_that_cannot_be_read_is_named_and_loses_no_shard(images, vae, data_dir, tmp_path):
    copy = shutil.copytree(images, tmp_path / "copy")
    last = sorted(copy.glob("flower/*.png"))[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:100])
    with pytest.raises(OSError, match=f"cannot read the image {last}"):
        prepare.main(**arguments(copy, vae, tmp_path))
    assert len([name for name in shards(tmp_path) if "incomplete" not in name]) >= 1
    last.write_bytes(whole)
    prepare.main(**arguments(copy, vae, tmp_path))
    assert len(stored(tmp_path)["label"]) == IMAGES


def test_latents_that_overflow_are_refused(images, tmp_path):
    huge = save_vae(tmp_path / "huge", seed=0)
    file = huge / pretrained.WEIGHTS
    tensors = {key: np.array(value) for key, value in load_file(file).items()}
    tensors["quant_conv.bias"][0] = 1e9
    save_file(tensors, file)
    with pytest.raises(ValueError, match="the VAE overflows float16"):
        prepare.main(**arguments(images, huge, tmp_path))
