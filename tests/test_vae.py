"""The autoencoder computes what diffusers' does, and a file that is not one is refused before anything is computed."""

import functools
import hashlib
import json
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.numpy import load_file, save_file

import dit_jax as dj
from dit_jax.network.vae import VAE
from dit_jax.pretrained import vae as pretrained


def peer(channels, groups=8, layers=2, **changes) -> AutoencoderKL:
    """Diffusers' autoencoder; no weight is zero and no norm is the identity, so that every parameter matters."""
    model = AutoencoderKL(
        block_out_channels=channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        layers_per_block=layers,
        norm_num_groups=groups,
        latent_channels=4,
        **changes,
    )
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small model, as diffusers saves it."""
    folder = tmp_path_factory.mktemp("published")
    peer((32, 64)).save_pretrained(folder)
    return folder


def apart(ours, theirs) -> float:
    """The relative error, theirs in torch's order of axes."""
    theirs = theirs.permute(0, 2, 3, 1).numpy()
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


@pytest.mark.parametrize("channels", [(32, 64), (32, 32, 64, 64)])
@pytest.mark.parametrize("layers", [1, 2])
def test_encoder_and_decoder_are_those_of_diffusers(channels, layers, tmp_path):
    model = peer(channels, layers=layers)
    model.save_pretrained(tmp_path)
    vae, params = pretrained.load(tmp_path)
    assert (vae.channels, vae.layers, vae.groups, vae.latent) == (channels, layers, 8, 4)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 32, 3)).astype(np.float32)
    with torch.no_grad():
        posterior = model.encode(torch.from_numpy(images).permute(0, 3, 1, 2)).latent_dist
        decoded = model.decode(posterior.mean).sample
    mean, std = jax.jit(lambda x: vae.apply(params, x, method="encode"))(images)
    assert mean.shape == (2, 16 // vae.factor, 32 // vae.factor, 4)
    assert apart(mean, posterior.mean) < 1e-4 and apart(std, posterior.std) < 1e-4
    latents = posterior.mean.permute(0, 2, 3, 1).numpy()
    assert apart(jax.jit(lambda z: vae.apply(params, z, method="decode"))(latents), decoded) < 1e-4


def test_the_standard_deviation_is_clamped_as_published(published):
    vae, params = pretrained.load(published)

    @jax.jit
    def std(bias):
        shifted = {**params["params"], "quant_conv": {**params["params"]["quant_conv"], "bias": jnp.full(8, bias)}}
        return vae.apply({"params": shifted}, jnp.zeros((1, 4, 4, 3)), method="encode")[1]

    for bias, logvar in ((1e6, 20), (-1e6, -30)):
        np.testing.assert_allclose(std(bias), np.exp(logvar / 2), rtol=1e-5)


def test_the_dtype_is_that_of_matrix_products_alone(published):
    vae, params = pretrained.load(published)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    exact, rough = (
        jax.jit(functools.partial(vae.clone(dtype=dtype).apply, params, method="encode"))(images)[0]
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rough.dtype == np.float32
    assert 0 < np.linalg.norm(exact - rough) / np.linalg.norm(exact) < 0.05


def test_the_published_sizes_have_the_published_keys():
    """Every key and shape of the full layout, and no other: 248 of them, 83,653,863 parameters."""
    with torch.device("meta"):
        theirs = {key: tuple(value.shape) for key, value in peer((128, 256, 512, 512), groups=32).state_dict().items()}
    shapes = jax.tree.leaves_with_path(jax.eval_shape(VAE().init, jax.random.key(0)))
    ours = {pretrained.published_key(path): pretrained.published_shape(leaf.shape) for path, leaf in shapes}
    assert ours == theirs and len(ours) == 248
    assert sum(np.prod(shape) for shape in ours.values()) == 83_653_863


# ---- Files ----


def test_a_file_and_its_directory_are_the_same(published):
    file = published / pretrained.WEIGHTS
    (_, there), (_, here) = pretrained.load(published), pretrained.load(str(file))
    assert jax.tree.all(jax.tree.map(np.array_equal, there, here))
    assert pretrained.fingerprint(published) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_torchs_own_files_are_read_as_well(published, tmp_path):
    """In the directory that a pipeline has for its VAE; the hash is that of the file, as of any other."""
    tensors = {key: torch.from_numpy(array) for key, array in load_file(published / pretrained.WEIGHTS).items()}
    folder = tmp_path / "vae"
    folder.mkdir()
    (folder / "config.json").write_text((published / "config.json").read_text())
    file = folder / "diffusion_pytorch_model.bin"
    torch.save(tensors, file)
    vae, wanted = pretrained.load(published)
    for path in (tmp_path, folder, file):
        found, params = pretrained.load(path)
        assert found == vae and jax.tree.all(jax.tree.map(np.array_equal, params, wanted))
        assert pretrained.fingerprint(path) == hashlib.sha256(file.read_bytes()).hexdigest()
    for broken, message in [
        (without(tensors, "decoder.conv_out.bias"), "lacks decoder.conv_out.bias;"),
        (
            {**tensors, "quant_conv.bias": torch.zeros(8, dtype=torch.bfloat16)},
            r"'quant_conv.bias' \(torch.bfloat16\), and only F32 and F16 are read;",
        ),
        ({**tensors, "evil": print}, "print, which was not run;"),
    ]:
        torch.save(broken, file)
        with pytest.raises(ValueError, match=rf"^{file} .*{message}.*sd-vae-ft-mse"):
            pretrained.load(file)


def test_a_config_is_needed_for_groups_and_scale_only(tmp_path):
    peer((32, 64), groups=8, scaling_factor=0.13025).save_pretrained(tmp_path)
    assert pretrained.load(tmp_path)[0] == VAE((32, 64), 2, 4, groups=8, scale=0.13025)
    (tmp_path / "config.json").unlink()
    assert pretrained.load(tmp_path)[0] == VAE((32, 64), 2, 4, groups=32, scale=0.18215)


@pytest.mark.parametrize("shape", [(64, 64), (64, 64, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_files_of_all_ages_are_read(published, tmp_path, shape, dtype):
    """Attention was called otherwise, was once made of convolutions, and is published in half precision as well."""
    words = {new: old for old, new in pretrained.FORMER.items()}
    old = {}
    for key, value in load_file(published / pretrained.WEIGHTS).items():
        for new, word in words.items():
            if f".{new}.weight" in key:
                value = value.reshape(shape)
            key = key.replace(f".{new}.", f".{word}.")
        old[key] = value.astype(dtype)
    assert any(".proj_attn.weight" in key for key in old) and not any("to_q" in key for key in old)
    save_file(old, tmp_path / "old.safetensors")
    (tmp_path / "config.json").write_text((published / "config.json").read_text())
    (_, new), (_, params) = pretrained.load(published), pretrained.load(tmp_path / "old.safetensors")
    expected = jax.tree.map(lambda x: np.asarray(x, dtype).astype(np.float32), new)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, expected))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def without(tensors, key):
    return {name: value for name, value in tensors.items() if name != key}


ATTENTION = "encoder.mid_block.attentions.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, "decoder.conv_out.bias"), "lacks decoder.conv_out.bias;"),
        (
            lambda t: without(t, "encoder.down_blocks.0.resnets.0.conv1.bias"),
            "lacks encoder.down_blocks.0.resnets.0.conv1.bias;",
        ),
        (lambda t: without(t, "post_quant_conv.bias"), "lacks post_quant_conv.bias;"),
        (lambda t: {**t, "loss.logvar": np.zeros(1, np.float32)}, "has loss.logvar, which is no part"),
        (lambda t: {**t, f"{ATTENTION}.query.bias": np.zeros(64, np.float32)}, f"has {ATTENTION}.query.bias, which is"),
        (
            lambda t: {**t, "encoder.conv_in.weight": np.zeros((32, 3, 1, 1), np.float32)},
            r"encoder.conv_in.weight of shape \(32, 3, 1, 1\), where \(32, 3, 3, 3\) belongs",
        ),
        (
            lambda t: {**t, f"{ATTENTION}.to_q.weight": np.zeros((64, 64, 3, 3), np.float32)},
            r"to_q.weight of shape \(64, 64, 3, 3\), where \(64, 64\) belongs",
        ),
        (
            lambda t: {**t, "quant_conv.bias": np.zeros(8, np.int32)},
            "'quant_conv.bias' as I32, and only F32 and F16 are",
        ),
        (
            lambda t: {**t, "quant_conv.bias": np.zeros(8, jnp.bfloat16)},
            "'quant_conv.bias' as BF16, and only F32 and F16",
        ),
        (
            lambda t: {**t, "post_quant_conv.bias": np.zeros((2, 2), np.float32)},
            r"of shape \(2, 2\), where \(4,\) belongs",
        ),
        (lambda t: {**t, "post_quant_conv.bias": np.zeros(0, np.float32)}, "latents of 0, which do not suit"),
        (
            lambda t: {**t, "encoder.down_blocks.1.resnets.0.conv1.bias": np.zeros(31, np.float32)},
            r"\(32, 31\) channels",
        ),
        (
            lambda _: {"model.diffusion_model.out.0.weight": np.zeros(3, np.float32)},
            "lacks encoder.down_blocks.0.resnets.0.conv1.bias;",
        ),
        (lambda _: {}, "lacks encoder.down_blocks.0.resnets.0.conv1.bias;"),
    ],
)
def test_a_file_of_another_model_is_named_with_its_first_wrong_key(published, tmp_path, change, message):
    file = tmp_path / "other.safetensors"
    save_file(change(load_file(published / pretrained.WEIGHTS)), file)
    (tmp_path / "config.json").write_text('{"norm_num_groups": 8}')
    with pytest.raises(ValueError, match=message) as error:
        pretrained.load(file)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)
    assert "sd-vae-ft-mse" in str(error.value) or "config.json" in str(error.value)


def header(entries: dict, claimed: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02ctorch",
        b"PK\x03\x04" + bytes(100),
        header({}, claimed=2**63),
        header({}, claimed=10**8),
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**60]}}),
        header({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}}) + bytes(16),
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}) + bytes(24),
        header({"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}) + bytes(16),
    ],
)
def test_files_that_lie_about_themselves_are_refused(content, tmp_path):
    file = tmp_path / "hostile.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is not a whole safetensors file") as error:
        pretrained.load(file)
    assert str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_a_truncated_file_is_refused(published, tmp_path):
    whole, file = (published / pretrained.WEIGHTS).read_bytes(), tmp_path / "cut.safetensors"
    for size in (4, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.safetensors is not a whole safetensors file"):
            pretrained.load(file)


def test_nothing_there_is_said_with_what_to_get(tmp_path):
    for path in (tmp_path, tmp_path / "vae.safetensors"):
        with pytest.raises(FileNotFoundError, match=r"there is no file .*sd-vae-ft-mse"):
            pretrained.load(path)


@pytest.mark.parametrize(
    "config", ["not json", "[]", '{"norm_num_groups": null}', '{"norm_num_groups": 0}', '{"norm_num_groups": 5}']
)
def test_a_config_that_does_not_fit_is_named(published, tmp_path, config):
    (tmp_path / pretrained.WEIGHTS).write_bytes((published / pretrained.WEIGHTS).read_bytes())
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=r"config\.json"):
        pretrained.load(tmp_path)


def test_latents_are_seen_through_their_vae(published, tmp_path):
    """Pictures read are encoded as diffusers encodes them, and what is shown is decoded so, in any number."""
    stream = pretrained.with_vae(dj.streams.image((4, 6, 4), codec=pretrained.fingerprint(published)), published)
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(256, size=(8, 12, 3), dtype=np.uint8)).save(tmp_path / name)
    latents = stream.view.read(f"{tmp_path / 'a.png'},{tmp_path / 'b.png'}")
    pixels = np.stack([np.asarray(Image.open(tmp_path / name), np.float32) for name in ("a.png", "b.png")]) / 127.5 - 1
    model = AutoencoderKL.from_pretrained(published).eval()
    scale = model.config.scaling_factor
    with torch.no_grad():
        mean = model.encode(torch.from_numpy(pixels).permute(0, 3, 1, 2)).latent_dist.mean * scale
        many = torch.cat([mean] * 9 + [mean[:1]])  # 19, which no batch divides
        wanted = model.decode(many / scale).sample.permute(0, 2, 3, 1).numpy()
    assert apart(latents, mean) < 1e-4
    found = stream.view.show(many.permute(0, 2, 3, 1).numpy())
    assert found.shape == (19, 8, 12, 3) and found.dtype == np.uint8
    # As the published samplers round: clamp(127.5 x + 128) to 0 ... 255, and cut.
    assert np.max(np.abs(found - np.clip(127.5 * wanted + 128, 0, 255).astype(np.uint8).astype(int))) <= 1


def test_latents_of_another_vae_are_not_shown(published):
    with pytest.raises(ValueError, match=r"has the sha256 [0-9a-f]{64}, and the latents are of the VAE abc"):
        pretrained.with_vae(dj.streams.image((4, 4, 4), codec="abc"), published)
    with pytest.raises(ValueError, match="makes latents of 4 channels, and these have 3"):
        pretrained.with_vae(dj.streams.image((4, 4, 3)), published)
