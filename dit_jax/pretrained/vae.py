"""Published weights of Stable Diffusion's autoencoder, such as stabilityai/sd-vae-ft-mse, for network/vae.py."""

import dataclasses
import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dit_jax.diffusion.stream import Stream
from dit_jax.media.image import crop, read, to_uint8
from dit_jax.network.vae import VAE
from dit_jax.pretrained import weights

WEIGHTS = weights.NAMES[0]
HINT = f"use the {WEIGHTS} of a Stable Diffusion VAE, such as stabilityai/sd-vae-ft-mse on Hugging Face"
MOST = 8  # levels, and layers a level: a file that claims more shall not keep us busy

DTYPES = ("F32", "F16")
LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
# The words for attention's matrices before diffusers 0.18, which the published files still use.
FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
# For arrays of 1, 2 and 4 dimensions, the published axis that each of ours is: (out, in, h, w) -> (h, w, in, out).
AXES = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def load(path: str | os.PathLike) -> tuple[VAE, Any]:
    """The VAE of a published state dict, diffusers' AutoencoderKL: a file, or the directory it was published in.

    Sizes are read off the shapes, except for the groups of the norms and the scale of the latents: these are those of
    the config.json beside the weights, or else Stable Diffusion's. Returns the module and its float32 parameters.

    Raises FileNotFoundError, or a ValueError that names the file and the first key that is missing, of a wrong shape or
    type, or unexpected; nothing has been computed by then.
    """
    file = weights_file(path)
    try:
        tensors = weights.read(file, DTYPES)
    except ValueError as error:
        raise ValueError(f"{error}; {HINT}") from None
    # A matrix that is there under both names keeps them, so that one of them is unexpected.
    tensors = {key if renamed(key) in tensors else renamed(key): tensors[key] for key in sorted(tensors)}
    vae = read_module(file, {key: tensor.shape for key, tensor in tensors.items()})
    wanted = jax.eval_shape(vae.init, jax.random.key(0))
    check(file, {published_key(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(wanted)}, tensors)
    return vae, jax.tree.map_with_path(lambda path, leaf: converted(tensors[published_key(path)], leaf.shape), wanted)


def with_vae(stream: Stream, path: str | os.PathLike) -> Stream:
    """A stream of latents as the VAE in a file makes it seen: `show` decodes them, `read` and `crop` encode pictures.

    Raises ValueError if another VAE made the latents.
    """
    vae, params = load(path)
    if stream.codec_id not in ("", found := fingerprint(path)):
        raise ValueError(f"{path} has the sha256 {found}, and the latents are of the VAE {stream.codec_id}")
    height, width, channels = stream.shape
    if channels != vae.latent:
        raise ValueError(f"{path} makes latents of {vae.latent} channels, and these have {channels}")
    pixels = (height * vae.factor, width * vae.factor, 3)
    decode = jax.jit(lambda z: vae.apply(params, z / vae.scale, method="decode"))
    encode = jax.jit(lambda x: vae.apply(params, x, method="encode")[0] * vae.scale)
    view = dataclasses.replace(
        stream.view,
        show=lambda z: to_uint8(_in_batches(decode, z)),
        read=lambda text: _in_batches(encode, read(text, pixels, stream.view.background)),
        crop=lambda text: _in_batches(encode, crop(text, pixels, stream.view.background)),
    )
    return dataclasses.replace(stream, view=view)


def _in_batches(function: Callable, x: np.ndarray, most: int = 16) -> np.ndarray:
    """function(x), so many at a time, and always as many: the last ones are filled up."""
    size = min(most, len(x))
    full = np.concatenate([x, np.repeat(x[-1:], -len(x) % size, axis=0)])
    return np.concatenate([np.asarray(function(part)) for part in np.split(full, len(full) // size)])[: len(x)]


def fingerprint(path: str | os.PathLike) -> str:
    """The sha256 of the weights file, in hex: what latents remember of the VAE that made them."""
    return weights.sha256(weights_file(path))


def weights_file(path: str | os.PathLike) -> Path:
    """The file itself, or the one in the directory of a VAE, or of a pipeline with one. Raises FileNotFoundError."""
    return weights.find(path, "vae", HINT)


def renamed(key: str) -> str:
    return ".".join(FORMER.get(word, word) for word in key.split("."))


def published_key(path: tuple) -> str:
    """("params", "encoder", "conv_in", "kernel") -> "encoder.conv_in.weight"."""
    *modules, leaf = (entry.key for entry in path[1:])
    return ".".join([*modules, LEAVES[leaf]])


def published_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in np.argsort(AXES[len(shape)]))


def converted(tensor: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """A published tensor as the parameter of this shape; matrices may have been published as 1 x 1 convolutions."""
    return jnp.asarray(tensor.reshape(published_shape(shape)).transpose(AXES[len(shape)]), jnp.float32)


def read_module(file: Path, shapes: dict[str, tuple[int, ...]]) -> VAE:
    """The module of these shapes, and of the config.json beside them. What neither says is as published."""

    def stack(key: str) -> list[int]:
        """How long key.format(0), key.format(1), ... are, as far as there are any."""
        keys = itertools.takewhile(shapes.__contains__, (key.format(i) for i in range(MOST)))
        return [math.prod(shapes[key]) for key in keys]

    for key in ("encoder.down_blocks.0.resnets.0.conv1.bias", "post_quant_conv.bias"):
        if key not in shapes:
            raise ValueError(f"{file} lacks {key}; {HINT}")
    channels = tuple(stack("encoder.down_blocks.{}.resnets.0.conv1.bias"))
    layers = len(stack("encoder.down_blocks.0.resnets.{}.conv1.bias"))
    latent = math.prod(shapes["post_quant_conv.bias"])
    config, entries = file.with_name("config.json"), weights.read_config(file)
    try:
        groups, scale = int(entries.get("norm_num_groups", VAE.groups)), float(entries.get("scaling_factor", VAE.scale))
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(f"{config} is not the config of a VAE ({error}); put the published one there") from None
    if min(groups, latent, *channels) < 1 or any(features % groups for features in channels):
        raise ValueError(
            f"{file} has levels of {channels} channels and latents of {latent}, which do not suit norms of {groups} "
            "groups; put the published config.json beside it"
        )
    return VAE(channels, layers, latent, groups, scale)


def check(file: Path, wanted: dict[str, tuple[int, ...]], found: dict[str, np.ndarray]) -> None:
    """Compare the shapes of parameters, by published key, with the arrays of a file."""
    for key, shape in wanted.items():
        if key not in found:
            raise ValueError(f"{file} lacks {key}; {HINT}")
        there, expected = found[key].shape, published_shape(shape)
        if there != expected and (there[2:] != (1, 1) or there[:2] != expected):
            raise ValueError(f"{file} has {key} of shape {there}, where {expected} belongs; {HINT}")
    for key in sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{file} has {key}, which is no part of this VAE; {HINT}")
