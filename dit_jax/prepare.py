"""python -m dit_jax.prepare NAME [--data_dir=DIR]: build a data set.

python -m dit_jax.prepare imagenet256 --source=DIR --vae=FILE encodes a folder of images, with one subfolder a class, as
latents; any name will do. The same command again goes on after the last complete shard. In a job of several processes,
with --distributed, each encodes its share of the shards.
"""

import os
import re
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dit_jax.command import run_command
from dit_jax.data import latents
from dit_jax.data.folder import Folder, split_folders
from dit_jax.data.sources import BUILDERS, DATA_DIR, find, prepare
from dit_jax.network.vae import VAE
from dit_jax.parallel import hosts
from dit_jax.parallel.mesh import AXES, BATCH
from dit_jax.pretrained.vae import fingerprint, load
from dit_jax.progress import progress
from dit_jax.schema import Local


def main(
    name: str,
    data_dir: Annotated[Local, "where data sets live"] = DATA_DIR,
    source: Annotated[Local, "a folder with one subfolder of images a class, to encode as latents"] = "",
    vae: Annotated[Local, "safetensors of a Stable Diffusion VAE, as in diffusers, to encode them with"] = "",
    split: Annotated[str, "which split these images are (default: train)"] = "",
    size: Annotated[int, "height and width to crop them to (default: 256)"] = 0,
    batch: Annotated[int, "images that a process encodes at once (default: 32 for each device)"] = 0,
    distributed: Annotated[str, hosts.FLAG] = "",
) -> None:
    """Build the data set `name`: one of sources.BUILDERS or, of a folder of images, whatever its latents are called."""
    flags = {"source": source, "vae": vae, "split": split, "size": size, "batch": batch, "distributed": distributed}
    of_latents: dict[str, Any] = {flag: value for flag, value in flags.items() if value}
    start = time.perf_counter()
    if of_latents:
        encode_folder(name, data_dir, **of_latents)
    builder = find(name, data_dir) if of_latents else prepare(name, data_dir)
    counts = " + ".join(f"{split.num_examples:,} {name}" for name, split in builder.info.splits.items())
    print(f"{name}: {counts} examples in {builder.data_dir}, {time.perf_counter() - start:.1f} s")


def encode_folder(
    name: str,
    data_dir: str | os.PathLike,
    source: str | None = None,
    vae: str | None = None,
    split: str = "train",
    size: int = 256,
    batch: int | None = None,
    distributed: str | None = None,
) -> None:
    """Write the latents of a folder of images as one split of a data set, on all devices; the arguments are the flags.

    Raises ValueError for flags that do not suit each other, the VAE or what is there already, and OSError for a file or
    an image that cannot be read.
    """
    hosts.join(distributed or "")
    devices, process, processes = jax.local_device_count(), jax.process_index(), jax.process_count()
    batch = 32 * devices if batch is None else batch
    if name in BUILDERS:
        raise ValueError(f"{name} is made of its own files: it takes --data_dir only; give the latents another name")
    if source is None or vae is None:
        raise ValueError("latents need both --source=DIR, a folder of images, and --vae=FILE, what encodes them")
    if not all(re.fullmatch("[a-z][a-z0-9_]*", word) for word in (name, split)):
        raise ValueError(f"{name} and --split={split} have to be made of lower case letters, digits and _")
    if batch < 1 or batch % devices:
        raise ValueError(f"--batch={batch} does not divide among {devices} devices")
    model, params = load(vae)
    if size < 1 or size % model.factor:
        raise ValueError(f"--size={size} is no multiple of the {model.factor} pixels that this VAE makes a latent of")

    folder = Folder(split_folders(source).get(split, source), (size, size, 3))
    directory = Path(data_dir).expanduser() / name / latents.VERSION
    shape = [size // model.factor, size // model.factor, 2 * model.latent]
    made = {"vae": fingerprint(vae), "scale": model.scale, "size": size, "shape": shape}
    latents.begin(directory, split, folder, made, first=hosts.is_first())
    hosts.barrier("latents are begun")

    encode = compile_encoder(model, params, (batch, size, size, 3))
    counts = latents.write(directory, split, folder, encode, batch, part=(process, processes))
    there, start = next(counts), time.perf_counter()
    done = there
    with progress(sum(latents.lengths(len(folder))[process::processes]), there, "encoding") as show:
        for done in counts:
            show(done)
    print(f"encoded {done - there:,} images, {(done - there) / (time.perf_counter() - start):.3g} img/s")

    hosts.barrier("all shards are there")
    if hosts.is_first():
        latents.finish(directory, split)
    hosts.barrier("latents are finished")


def compile_encoder(model: VAE, params: Any, shape: tuple[int, ...]) -> latents.Encode:
    """For batches of this shape, split over the devices of this process: those of others have shards of their own."""
    mesh = Mesh(np.reshape(jax.local_devices(), (-1, *[1] * (len(AXES) - 1))), AXES)
    by_image, everywhere = NamedSharding(mesh, BATCH), NamedSharding(mesh, P())
    params = jax.device_put(params, everywhere)

    def posterior(params: Any, x: jax.Array) -> jax.Array:
        mean_and_std: Any = model.apply(params, x, method="encode")
        return jnp.concatenate(mean_and_std, -1).astype(jnp.float16)

    def posteriors(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return posterior(params, x), posterior(params, x[:, :, ::-1])

    with jax.default_matmul_precision("high"):  # float16 keeps 11 bits; this keeps no fewer on any device
        images = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=by_image)
        program = jax.jit(posteriors).lower(params, images).compile()
    return lambda x: program(params, jax.device_put(x, by_image))


if __name__ == "__main__":
    run_command(main)
