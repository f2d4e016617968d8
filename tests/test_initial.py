"""A run that starts from other weights has them, makes the rest anew, and says which; anything else is an error."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from diffusers import DiTTransformer2DModel

from dit_jax import convert
from dit_jax.config import build, default, stream
from dit_jax.pretrained import dit
from dit_jax.restore import restore_run
from dit_jax.train import initial_weights
from dit_jax.training.initial import fitted, trainable
from dit_jax.training.loop import train


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)


def published(
    heads: int = 2, size: int = 12, depth: int = 3, classes: int = 1000, side: int = 8
) -> DiTTransformer2DModel:
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=size,
        in_channels=4,
        out_channels=8,
        num_layers=depth,
        sample_size=side,
        patch_size=2,
        num_embeds_ada_norm=classes,
        norm_eps=1e-6,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.1 * torch.randn_like(parameter))
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return model


def run_of(init, classes: int = 3, side: int = 8, width: int = 24, heads: int = 2, depth: int = 3, **train_options):
    config = default()
    image = stream("image", shape=(side, side, 4), patch=2, process="ddpm()", levels="steps()")
    config.streams = {"image": image, "label": stream("label", classes=classes)}
    config.model.update(width=width, heads=heads, depth=depth)
    config.data.update(name="synthetic", batch_size=4, threads=0)
    config.optimizer.learning_rate = 1e-3
    config.train.update(init=str(init), steps=2, **train_options)
    return build(json.loads(config.to_json()))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    published().save_pretrained(folder / "theirs")
    convert.bring_in(str(folder / "theirs"), str(folder / "run"))
    return folder


def leaves(params) -> dict[str, np.ndarray]:
    named = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf) for path, leaf in named}


def begun(run, workdir, initial) -> dict:
    """Parameters and averages before the first update: of a learning rate of 0."""
    config = json.loads(json.dumps(run.config))
    config["optimizer"]["learning_rate"] = 0.0
    train(build(config), workdir, initial)
    folder = workdir / "checkpoints" / "2"
    return {item: leaves(ocp.StandardCheckpointer().restore(folder / item)) for item in ("params", "ema")}


@pytest.mark.parametrize("source", ["run", "theirs"])
def test_weights_of_a_run_or_of_a_file_are_there_and_other_classes_are_made_anew(source, converted, tmp_path, capsys):
    run = run_of(converted / source)
    found = begun(run, tmp_path / "new", initial_weights(run))
    assert "anew are label_embed/embedding\n" in capsys.readouterr().out
    wanted = leaves(restore_run(str(converted / "run"))[1])
    for item in ("params", "ema"):
        assert found[item].keys() == wanted.keys()
        for name, leaf in found[item].items():
            if "label_embed" in name:
                assert leaf.shape == (4, 24)
            else:
                np.testing.assert_array_equal(leaf, wanted[name])


@pytest.mark.parametrize("without", [(), ("pos_embed",), ("null",), ("pos_embed", "null")])
def test_a_checkpoint_of_torch_is_begun_from_as_well(without, converted, tmp_path):
    """Its averaged weights; of what it lacks, positions are those of the run, and the null class begins at 0."""
    first, params, _ = restore_run(str(converted / "run"))
    state = dit.store(dit.ORIGINAL, first.model, jax.tree.map(np.asarray, params))
    state = {f"module.{key}": torch.tensor(array) for key, array in state.items() if key not in without}
    table, args = "module.y_embedder.embedding_table.weight", {"num_classes": 1000}
    if "null" in without:
        state[table] = state[table][:1000].clone()
    torch.save({"model": {key: -x for key, x in state.items()}, "ema": state, "args": args}, tmp_path / "dit.pt")
    run = run_of(tmp_path / "dit.pt", classes=1000)
    found, anew = fitted(run.model.init(jax.random.key(0)), initial_weights(run))
    assert anew == []
    wanted = jax.tree.map(np.array, params)
    if "null" in without:
        wanted["params"]["label_embed"]["embedding"][1000] = 0
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_larger_image_has_the_same_weights(converted):
    """Positions are no parameters here: those of another size are computed."""
    run = run_of(converted / "run", classes=1000, side=16)
    params = run.model.init(jax.random.key(0))
    found, anew = fitted(params, initial_weights(run))
    assert anew == []
    jax.tree.map(np.testing.assert_array_equal, found, jax.tree.map(np.asarray, restore_run(str(converted / "run"))[1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 48}, r"train.init has \(3, 24\) for blocks/.*, and this network has \(3, 48"),
        ({"depth": 2}, r"train.init has \(3, 24\) for blocks/.*, and this network has \(2, 24"),
    ],
)
def test_a_network_of_another_size_is_an_error_by_name(options, message, converted):
    run = run_of(converted / "run", **options)
    with pytest.raises(ValueError, match=message):
        fitted(run.model.init(jax.random.key(0)), initial_weights(run))


@pytest.mark.heavy
def test_it_resumes_bitwise_and_converts_back(converted, tmp_path):
    run, longer = run_of(converted / "run"), json.loads(json.dumps(run_of(converted / "run").config))
    longer["train"]["steps"] = 4
    train(build(longer), tmp_path / "straight", initial_weights(run))
    train(run, tmp_path / "stopped", initial_weights(run))
    train(build(longer), tmp_path / "stopped", None)  # nothing of other weights is needed any more
    straight, stopped = (restore_run(str(tmp_path / name))[1] for name in ("straight", "stopped"))
    jax.tree.map(np.testing.assert_array_equal, straight, stopped)
    convert.send_out(str(tmp_path / "stopped"), str(tmp_path / "ours"))
    back = DiTTransformer2DModel.from_pretrained(tmp_path / "ours")
    assert back.config.num_embeds_ada_norm == 3
    ours = leaves(stopped)["params/blocks/attention/out/kernel"]
    np.testing.assert_array_equal(back.transformer_blocks[1].attn1.to_out[0].weight.detach().numpy().T, ours[1])


@pytest.mark.heavy
def test_frozen_parameters_stay_and_the_others_do_not(converted, tmp_path):
    run = run_of(converted / "run", freeze="blocks/")
    before = leaves(initial_weights(run))
    train(run, tmp_path, initial_weights(run))
    after = leaves(ocp.StandardCheckpointer().restore(tmp_path / "checkpoints" / "2" / "params"))
    for name, leaf in after.items():
        if "blocks/" in name:
            np.testing.assert_array_equal(leaf, before[name])
    assert np.any(after["params/final_modulation/kernel"] != before["params/final_modulation/kernel"])


@pytest.mark.parametrize(("pattern", "what"), [("blokcs", "none"), ("", None), (".", "all")])
def test_a_pattern_that_freezes_nothing_or_everything_is_an_error(pattern, what):
    params = {"params": {"blocks": {"kernel": np.ones(2)}, "label_embed": {"embedding": np.ones(2)}}}
    if what is None:
        assert trainable(pattern, params)(params) is params
        return
    with pytest.raises(ValueError, match=f"train.freeze = '{pattern}' is in {what} of the parameters"):
        trainable(pattern, params)


def test_published_weights_are_not_trained_in_place(converted):
    with pytest.raises(OSError, match=r"to train them further, choose another --workdir and give --config.train.init="):
        train(run_of("", classes=1000), converted / "run")


@pytest.mark.heavy
def test_a_converted_s2_of_a_thousand_classes_becomes_one_of_three(tmp_path):
    published(heads=6, size=64, depth=12, side=32).save_pretrained(tmp_path / "theirs")
    convert.bring_in(str(tmp_path / "theirs"), str(tmp_path / "s2"))
    run = run_of(tmp_path / "s2", side=32, width=384, heads=6, depth=12)
    train(run, tmp_path / "three", initial_weights(run))
    longer = json.loads(json.dumps(run.config))
    longer["train"]["steps"] = 3
    train(build(longer), tmp_path / "three")
    train(build(longer), tmp_path / "straight", initial_weights(run))
    ours, straight = (restore_run(str(tmp_path / name))[1] for name in ("three", "straight"))
    jax.tree.map(np.testing.assert_array_equal, ours, straight)
    convert.send_out(str(tmp_path / "three"), str(tmp_path / "ours"))
    assert DiTTransformer2DModel.from_pretrained(tmp_path / "ours").config.num_embeds_ada_norm == 3
