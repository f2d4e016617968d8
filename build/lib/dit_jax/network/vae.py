"""The autoencoder of Stable Diffusion: images to latents of an eighth of their height and width, and back.

Rombach et al. 2022 (arXiv 2112.10752), laid out as diffusers' AutoencoderKL, in which the weights are published. Every
parameter has the path of its published key, so that loading them (pretrained/vae.py) is a walk over the tree.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array


def conv(
    layer: Any, x: Array, features: int, name: str, size: int = 3, stride: int = 1, padding: str = "SAME"
) -> Array:
    """A convolution of a layer: its operands in the layer's dtype, the result in float32."""
    module = nn.Conv(features, (size, size), stride, padding, dtype=layer.dtype, name=name)
    return module(x).astype(jnp.float32)


def norm(layer: Any, name: str) -> nn.GroupNorm:
    """In float32; E[x^2] - E[x]^2, flax's default for the variance, would lose digits where the mean is large."""
    return nn.GroupNorm(layer.groups, epsilon=1e-6, use_fast_variance=False, name=name)


class Residual(nn.Module):
    """x [B, h, w, C] -> [B, h, w, features]."""

    features: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        y = conv(self, nn.silu(norm(self, "norm1")(x)), self.features, "conv1")
        y = conv(self, nn.silu(norm(self, "norm2")(y)), self.features, "conv2")
        if x.shape[-1] != self.features:
            x = conv(self, x, self.features, "conv_shortcut", size=1)
        return x + y


class Attention(nn.Module):
    """Every pixel attends to all, with one head: x [B, h, w, C] -> [B, h, w, C]."""

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        y = norm(self, "group_norm")(x).reshape(batch, height * width, 1, channels)
        q, k, v = (nn.Dense(channels, dtype=self.dtype, name=name)(y) for name in ("to_q", "to_k", "to_v"))
        y = nn.Dense(channels, dtype=self.dtype, name="to_out.0")(jax.nn.dot_product_attention(q, k, v))
        return x + y.reshape(x.shape)


class Middle(nn.Module):
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Residual(x.shape[-1], self.groups, self.dtype, name="resnets.0")(x)
        x = Attention(self.groups, self.dtype, name="attentions.0")(x)
        return Residual(x.shape[-1], self.groups, self.dtype, name="resnets.1")(x)


class Encoder(nn.Module):
    """Images [B, H, W, 3] -> [B, H/f, W/f, out], halving after every level but the last."""

    channels: tuple[int, ...]
    layers: int
    out: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = conv(self, x, self.channels[0], "conv_in")
        for level, features in enumerate(self.channels):
            for i in range(self.layers):
                x = Residual(features, self.groups, self.dtype, name=f"down_blocks.{level}.resnets.{i}")(x)
            if level < len(self.channels) - 1:  # padded below and to the right only, as published
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
                x = conv(self, x, features, f"down_blocks.{level}.downsamplers.0.conv", stride=2, padding="VALID")
        x = Middle(self.groups, self.dtype, name="mid_block")(x)
        return conv(self, nn.silu(norm(self, "conv_norm_out")(x)), self.out, "conv_out")


class Decoder(nn.Module):
    """[B, h, w, latent] -> images [B, f h, f w, 3], doubling after every level but the last; one layer more a level."""

    channels: tuple[int, ...]
    layers: int
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = conv(self, x, self.channels[-1], "conv_in")
        x = Middle(self.groups, self.dtype, name="mid_block")(x)
        for level, features in enumerate(reversed(self.channels)):
            for i in range(self.layers + 1):
                x = Residual(features, self.groups, self.dtype, name=f"up_blocks.{level}.resnets.{i}")(x)
            if level < len(self.channels) - 1:
                x = x.repeat(2, axis=1).repeat(2, axis=2)
                x = conv(self, x, features, f"up_blocks.{level}.upsamplers.0.conv")
        return conv(self, nn.silu(norm(self, "conv_norm_out")(x)), 3, "conv_out")


class VAE(nn.Module):
    """apply(params, x, method="encode") and apply(params, z, method="decode"); the sizes are Stable Diffusion's.

    channels: of each level. layers: residual blocks a level. latent: channels of a latent. groups: of the norms. scale:
    what latents are multiplied by to have a standard deviation near 1; `encode` and `decode` do not know it. dtype:
    that of the operands of convolutions and matrix products; parameters, norms and the residual path are float32.
    """

    channels: tuple[int, ...] = (128, 256, 512, 512)
    layers: int = 2
    latent: int = 4
    groups: int = 32
    scale: float = 0.18215
    dtype: Any = jnp.float32

    @property
    def factor(self) -> int:
        """How many pixels of height or width a latent stands for."""
        return 2 ** (len(self.channels) - 1)

    @nn.nowrap
    def init(self, key: Array) -> Any:  # type: ignore[override]
        """Parameters, as a plain dict of float32 arrays."""
        return super().init(key, jnp.zeros((1, self.factor, self.factor, 3)))

    def setup(self) -> None:
        self.encoder = Encoder(self.channels, self.layers, 2 * self.latent, self.groups, self.dtype)
        self.decoder = Decoder(self.channels, self.layers, self.groups, self.dtype)
        self.quant_conv = nn.Conv(2 * self.latent, (1, 1))
        self.post_quant_conv = nn.Conv(self.latent, (1, 1))

    def encode(self, x: Array) -> tuple[Array, Array]:
        """Images [B, H, W, 3] in [-1, 1] -> mean and standard deviation of the posterior, each [B, H/8, W/8, 4].

        H and W are multiples of `factor`, which is 8 for the published sizes.
        """
        mean, logvar = jnp.split(self.quant_conv(self.encoder(x)), 2, axis=-1)
        return mean, jnp.exp(jnp.clip(logvar, -30, 20) / 2)

    def decode(self, z: Array) -> Array:
        """Latents [B, h, w, 4] -> images [B, 8 h, 8 w, 3], in [-1, 1] but for what overshoots."""
        return self.decoder(self.post_quant_conv(z))

    def __call__(self, x: Array) -> Array:
        return self.decode(self.encode(x)[0])
