"""Held-out loss: the denoising loss of fixed examples that are not trained on, which only the parameters change."""

import json

import jax
import numpy as np
import pytest

import dit_jax as dj
from dit_jax.config import build
from dit_jax.configs import digits
from dit_jax.data import sources
from dit_jax.diffusion.stream import in_data
from dit_jax.parallel.mesh import make_mesh
from dit_jax.training.held_out import MOST, held_out_loss
from dit_jax.training.loop import train


def run_of(**sections):
    config = json.loads(digits.get_config().to_json())
    config["model"] |= {"width": 24, "depth": 1, "heads": 1}
    config["sample"] |= {"every": 0}
    return build({name: {**entries, **sections.get(name, {})} for name, entries in config.items()})


def test_it_is_the_loss_of_the_test_split_and_the_same_on_every_mesh():
    """Of a network that says 0, whose squared error is that of the data themselves."""
    run = run_of()
    params = run.model.init(jax.random.key(0))
    found = [held_out_loss(run, mesh)(params) for mesh in (make_mesh(), make_mesh(fsdp=2))]
    assert found[0].keys() == {"held_out/image"}
    assert found[0]["held_out/image"] == pytest.approx(found[1]["held_out/image"], rel=1e-5)
    test = sources.load("digits", "test", run.data.dir, in_data(run.streams))
    x = np.stack([test[i]["image"] for i in np.random.default_rng(0).permutation(len(test))[:MOST]])
    # x-prediction of 0 with velocity loss: (x / max(t, 0.05))^2, at least its mean square and at most 400 times it
    assert np.mean(x**2) < found[0]["held_out/image"] < 400 * np.mean(x**2)


def test_the_same_parameters_have_the_same_loss_and_others_another():
    run = run_of()
    loss, params = held_out_loss(run, make_mesh()), run.model.init(jax.random.key(0))
    other = jax.tree.map(lambda x: x + 0.1, params)
    assert loss(params) == loss(params) != loss(other)


@pytest.mark.parametrize("name", ["synthetic"])
def test_data_without_a_held_out_split_have_none(name, tmp_path):
    assert held_out_loss(run_of(data={"name": name}), make_mesh()) is None


def test_a_folder_has_one_where_its_splits_are_folders(tmp_path):
    from PIL import Image

    for split in ("train", "test"):
        for label in range(2):
            (tmp_path / split / str(label)).mkdir(parents=True)
            Image.fromarray(np.full((4, 4), 90 * label, np.uint8)).save(tmp_path / split / str(label) / "0.png")
    streams = {"image": dj.streams.image((4, 4, 1)), "label": dj.streams.label(2)}
    assert sources.held_out(f"{tmp_path}/train", "", streams) is None
    assert len(sources.held_out(f"{tmp_path}/{{split}}", "", streams)) == 2


def test_training_tells_it_beside_the_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    train(run_of(train={"steps": 4, "log_every": 2}, optimizer={"warmup": 0}), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and all(line["held_out/image"] > 0 for line in lines)
