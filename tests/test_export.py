"""A sampler can be exported by jax.export: it draws without this package, in batches of any size."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import dit_jax as dj

PROGRAM = """
import sys
sys.modules["dit_jax"] = None  # what imports it fails
import jax, numpy as np
sampler = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
for size in (5, 2):
    rows = 10 * size + np.arange(size, dtype=np.int32)
    np.save(f"{sys.argv[2]}/{size}.npy", sampler.call(np.uint32([0, 7]), rows, rows % 10))
"""


@pytest.mark.heavy
def test_an_exported_sampler_draws_what_the_live_one_draws(tmp_path):
    streams = {"image": dj.streams.image((4, 4, 1), patch=2), "label": dj.streams.label(10)}
    model = dj.DiT(streams, width=16, depth=1, heads=1)
    params = model.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(1), x.shape, x.dtype), params)

    @jax.jit
    def sampler(seed, rows, labels):
        predict, guidance = functools.partial(model.apply, params), dj.classifier_free(1.5)
        key = jax.random.wrap_key_data(seed)
        return dj.sample(predict, streams, key, rows=rows, given={"label": labels}, guidance=guidance, steps=3)["image"]

    rows = jax.ShapeDtypeStruct(export.symbolic_shape("batch", constraints=["batch >= 1"]), jnp.int32)
    exported = export.export(sampler, platforms=("cpu",))(jax.ShapeDtypeStruct((2,), jnp.uint32), rows, rows)
    (tmp_path / "sampler").write_bytes(exported.serialize())
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "sampler"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    for size in (5, 2):
        rows = 10 * size + np.arange(size, dtype=np.int32)
        live = sampler(np.uint32([0, 7]), rows, rows % 10)
        np.testing.assert_allclose(np.load(tmp_path / f"{size}.npy"), live, atol=1e-6)
