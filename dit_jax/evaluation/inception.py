"""InceptionV3 as FID has it (Szegedy et al. 2015, arXiv 1512.00567; the TensorFlow graph of 2015-12-05), in JAX.

Its three outputs are those of ADM's evaluator: `features`, the pooled 2,048 (pool_3), for FID, KID, precision and
recall; `spatial`, the first 7 channels of a 17 x 17 layer (mixed_6/conv), for sFID; `classes`, probabilities of 1,008
classes without the last layer's bias, for IS. The graph differs from torchvision's network: average pools do not count
their padding, and the pool of the last block takes maxima.

Weights are those that pytorch-fid and torch-fidelity ported, pt_inception-2015-12-05-6726825d.pth, whose sha256 begins
with 6726825d: of no others are scores called FID, sFID and IS.
"""

import functools
import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.pretrained import weights as files

SHA256 = "6726825d"  # how that of the published weights begins
FIX = "give pytorch-fid's pt_inception-2015-12-05-6726825d.pth"
SIZE = 299  # pixels, in which pictures are looked at
RESIZE = "bilinear without antialiasing to 299 x 299, corners aligned at (0, 0), as TensorFlow 1"
SPATIAL = "Mixed_6d", 7  # the block whose first convolution sFID is of, and how many of its channels

# Units of the stem, (stride, padding) of each; a max pool of stride 2 follows those in POOLED.
STEM = {
    "Conv2d_1a_3x3": (2, "VALID"),
    "Conv2d_2a_3x3": (1, "VALID"),
    "Conv2d_2b_3x3": (1, "SAME"),
    "Conv2d_3b_1x1": (1, "VALID"),
    "Conv2d_4a_3x3": (1, "VALID"),
}
POOLED = "Conv2d_2b_3x3", "Conv2d_4a_3x3"
BLOCKS = {"5b": "A", "5c": "A", "5d": "A", "6a": "B", "6b": "C", "6c": "C", "6d": "C", "6e": "C", "7a": "D"}
BLOCKS |= {"7b": "E", "7c": "E"}
# Branches of each kind of block: one unit after the other, and a|b side by side. A, C and E pool and convolve as well,
# with stride 1; the last unit of a branch has stride 2 in B and D, and so has their pool.
BRANCHES = {
    "A": ("1x1", "5x5_1 5x5_2", "3x3dbl_1 3x3dbl_2 3x3dbl_3"),
    "B": ("3x3", "3x3dbl_1 3x3dbl_2 3x3dbl_3"),
    "C": ("1x1", "7x7_1 7x7_2 7x7_3", "7x7dbl_1 7x7dbl_2 7x7dbl_3 7x7dbl_4 7x7dbl_5"),
    "D": ("3x3_1 3x3_2", "7x7x3_1 7x7x3_2 7x7x3_3 7x7x3_4"),
    "E": ("1x1", "3x3_1 3x3_2a|3x3_2b", "3x3dbl_1 3x3dbl_2 3x3dbl_3a|3x3dbl_3b"),
}
HALVING = "B", "D"

Weights = dict[str, tuple[np.ndarray, np.ndarray]]  # {unit: (kernel [height, width, in, out], bias [out])}


def load(path: str | Path) -> tuple[Weights, str]:
    """The weights in a file, .pth or .safetensors, and its sha256.

    Raises OSError if it is not there, ValueError for weights of another network.
    """
    file = files.find(path, fix=FIX)
    if file.suffix != ".safetensors" and not zipfile.is_zipfile(file):  # as torch before 1.6 wrote it
        state = files.read_legacy_torch(file)
    else:
        state = files.read(file, skip=[f"{unit}.bn.num_batches_tracked" for unit in _units()])
    try:
        weights = {unit: _folded(state, unit) for unit in _units()}
        weights["fc"] = state["fc.weight"].T, np.zeros(len(state["fc.weight"]), np.float32)
        found = jax.eval_shape(look, weights, jax.ShapeDtypeStruct((1, 8, 8, 3), np.uint8))
    except KeyError as error:
        raise ValueError(f"{file} has no {error}, and so is not FID's InceptionV3; {FIX}") from None
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{file} has arrays of other shapes than FID's InceptionV3 ({reason}); {FIX}") from None
    sizes = {name: output.shape[1] for name, output in found.items()}
    if sizes != {"features": 2048, "spatial": 17 * 17 * SPATIAL[1], "classes": 1008}:
        raise ValueError(f"{file} is an InceptionV3 with outputs of {sizes}; {FIX}")
    return weights, files.sha256(file)


def _units() -> list[str]:
    """Names of all convolutions."""
    found = [*STEM]
    for block, kind in BLOCKS.items():
        names = [unit for branch in BRANCHES[kind] for unit in re.split("[ |]", branch)]
        found += [f"Mixed_{block}.branch{unit}" for unit in (*names, *(() if kind in HALVING else ("_pool",)))]
    return found


def _folded(state: dict[str, np.ndarray], unit: str) -> tuple[np.ndarray, np.ndarray]:
    """A convolution and the batch norm after it, as one convolution with a bias."""
    kernel = state[f"{unit}.conv.weight"].transpose(2, 3, 1, 0)
    gain, shift, mean, variance = (
        state[f"{unit}.bn.{name}"].astype(np.float64) for name in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / np.sqrt(variance + 1e-3)
    return (kernel * scale).astype(np.float32), (shift - mean * scale).astype(np.float32)


@jax.jit
def look(weights: Weights, pictures: Array) -> dict[str, Array]:
    """uint8 pictures [k, height, width, 3] of any size -> features [k, 2048], spatial [k, 2023], classes [k, 1008]."""

    def unit(x: Array, name: str, stride: int = 1, padding: str = "SAME") -> Array:
        kernel, bias = map(jnp.asarray, weights[name])
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(x + bias)

    def halved(x: Array) -> Array:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")

    def block(x: Array, name: str, kind: str) -> Array:
        is_halving, found = kind in HALVING, []
        for branch in BRANCHES[kind]:
            *first, last = branch.split()
            h = functools.reduce(lambda h, one: unit(h, f"{name}.branch{one}"), first, x)
            how = (2, "VALID") if is_halving else (1, "SAME")
            found += [unit(h, f"{name}.branch{one}", *how) for one in last.split("|")]
        if is_halving:
            return jnp.concatenate([*found, halved(x)], -1)
        pooled = _largest(x) if name == "Mixed_7c" else _average(x)
        return jnp.concatenate([*found, unit(pooled, f"{name}.branch_pool")], -1)

    with jax.default_matmul_precision("float32"):  # a score should not depend on the device
        x = (resized(pictures.astype(jnp.float32), SIZE) - 128) / 128
        for name, how in STEM.items():
            x = unit(x, name, *how)
            x = halved(x) if name in POOLED else x
        for number, kind in BLOCKS.items():
            name = f"Mixed_{number}"
            if name == SPATIAL[0]:
                spatial = unit(x, f"{name}.branch1x1")[..., : SPATIAL[1]]
            x = block(x, name, kind)
        x = x.mean((1, 2))
        classes = jax.nn.softmax(x @ weights["fc"][0], axis=-1)
        return {"features": x, "spatial": spatial.reshape(len(x), -1), "classes": classes}


def resized(x: Array, size: int) -> Array:
    """[k, height, width, C] -> [k, size, size, C], as tf.image.resize_bilinear of TensorFlow 1: pixel i of the result
    is at i height / size of the picture, between two pixels, however many it steps over."""

    def matrix(length: int) -> np.ndarray:
        at = np.arange(size) * (length / size)
        low = np.floor(at).astype(int)
        high, share, found = np.minimum(low + 1, length - 1), at - low, np.zeros((size, length))
        np.add.at(found, (np.arange(size), low), 1 - share)
        np.add.at(found, (np.arange(size), high), share)
        return found.astype(np.float32)

    return jnp.einsum("ih,jw,khwc->kijc", matrix(x.shape[1]), matrix(x.shape[2]), x)


def _average(x: Array) -> Array:
    """Of 3 x 3 pixels, those of the padding not counted."""
    add = lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
    return add(x) / add(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _largest(x: Array) -> Array:
    """Of 3 x 3 pixels."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")
