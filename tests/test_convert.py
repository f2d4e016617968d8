"""Published weights: the network that diffusers computes, there and back to the last bit, and no code is run."""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import pickle
import re
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import DiTTransformer2DModel
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from dit_jax import convert, sample_cli
from dit_jax.command import parse
from dit_jax.config import build
from dit_jax.configs import imagenet256
from dit_jax.diffusion.gaussian import Gaussian
from dit_jax.network.dit import SIZES
from dit_jax.pretrained import dit, shapes, weights
from dit_jax.restore import restore_run
from dit_jax.sampling.draw import draw, gather
from dit_jax.training.loop import train

TINY = {"width": 24, "depth": 3, "heads": 2, "patch": 2, "side": 8, "classes": 5}
SHAPES = {
    "S/2": {"width": 384, "depth": 12, "heads": 6, "patch": 2},
    "B/4": {"width": 768, "depth": 12, "heads": 12, "patch": 4, "classes": 10},
    "XL/2 of two blocks": {"width": 1152, "depth": 2, "heads": 16, "patch": 2},
}


@functools.cache
def published(width, depth, heads, patch, side=16, channels=4, outputs=2, classes=1000):
    """Diffusers' network of this size with random weights, none of them zero, and the published embedding of levels."""
    torch.manual_seed(0)
    model = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=channels,
        out_channels=outputs * channels,
        num_layers=depth,
        sample_size=side,
        patch_size=patch,
        num_embeds_ada_norm=classes,
        norm_eps=1e-6,  # DiT's; diffusers' default of 1e-5 changes outputs by some 1e-6
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(model.transformer_blocks[0].norm1.emb.state_dict())
    return spaced(model, 0)


def spaced(model, shift):
    """Diffusers spaces the 128 frequencies of levels by 127 (shift 1), and DiT was trained with 128 (shift 0)."""
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = shift
    return model


def state_of(model):
    """{key: array} in diffusers' layout."""
    return {key: tensor.numpy() for key, tensor in model.state_dict().items()}


def original(model):
    """The same weights as the paper's repository keeps them, written down once more: {key: torch tensor}."""
    theirs = model.state_dict()
    layers = {
        "x_embedder.proj": "pos_embed.proj",
        "t_embedder.mlp.0": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2",
        "final_layer.adaLN_modulation.1": "proj_out_1",
        "final_layer.linear": "proj_out_2",
    }
    for i in range(len(model.transformer_blocks)):
        block, theirs_block = f"blocks.{i}", f"transformer_blocks.{i}"
        layers[f"{block}.adaLN_modulation.1"] = f"{theirs_block}.norm1.linear"
        layers[f"{block}.attn.proj"] = f"{theirs_block}.attn1.to_out.0"
        layers[f"{block}.mlp.fc1"] = f"{theirs_block}.ff.net.0.proj"
        layers[f"{block}.mlp.fc2"] = f"{theirs_block}.ff.net.2"
    state = {f"{a}.{leaf}": theirs[f"{b}.{leaf}"] for a, b in layers.items() for leaf in ("weight", "bias")}
    for i in range(len(model.transformer_blocks)):
        for leaf in ("weight", "bias"):
            parts = [theirs[f"transformer_blocks.{i}.attn1.to_{part}.{leaf}"] for part in "qkv"]
            state[f"blocks.{i}.attn.qkv.{leaf}"] = torch.cat(parts)
    state["y_embedder.embedding_table.weight"] = theirs[
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight"
    ]
    state["pos_embed"] = model.pos_embed.pos_embed
    return state


def network(kind, layout, tensors, config):
    """(our model, its parameters) from published ones."""
    sizes = shapes.sizes(layout, tensors, config, config.get("num_attention_heads"))
    model = build(convert.config_of(sizes, kind, "float32")).model
    return model, dit.load(layout, tensors, model)


def both_layouts(model):
    arrays = {key: tensor.numpy() for key, tensor in original(model).items()}
    return {"original": (dit.ORIGINAL, arrays), "diffusers": (dit.DIFFUSERS, state_of(model))}


def inputs(model, n=4):
    rng, side = np.random.default_rng(0), model.config.sample_size
    labels = np.array([0, 1, model.config.num_embeds_ada_norm - 1, model.config.num_embeds_ada_norm])[:n]
    return rng.normal(size=(n, side, side, model.config.in_channels)).astype(np.float32), labels.astype(np.int32)


def theirs(model, x, time, labels):
    """What diffusers' network returns, channels last."""
    with torch.no_grad():
        args = torch.tensor(x).permute(0, 3, 1, 2), torch.tensor(time), torch.tensor(labels, dtype=torch.long)
        return model(*args).sample.permute(0, 2, 3, 1).numpy()


def ours(model, params, x, t, labels):
    t = {"image": jnp.asarray(t, jnp.float32), "label": jnp.zeros(len(x))}
    return np.asarray(jax.jit(model.apply)(params, {"image": x, "label": labels}, t)["image"])


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


# The same network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layout", "shape"), [("original", "S/2"), *(("diffusers", shape) for shape in SHAPES)])
def test_dit_is_what_diffusers_computes(layout, shape):
    """At several timesteps, for classes and the null class; timestep n is our level (n + 1) / 1000."""
    reference = published(**SHAPES[shape])
    model, params = network("dit", *both_layouts(reference)[layout], reference.config)
    (x, labels), steps = inputs(reference), np.array([0, 37, 500, 999])
    found = ours(model, params, x, (steps + 1) / 1000, labels)
    assert found.shape == (*x.shape[:-1], 8)
    for one, wanted in zip(found, theirs(reference, x, steps, labels), strict=True):
        assert distance(one, wanted) <= 1e-4


def test_the_spacing_of_frequencies_is_the_only_difference_from_diffusers():
    """As it comes, diffusers agrees at timestep 0, where no frequency matters, and nowhere else."""
    reference = published(**SHAPES["S/2"])
    model, params = network("dit", dit.DIFFUSERS, state_of(reference), reference.config)
    (x, labels), steps = inputs(reference), np.array([0, 37, 500, 999])
    found = ours(model, params, x, (steps + 1) / 1000, labels)
    assert reference.transformer_blocks[0].norm1.emb.time_proj.downscale_freq_shift == 0
    try:
        wanted = theirs(spaced(reference, 1), x, steps, labels)
    finally:
        spaced(reference, 0)
    assert distance(found[0], wanted[0]) <= 1e-4
    assert all(distance(a, b) > 0.01 for a, b in zip(found[1:], wanted[1:], strict=True))


@pytest.mark.parametrize("outputs", [1, 2])
def test_sit_is_minus_the_network_at_one_minus_t(outputs):
    """Its time runs from noise to data, unscaled; of two values a channel, the first is the velocity."""
    reference = published(**TINY, outputs=outputs)
    model, params = network("sit", *both_layouts(reference)["original"], reference.config)
    (x, labels), t = inputs(reference), np.array([0.0, 0.25, 0.7, 1.0], np.float32)
    wanted = -theirs(reference, x, 1 - t, labels)
    np.testing.assert_allclose(ours(model, params, x, t, labels), wanted, atol=1e-4 * np.abs(wanted).max())
    clean, noise = model.streams["image"].process.split(x, wanted, jnp.asarray(t))
    np.testing.assert_allclose(noise - clean, wanted[..., :4], atol=1e-4)


def test_a_dit_without_a_variance_says_the_noise():
    reference = published(**TINY, outputs=1)
    model, params = network("dit", dit.DIFFUSERS, state_of(reference), reference.config)
    (x, labels), steps = inputs(reference), np.array([0, 37, 500, 999])
    wanted = theirs(reference, x, steps, labels)
    np.testing.assert_allclose(ours(model, params, x, (steps + 1) / 1000, labels), wanted, atol=1e-4)
    process = model.streams["image"].process
    assert type(process) is Gaussian
    _, noise = process.split(x, wanted, jnp.asarray((steps + 1) / 1000, jnp.float32))
    np.testing.assert_allclose(noise, wanted, atol=1e-4)


# There and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "shape", "kind"),
    [
        *((layout, "tiny", kind) for layout in ("original", "diffusers") for kind in convert.KINDS),
        ("original", "S/2", "sit"),
        ("diffusers", "S/2", "dit"),
        ("original", "XL/2 of two blocks", "dit"),
        ("diffusers", "XL/2 of two blocks", "sit"),
    ],
)
def test_there_and_back_is_bitwise(layout, shape, kind):
    """Every bit of every weight, read as integers. The fixed table of positions is no weight: it is computed again."""
    reference = published(**{"tiny": TINY, **SHAPES}[shape])
    layout, tensors = both_layouts(reference)[layout]
    model, params = network(kind, layout, tensors, reference.config)
    back = dit.store(layout, model, params)
    assert back.keys() == tensors.keys()
    for key, tensor in tensors.items():
        if key == dit.POSITIONS:
            np.testing.assert_allclose(back[key], tensor, atol=1e-6)
        else:
            np.testing.assert_array_equal(back[key].view(np.int32), tensor.view(np.int32))


@pytest.mark.parametrize("layout", [dit.ORIGINAL, dit.DIFFUSERS], ids=["original", "diffusers"])
def test_every_parameter_has_one_place_and_every_place_one_parameter(layout):
    """Numbers that are all different go out and come back, so nothing is dropped, doubled or swapped."""
    model, params = network("dit", dit.DIFFUSERS, state_of(published(**TINY)), published(**TINY).config)
    leaves, tree = jax.tree.flatten(params)
    ends = np.cumsum([leaf.size for leaf in leaves])
    numbered = [
        np.arange(end - leaf.size, end, dtype=np.float32).reshape(leaf.shape)
        for end, leaf in zip(ends, leaves, strict=True)
    ]
    assert ends[-1] < 2**24
    params = jax.tree.unflatten(tree, numbered)
    stored = dit.store(layout, model, params)
    seen = np.concatenate([array.ravel() for key, array in stored.items() if key != dit.POSITIONS])
    assert set(seen) == set(range(ends[-1]))
    jax.tree.map(np.testing.assert_array_equal, dit.load(layout, stored, model), params)


def test_the_command_goes_there_and_back(tmp_path, capsys):
    reference = published(**TINY)
    reference.save_pretrained(tmp_path / "theirs" / "transformer")
    for words in ("--checkpoint={0}/theirs --workdir={0}/run", "--workdir={0}/run --out={0}/ours"):
        convert.main(**parse(convert.main, words.format(tmp_path).split()))
    assert "ddpm()" in capsys.readouterr().out
    back = DiTTransformer2DModel.from_pretrained(tmp_path / "ours")
    wanted = reference.state_dict()
    assert back.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in back.state_dict().items())
    config = {key: value for key, value in reference.config.items() if not key.startswith("_")}
    assert {key: value for key, value in back.config.items() if not key.startswith("_")} == config


def test_sit_goes_back_with_its_own_sign(tmp_path):
    torch.save(original(published(**TINY)), tmp_path / "sit.pt")
    convert.bring_in(str(tmp_path / "sit.pt"), str(tmp_path / "run"), kind="sit", heads=2)
    convert.send_out(str(tmp_path / "run"), str(tmp_path / "ours"))
    back, wanted = load_file(tmp_path / "ours" / weights.NAMES[0]), state_of(published(**TINY))
    assert back.keys() == wanted.keys() and all(np.array_equal(back[key], wanted[key]) for key in wanted)


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    """save(state) writes it as a .pt."""

    def save(state):
        torch.save(state, tmp_path / "dit.pt")
        return tmp_path / "dit.pt"

    return save


def test_a_pt_may_be_plain_or_hold_averaged_or_other_weights(checkpoint):
    state = original(published(**TINY))
    rest = {"opt": {"state": {0: {"step": torch.ones(())}}}, "args": argparse.Namespace(model="DiT-XL/2", epochs=1400)}
    other = {key: -tensor for key, tensor in state.items()}
    for saved in (state, {"model": other, "ema": state, **rest}, {"model": state, **rest}):
        found = weights.read(checkpoint(saved))
        assert found.keys() == state.keys()
        assert all(np.array_equal(array, state[key].numpy()) for key, array in found.items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_half_precision_is_read_exactly(suffix, dtype, tmp_path, checkpoint):
    model = published(**TINY)
    state = {key: tensor.to(dtype) for key, tensor in model.state_dict().items()}
    if suffix == "pt":
        file = checkpoint(state)
    else:
        file = tmp_path / "dit.safetensors"
        save_file(
            {key: np.asarray(jnp.asarray(tensor.float().numpy(), str(dtype)[6:])) for key, tensor in state.items()},
            file,
        )
    _, params = network("sit", dit.DIFFUSERS, weights.read(file), model.config)
    kernel = state["proj_out_2.weight"].float().numpy().T
    np.testing.assert_array_equal(params["params"]["image_head"]["patches"]["kernel"], -kernel)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(params))


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("save", [torch.save, lambda thing, file: file.write_bytes(pickle.dumps(thing))])
def test_code_in_a_checkpoint_is_not_run(save, tmp_path):
    marker, file = tmp_path / "marker", tmp_path / "dit.pt"
    save({**original(published(**TINY)), "x": Payload(f"touch {marker}")}, file)
    with pytest.raises(
        ValueError, match=rf"{file} (holds posix.system, which was not run|is not a whole file of torch.save)"
    ):
        weights.read(file)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(f"touch {marker}")))
    assert marker.exists()  # it would have been


def test_a_file_that_is_cut_off_says_so(tmp_path, checkpoint):
    whole = checkpoint(original(published(**TINY))).read_bytes()
    save_file(state_of(published(**TINY)), tmp_path / "whole.safetensors")
    for name, content in [("cut.pt", whole), ("cut.safetensors", (tmp_path / "whole.safetensors").read_bytes())]:
        for size in (0, 7, 1000, len(content) // 2, len(content) - 1):
            (tmp_path / name).write_bytes(content[:size])
            with pytest.raises(ValueError, match=rf"{name} is not a whole .*; download it again"):
                weights.read(tmp_path / name)


def test_a_safetensors_header_that_lies_is_not_believed(tmp_path):
    header = {"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    for length in (len(text), 1 << 62):
        (tmp_path / "lie.safetensors").write_bytes(struct.pack("<Q", length) + text + bytes(64))
        with pytest.raises(ValueError, match=r"lie.safetensors is not a whole safetensors file"):
            weights.read(tmp_path / "lie.safetensors")


def test_bombs_do_not_unpack(tmp_path, checkpoint):
    file = checkpoint({"x": torch.zeros(10**7)})
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ValueError, match=r"bomb.pt would unpack to .* bytes"):
        weights.read(tmp_path / "bomb.pt")
    with pytest.raises(ValueError, match=r"tensors of 4,000,000,000,000 bytes in fewer"):
        weights.read(checkpoint({"x": torch.zeros(1).expand(10**6, 10**6)}))


def test_only_arrays_of_floats_are_weights(tmp_path, checkpoint):
    for state, message in [
        ({"x": torch.ones(2), "step": 3}, r"'step' \(int\)"),
        ({"x": torch.ones(2, dtype=torch.int64)}, r"'x' \(torch.int64\)"),
        ({3: torch.ones(2)}, "3 "),
        ({"x": torch.ones(2).to_sparse()}, "'x'"),
        ({"x": torch.ones(2, device="meta")}, "'x'"),
        ([torch.ones(2)], "holds a list"),
        (torch.ones(2), "holds a single array"),
    ]:
        with pytest.raises(ValueError, match=message):
            weights.read(checkpoint(state))
    save_file({"x": np.ones(2, np.int32)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="'x' as I32"):
        weights.read(tmp_path / "x.safetensors")


def test_an_old_torch_is_not_trusted(checkpoint, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ValueError, match=r"takes torch 2.10, not 2.9.1\+cpu.*pip install 'torch>=2.10'"):
        weights.read(checkpoint(original(published(**TINY))))


# Checkpoints of training ----------------------------------------------------------------------------------------------


def begun(state, prefix):
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


def negated(state):
    """Other weights, at the same positions."""
    return {key: tensor if key == dit.POSITIONS else -tensor for key, tensor in state.items()}


def with_itself(state):
    """Of pickles one may hold itself."""
    whole = {"ema": state}
    whole["whole"] = whole
    return whole


ARGS = argparse.Namespace(model="DiT-XL/2", lr=1e-4, dtype=torch.bfloat16, out=pathlib.Path("x"), best=np.float64(3.5))
OPTIMIZER = {"state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(4)}}, "param_groups": [{"lr": 1e-4}]}

# What torch.save is given, by the weights that are wanted of it.
KEPT = {
    "of a training step": lambda s: {"model": negated(s), "ema": s, "opt": OPTIMIZER, "args": ARGS},
    "the same dict twice": lambda s: {"model": s, "ema": s, "opt": OPTIMIZER, "args": vars(ARGS)},
    "of DDP": lambda s: begun(s, "module."),
    "of torch.compile": lambda s: begun(s, "_orig_mod."),
    "of both": lambda s: {"model": begun(s, "_orig_mod.module.")},
    "of both, the other way": lambda s: {"state": {"net": begun(s, "module._orig_mod.")}},
    "of compiled blocks": lambda s: {re.sub(r"^(blocks.\d.)", r"\1_orig_mod.", key): x for key, x in s.items()},
    "of FSDP": lambda s: {re.sub(r"^(blocks.\d.attn.)", r"\1_fsdp_wrapped_module.", key): x for key, x in s.items()},
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model_ema": lambda s: {"net": negated(s), "model_ema": s, "step": 5},
    "shadow": lambda s: {"model": negated(s), "ema": {"decay": 0.999, "shadow": begun(s, "module."), "num_updates": 9}},
    "of AveragedModel": lambda s: {"model": negated(s), "swa": {"n_averaged": torch.tensor(3), **begun(s, "module.")}},
    "of Lightning": lambda s: {
        "state_dict": begun(negated(s), "model.") | begun(s, "net_ema.") | {"loss.lpips.weight": torch.ones(3)},
        "hyper_parameters": {"lr": 1e-4},
        "optimizer_states": [OPTIMIZER],
    },
    "of DeepSpeed": lambda s: {"module": s, "global_steps": 7, "ds_version": torch.torch_version.TorchVersion("2.0")},
    "moments by name": lambda s: {"optimizer": {"exp_avg": negated(s)}, "model": s},
    "parameters": lambda s: {key: torch.nn.Parameter(tensor) for key, tensor in s.items()},
    "in itself": with_itself,
}


@pytest.mark.parametrize("zipped", [True, False], ids=["", "legacy"])
@pytest.mark.parametrize("kept", KEPT)
def test_the_averaged_weights_of_a_checkpoint_are_those_of_the_plain_file(kept, zipped, tmp_path, capsys):
    state = original(published(**TINY))
    torch.save(KEPT[kept](state), tmp_path / "kept.pt", _use_new_zipfile_serialization=zipped)
    _, params = convert.published(tmp_path / "kept.pt", "dit", heads=2)
    _, wanted = network("dit", *both_layouts(published(**TINY))["original"], published(**TINY).config)
    jax.tree.map(np.testing.assert_array_equal, params, wanted)
    if "model" in KEPT[kept](state) and len(KEPT[kept](state)) > 2:
        assert re.search(r"kept.pt: \S+ is read, and not \S+; --entry chooses", capsys.readouterr().out)


def test_an_entry_is_chosen_by_its_name_and_the_others_are_listed(checkpoint, tmp_path, capsys):
    state = original(published(**TINY))
    saved = {"model": negated(state), "ema": begun(state, "module."), "second_ema": state, "epoch": 3}
    file, outs = checkpoint(saved), {}
    for entry in ("", "model", "ema"):
        flags = f"--checkpoint={file} --workdir={tmp_path}/run{entry} --heads=2" + (
            f" --entry={entry}" if entry else ""
        )
        convert.main(**parse(convert.main, flags.split()))
        others = [name for name in ("ema", "second_ema", "model") if name != (entry or "ema")]
        said = f"{file}: {entry or 'ema'} is read, and not {', '.join(others)}; --entry chooses"
        assert said in capsys.readouterr().out.splitlines()
        run, params, _ = restore_run(str(tmp_path / f"run{entry}"))
        outs[entry] = dit.store(dit.ORIGINAL, run.model, params)["final_layer.linear.weight"]
    np.testing.assert_array_equal(outs["model"], -state["final_layer.linear.weight"])
    np.testing.assert_array_equal(outs["ema"], state["final_layer.linear.weight"])
    np.testing.assert_array_equal(outs[""], outs["ema"])
    for entry, message in [("emma", "it has ema, second_ema, model"), ("epoch", "it has ema, second_ema, model")]:
        with pytest.raises(ValueError, match=rf"dit.pt has no entry '{entry}' with a network; {message}"):
            convert.bring_in(str(file), str(tmp_path / "none"), heads=2, entry=entry)
    with pytest.raises(ValueError, match=r"has no entry 'ema' with a network; it has none, so leave it out$"):
        convert.bring_in(str(checkpoint(state)), str(tmp_path / "none"), heads=2, entry="ema")


def test_the_keys_of_safetensors_have_entries_as_well(tmp_path):
    state = {key: tensor.numpy() for key, tensor in original(published(**TINY)).items()}
    _, wanted = network("dit", dit.ORIGINAL, state, published(**TINY).config)
    other = {f"model.{key}": -array for key, array in state.items()}
    for name, saved in [("ddp", begun(state, "module.")), ("both", other | begun(state, "ema.module."))]:
        save_file(saved, tmp_path / f"{name}.safetensors")
        _, params = convert.published(tmp_path / f"{name}.safetensors", "dit", heads=2)
        jax.tree.map(np.testing.assert_array_equal, params, wanted)


def test_averages_without_names_are_no_network(checkpoint, tmp_path, capsys):
    state = original(published(**TINY))
    lists = {"ema": {"decay": 0.9999, "shadow_params": list(state.values())}}
    for zipped in (True, False):
        torch.save(lists, tmp_path / "dit.pt", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=r"arrays without names, .* \d+ in ema.shadow_params; copy") as e:
            convert.bring_in(str(tmp_path / "dit.pt"), str(tmp_path / "run"), heads=2)
        assert "\n" not in str(e.value)
    lists["random"] = [torch.zeros(9, dtype=torch.uint8)]
    _, params = convert.published(checkpoint({"model": state, **lists}), "dit", heads=2)
    said = capsys.readouterr().out
    assert "model is read" in said and f"averages, are left out: {len(state)} in ema.shadow_params" in said
    np.testing.assert_array_equal(params["params"]["image_head"]["patches"]["bias"], state["final_layer.linear.bias"])


@pytest.mark.parametrize("again", [False, True], ids=["", "and float32 again"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", ["pt", "legacy.pt", "safetensors"])
def test_another_precision_is_the_same_network_to_within_rounding(suffix, dtype, again, tmp_path, capsys):
    """Positions are then those of DiT, rounded; weights are what the file has, to the last bit in float32."""
    reference = published(**TINY)
    state = {key: tensor.to(dtype) for key, tensor in original(reference).items()}
    state = {key: tensor.float() for key, tensor in state.items()} if again else state
    file = tmp_path / f"dit.{suffix}"
    if suffix == "safetensors":
        save_tensors({key: tensor.contiguous() for key, tensor in state.items()}, file)
    else:
        torch.save(state, file, _use_new_zipfile_serialization=suffix == "pt")
    run, params = convert.published(file, "dit", heads=2)
    assert ("float64 is read as float32" in capsys.readouterr().out) == (dtype == torch.float64 and not again)
    back = dit.store(dit.ORIGINAL, run.model, params)
    for key in state.keys() - {dit.POSITIONS}:
        np.testing.assert_array_equal(back[key], state[key].float().numpy())
    if suffix == "pt" and not again:  # the outputs of all are those of the same weights
        (x, labels), steps = inputs(reference), np.array([0, 37, 500, 999])
        found, wanted = ours(run.model, params, x, (steps + 1) / 1000, labels), theirs(reference, x, steps, labels)
        assert distance(found, wanted) <= {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-4}[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_learned_positions_are_refused_in_every_precision(dtype, checkpoint):
    state = original(published(**TINY))
    learned = state["pos_embed"] + 0.02 * torch.randn_like(state["pos_embed"])
    file = checkpoint({key: tensor.to(dtype) for key, tensor in {**state, "pos_embed": learned}.items()})
    with pytest.raises(ValueError, match="pos_embed is not DiT's table of sines and cosines: these positions were"):
        convert.published(file, "dit", heads=2)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_shards_are_one_file(safe, tmp_path):
    published(**TINY).save_pretrained(tmp_path / "transformer", max_shard_size="60KB", safe_serialization=safe)
    index = next((tmp_path / "transformer").glob("*.index.json"))
    parts = sorted((tmp_path / "transformer").glob("*-of-*"))
    _, wanted = network("dit", dit.DIFFUSERS, state_of(published(**TINY)), published(**TINY).config)
    for path in (tmp_path, tmp_path / "transformer", index, parts[1]):  # of a pipeline, of a model, ...
        assert weights.find(path) == index
        jax.tree.map(np.testing.assert_array_equal, convert.published(weights.find(path), "dit")[1], wanted)
    names = json.loads(index.read_text())
    for changed, message in [
        (
            {**names, "weight_map": {**names["weight_map"], "lost.weight": parts[0].name}},
            "has lost.weight in .*lacks it",
        ),
        ({**names, "weight_map": {"a.weight": "../../away.bin"}}, f"no shard {index.parent}/away.bin, which .* names"),
        ({**names, "weight_map": {"a.weight": index.name}}, "there is no shard"),
        ({"metadata": {}}, "has no weight_map"),
        ([], "is not the index of shards"),
    ]:
        index.write_text(json.dumps(changed))
        with pytest.raises((ValueError, OSError), match=message):
            weights.read(index)
    index.write_text(json.dumps(names))
    parts[0].unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no shard {parts[0]}, which {index.name} names; download it"):
        convert.published(index, "dit")


# What a checkpoint says of its training, and what it leaves out -------------------------------------------------------


def cut_labels(state, rows):
    return {**state, "y_embedder.embedding_table.weight": state["y_embedder.embedding_table.weight"][:rows].clone()}


@pytest.mark.parametrize(
    ("said", "flags"),
    [
        ({"args": argparse.Namespace(num_classes=5, class_dropout_prob=0.0)}, {}),
        ({"args": {"num_classes": 5, "class_dropout_prob": 0}}, {}),
        ({"config": {"model": {"class_dropout_prob": 0.0}}}, {}),
        ({"args": argparse.Namespace(num_classes=5)}, {}),
        ({}, {"classes": 5}),
        ({"args": argparse.Namespace(num_classes=5, class_dropout_prob=0.1)}, {"classes": 5}),
    ],
)
def test_without_label_dropout_there_is_no_null_class_and_no_guidance(said, flags, checkpoint, tmp_path, capsys):
    """The last of five rows is class 4, as the file says, and not what labels are replaced with."""
    reference = published(**TINY)
    file = checkpoint({"model": cut_labels(original(reference), 5), **said})
    found = convert.bring_in(str(file), str(tmp_path / "run"), heads=2, **flags)
    assert "classes: 5 and no null class" in found
    run, params, mesh = restore_run(str(tmp_path / "run"))
    assert run.config["streams"]["label"] == {"kind": "label", "classes": 5, "dropout_rate": 0.0}
    x, steps, labels = inputs(reference)[0], np.array([0, 37, 500, 999]), np.array([0, 1, 3, 4], np.int32)
    wanted = theirs(reference, x, steps, labels)
    assert distance(ours(run.model, params, x, (steps + 1) / 1000, labels), wanted) <= 1e-4
    assert run.sample.guidance == 1.0 and run.sample.given == ("label=random",)
    how = dataclasses.replace(run.sample, num=2, batch=8, steps=2, given=("label=4",))
    assert np.all(np.isfinite(gather(draw(run, params, mesh, how))["image"]))
    for wrong, message in [
        ({"guidance": 1.5}, "guidance = 1.5 leads away from .* without label, and this run has no null class"),
        ({"guidance": "label=2"}, "guidance = 'label=2' leads away from .* no null class"),
        ({"given": ("label=none",)}, "--given=label=none: this run has no null class"),
        ({"given": ("label=1,none",)}, "--given=label=1,none: this run has no null class"),
    ]:
        with pytest.raises(ValueError, match=message):
            next(draw(run, params, mesh, dataclasses.replace(how, **wrong)))
    with pytest.raises(ValueError, match="--given=label=VALUE is missing: in training label was never hidden"):
        sample_cli.main(str(tmp_path / "run"), str(tmp_path / "samples"), options={"given": ()})


@pytest.mark.parametrize(
    ("said", "rows", "wanted"),
    [
        ({}, 6, (5, 0.1)),
        ({"num_classes": 5}, 6, (5, 0.1)),
        ({"num_classes": 5, "class_dropout_prob": 0.2}, 6, (5, 0.2)),
        ({"num_classes": 5, "class_dropout_prob": 0.0}, 6, (5, 0.0)),  # a row that was never trained
        ({"class_dropout_prob": 0.0}, 6, (6, 0.0)),
        ({"num_classes": "five"}, 6, (5, 0.1)),
        ({}, 2, (1, 0.1)),
        ({}, 1, (1, 0.0)),
        ({"num_classes": 0, "class_dropout_prob": 0.1}, 1, (1, 0.0)),  # nothing but the null class
        ({"num_classes": 1}, 1, (1, 0.0)),
    ],
)
def test_classes_are_as_a_checkpoint_says(said, rows, wanted, checkpoint):
    state = original(published(**TINY))
    file = checkpoint({"model": cut_labels(state, rows), "args": argparse.Namespace(**said)})
    run, params = convert.published(file, "dit", heads=2)
    label = run.config["streams"]["label"]
    assert (label["classes"], label["dropout_rate"]) == wanted
    table = params["params"]["label_embed"]["embedding"]
    np.testing.assert_array_equal(table[:rows], state["y_embedder.embedding_table.weight"][:rows])
    assert table.shape == (wanted[0] + 1, 24) and not np.any(table[rows:])


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ({"num_classes": 1000}, "1000 classes"),
        ({"num_classes": 6, "class_dropout_prob": 0.1}, "6 classes and a label dropout of 0.1"),
        ({"num_classes": 4, "class_dropout_prob": 0}, "4 classes and a label dropout of 0"),
    ],
)
def test_classes_that_contradict_the_table_are_an_error(said, what, checkpoint):
    file = checkpoint({"model": original(published(**TINY)), "args": argparse.Namespace(**said)})
    with pytest.raises(
        ValueError, match=f"embedding_table.weight has 6 rows, which do not go with {what}: .*--classes"
    ):
        convert.published(file, "dit", heads=2)
    run, _ = convert.published(file, "dit", heads=2, classes=5)
    assert run.config["streams"]["label"]["classes"] == 5


def test_positions_that_are_missing_are_made_anew(checkpoint, tmp_path, capsys):
    reference = published(**TINY)
    state = original(reference)
    bare = {key: tensor for key, tensor in state.items() if key != "pos_embed"}
    _, wanted = network("dit", *both_layouts(reference)["original"], reference.config)
    for saved, flags in [
        (bare, {"side": 8}),
        ({"model": bare, "args": argparse.Namespace(image_size=64)}, {}),
        ({"model": bare, "args": {"image_size": 999, "input_size": 8, "num_heads": 2}}, {"heads": None}),
    ]:
        run, params = convert.published(checkpoint(saved), "dit", **({"heads": 2} | flags))
        assert (
            "dit.pt has no pos_embed: the table of sines and cosines that DiT has is made anew"
            in capsys.readouterr().out
        )
        jax.tree.map(np.testing.assert_array_equal, params, wanted)
        (x, labels), steps = inputs(reference), np.array([0, 37, 500, 999])
        assert run.streams["image"].shape == (8, 8, 4) and run.model.heads == 2
        found = ours(run.model, params, x, (steps + 1) / 1000, labels)
        assert distance(found, theirs(reference, x, steps, labels)) <= 1e-4
    with pytest.raises(ValueError, match="pos_embed is missing, which shows how large latents are: say --side, 32 for"):
        convert.bring_in(str(checkpoint(bare)), str(tmp_path / "run"), heads=2)
    with pytest.raises(ValueError, match=r"--side = 16, and .*dit.pt is of latents of 8 x 8"):
        convert.bring_in(str(checkpoint(state)), str(tmp_path / "run"), heads=2, side=16)


@pytest.mark.parametrize("kind", convert.KINDS)
@pytest.mark.parametrize(
    "sizes", [{"side": 16}, {"side": 12, "patch": 4}, {"outputs": 1}, {"outputs": 2, "classes": 1}]
)
def test_sizes_are_read_off_the_file(sizes, kind, checkpoint):
    reference = published(**{**TINY, **sizes})
    run, params = convert.published(checkpoint(original(reference)), kind, heads=2)
    side, outputs = sizes.get("side", 8), sizes.get("outputs", 2)
    assert run.streams["image"].shape == (side, side, 4)
    (x, labels), t = inputs(reference), np.array([0.001, 0.25, 0.7, 1.0])
    labels = np.minimum(labels, reference.config.num_embeds_ada_norm)
    found = ours(run.model, params, x, t, labels)
    wanted = theirs(reference, x, 1000 * t - 1, labels) if kind == "dit" else -theirs(reference, x, 1 - t, labels)
    assert found.shape == (4, side, side, 4 * outputs) and distance(found, wanted) <= 1e-4


# Networks that are not ours -------------------------------------------------------------------------------------------


def with_(state, **changes):
    """The state with some entries changed, or without those that are None; dots are written as two underscores."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in {**state, **changes}.items() if value is not None}


def test_a_file_of_another_network_is_one_line(checkpoint, tmp_path, capsys):
    state = original(published(**TINY))
    for changed, message in [
        (
            {"conv.weight": torch.ones(2)},
            "this is no DiT: it has neither x_embedder.proj.weight nor pos_embed.proj.weight",
        ),
        ({"ema": torch.ones(2)}, "nor pos_embed.proj.weight, but 'ema'"),
        ({"epoch": 3, "state_dict": {"conv.weight": torch.ones(2)}}, "nor pos_embed.proj.weight, but 'conv.weight'"),
        (with_(state, blocks__1__attn__qkv__bias=None), "blocks.1.attn.qkv.bias is missing, of shape (72,)"),
        (with_(state, pos_embed=None), "pos_embed is missing"),
        (with_(state, y_embedder__embedding_table__weight=None), "y_embedder.embedding_table.weight is missing"),
        (with_(state, extra__weight=torch.ones(2)), "'extra.weight', of shape (2,), is no part of this network"),
        (
            with_(state, blocks__0__attn__q_norm__weight=torch.ones(12)),
            "'blocks.0.attn.q_norm.weight', of shape (12,), is no part of this network: a norm of queries (QK norm)",
        ),
        (
            with_(state, blocks__0__attn__k_norm__weight=torch.ones(12), projectors__0__bias=torch.ones(3)),
            "is no part of this network, with 1 more: a norm of keys (QK norm), a projector of REPA",
        ),
        (
            with_(state, final_layer__linear__bias=torch.full((32,), torch.nan)),
            "final_layer.linear.bias is not finite in 32 of 32 numbers: training had diverged",
        ),
        (
            with_(state, blocks__1__mlp__fc1__bias=torch.arange(96) / torch.arange(96)),
            "blocks.1.mlp.fc1.bias is not finite in 1 of 96 numbers",
        ),
        (with_(state, blocks__7__attn__qkv__bias=torch.ones(72)), "blocks.3"),
        (
            with_(state, blocks__0__mlp__fc1__weight=torch.ones(48, 24)),
            "blocks.0.mlp.fc1.weight has the shape (48, 24), where (96, 24) belongs",
        ),
        (with_(state, x_embedder__proj__weight=torch.ones(24, 16)), "should have 4 axes"),
        (with_(state, x_embedder__proj__weight=torch.ones(24, 4, 0, 0)), "this is no DiT: of 0 x 0 patches"),
        (with_(state, final_layer__linear__bias=torch.ones(17)), "makes 17 values"),
        (with_(state, pos_embed=state["pos_embed"] + 1e-4), "pos_embed is not DiT's table"),
        (with_(state, pos_embed=state["pos_embed"][:, :15]), "where (1, 9, 24) belongs"),
    ]:
        with pytest.raises(ValueError) as end:
            convert.main(str(checkpoint(changed)), str(tmp_path / "run"), heads=2)
        assert str(end.value).startswith(f"{tmp_path}/dit.pt: ") and message in str(end.value)
        assert "\n" not in str(end.value) and not (tmp_path / "run").exists()


def test_heads_are_known_of_published_sizes_and_asked_for_otherwise(checkpoint, tmp_path):
    file = checkpoint(original(published(**TINY)))
    with pytest.raises(ValueError, match="width 24 and depth 3 are no published size, so say it with --heads"):
        convert.bring_in(str(file), str(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"model.heads = 5 does not divide width = 24"):
        convert.bring_in(str(file), str(tmp_path / "run"), heads=5)
    for width, depth, heads in SIZES.values():
        stand_in = {key: np.broadcast_to(np.float32(0), shape) for key, shape in as_published(width, depth).items()}
        assert shapes.sizes(dit.ORIGINAL, stand_in, {}) == (32, 4, 2, 2, 1000, width, depth, heads, 0.1)


def as_published(width, depth):
    """As much of a published file as tells its size."""
    return {
        "x_embedder.proj.weight": (width, 4, 2, 2),
        "y_embedder.embedding_table.weight": (1001, width),
        "final_layer.linear.bias": (32,),
        "pos_embed": (1, 256, width),
        **{f"blocks.{i}.mlp.fc1.bias": (4 * width,) for i in range(depth)},
    }


def test_diffusers_blocks_with_embeddings_of_their_own_are_another_network(tmp_path):
    state = state_of(published(**TINY))
    for part in (
        "timestep_embedder.linear_1.weight",
        "timestep_embedder.linear_2.bias",
        "class_embedder.embedding_table.weight",
    ):
        key = f"transformer_blocks.1.norm1.emb.{part}"
        changed = {**state, key: np.nextafter(state[key], np.inf)}
        with pytest.raises(ValueError, match=r"norm1.emb.* differs from block to block"):
            network("dit", dit.DIFFUSERS, changed, published(**TINY).config)


def test_a_directory_of_diffusers_needs_its_config(tmp_path):
    published(**TINY).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for entries, message in [
        (None, "nothing says sample_size: put the published config.json beside the weights"),
        ({**config, "sample_size": 10**9}, "latents of 1000000000 x 1000000000 are not 1 to 256 patches of 2 wide"),
        ({**config, "sample_size": "8"}, "sample_size = '8', which should be a positive integer"),
        ({**config, "num_attention_heads": 0}, "num_attention_heads = 0"),
        ({**config, "activation_fn": "geglu"}, "activation_fn = 'geglu', and a DiT has 'gelu-approximate'"),
        ([1], "is not the config of a model"),
    ]:
        (tmp_path / "config.json").unlink(missing_ok=True)
        if entries is not None:
            (tmp_path / "config.json").write_text(json.dumps(entries))
        with pytest.raises(ValueError, match=message):
            convert.bring_in(str(tmp_path), str(tmp_path / "run"))
    with pytest.raises(FileNotFoundError, match=r"there is no file .*/diffusion_pytorch_model.safetensors; give a .pt"):
        (tmp_path / "empty").mkdir()
        weights.find(tmp_path / "empty")


# Runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{(kind, dtype): a converted run}, of a tiny network."""
    folder = tmp_path_factory.mktemp("runs")
    torch.save(original(published(**TINY)), folder / "dit.pt")
    made = {}
    for kind in convert.KINDS:
        for dtype in ("float32", "bfloat16"):
            made[kind, dtype] = folder / kind / dtype
            convert.bring_in(str(folder / "dit.pt"), str(made[kind, dtype]), kind, heads=2, dtype=dtype)
    return made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", convert.KINDS)
def test_a_converted_run_is_sampled_from(runs, kind, dtype):
    """As its section says, but in two steps."""
    run, params, mesh = restore_run(str(runs[kind, dtype]))
    assert run.model.dtype == jnp.dtype(dtype) and run.sample.steps == 250 and run.sample.channels == 3
    how = dataclasses.replace(run.sample, num=3, batch=8, steps=2, given=("label=0,4",))
    drawn = gather(draw(run, params, mesh, how))
    assert drawn["image"].shape == (3, 8, 8, 4) and drawn["label"].tolist() == [0, 4, 0]
    assert np.all(np.isfinite(drawn["image"]))
    np.testing.assert_array_equal(  # as they were read, to the last bit
        dit.store(dit.ORIGINAL, run.model, params)["final_layer.linear.weight"],
        original(published(**TINY))["final_layer.linear.weight"],
    )


@pytest.mark.parametrize("kind", convert.KINDS)
def test_the_default_is_the_papers_protocol(runs, kind):
    """Of converted checkpoints and of all sizes that are trained here; it is the table of docs/papers.md."""
    solver, grid = {"dit": ("ancestral", "timesteps"), "sit": ("euler_maruyama", "long_last")}[kind]
    protocol = {
        "given": ("label=random",),
        "solver": solver,
        "grid": grid,
        "steps": 250,
        "guidance": 1.5,
        "channels": 3,
    }
    protocol |= {"interval": (0.0, 1.0), "combine": "linear", "weak": "", "shift": 1.0, "rollout": ""}
    protocol |= {"reveal": "ancestral", "first": (), "drawn": ()}
    variants = [variant for variant in imagenet256.VARIANTS if variant.startswith(kind)]
    trained = [build(imagenet256.get_config(variant)) for variant in variants]
    for run in (restore_run(str(runs[kind, "float32"]))[0], *trained):
        found = dataclasses.asdict(run.sample)
        assert {name: found.pop(name) for name in protocol} == protocol
        assert found.keys() == {"every", "num", "seed", "batch"}  # how many, and which of them
    assert len(variants) == 12 and {str(jnp.dtype(run.model.dtype)) for run in trained} == {"bfloat16"}


def test_a_converted_run_is_not_trained(runs):
    run, *_ = restore_run(str(runs["dit", "float32"]))
    with pytest.raises(OSError, match=r"holds the weights of .*dit.pt, which can be sampled from; to train"):
        train(run, runs["dit", "float32"])


def test_a_run_is_not_overwritten(runs, tmp_path, checkpoint):
    file = checkpoint(original(published(**TINY)))
    with pytest.raises(OSError, match=r"there is a checkpoint in .* already; choose another --workdir"):
        convert.bring_in(str(file), str(runs["dit", "float32"]), heads=2)


def test_a_run_that_diffusers_has_no_model_of_stays_here():
    streams = {"image": convert.stream("image", shape=(8, 8, 4)), "label": convert.stream("label", classes=5)}
    for config, message in [
        ({"streams": streams, "model": {"width": 24, "heads": 2, "block": "modern"}}, "no DiT as published"),
        ({"streams": {"image": streams["image"]}, "model": {"width": 24, "heads": 2}}, "no DiT as published"),
        ({"streams": {**streams, "image": {**streams["image"], "shape": (8, 4, 4)}}}, "squares"),
    ]:
        with pytest.raises(ValueError, match=message):
            dit.diffusers_config(build(config).model, {})


def test_flags_that_say_nothing_are_refused():
    for flags, message in [
        ({"workdir": "x"}, "say --workdir and either --checkpoint"),
        ({"workdir": "x", "out": "y", "checkpoint": "z"}, "say --workdir and either --checkpoint"),
        ({"out": "y"}, "say --workdir and either --checkpoint"),
        ({"workdir": "x", "out": "y", "kind": "sit"}, "--kind goes with --checkpoint"),
        ({"workdir": "x", "checkpoint": "z", "kind": "zit"}, "there is no file"),
    ]:
        with pytest.raises((ValueError, OSError), match=message):
            convert.main(**flags)
