"""Operations are counted exactly: the published GMACs of DiT (arXiv 2212.09748, table 4) are two halves of ours."""

import jax
import jax.numpy as jnp
import pytest

import dit_jax as dj
from dit_jax.network.dit import SIZES
from dit_jax.training.flops import matmul_flops


@pytest.mark.parametrize(("size", "gmacs"), [("S", 6.06), ("B", 23.0), ("L", 80.7), ("XL", 118.6)])
def test_published_sizes(size, gmacs):
    streams = {"image": dj.streams.image((32, 32, 4), patch=2), "label": dj.streams.label(1000)}
    width, depth, heads = SIZES[size]
    model = dj.DiT(streams, width=width, depth=depth, heads=heads)
    x = {"image": jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32), "label": jax.ShapeDtypeStruct((1,), jnp.int32)}
    t = {name: jax.ShapeDtypeStruct((1,), jnp.float32) for name in x}
    flops = matmul_flops(model.apply, jax.eval_shape(model.init, jax.random.key(0)), x, t)
    assert flops / 2e9 == pytest.approx(gmacs, rel=0.01)


def test_attention_in_a_kernel_counts_as_its_products_do(monkeypatch):
    """cuDNN's, which can be traced without a GPU."""
    model = dj.DiT({"image": dj.streams.image((32, 32, 4), patch=2)}, width=64, depth=3, heads=2, dtype=jnp.bfloat16)
    x, t = (
        {"image": jax.ShapeDtypeStruct((2, 32, 32, 4), jnp.float32)},
        {"image": jax.ShapeDtypeStruct((2,), jnp.float32)},
    )
    params = jax.eval_shape(model.init, jax.random.key(0))
    counted = matmul_flops(model.apply, params, x, t)
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)
    monkeypatch.setattr("dit_jax.network.layers.has_kernel", lambda q: True)
    assert "dot_product_attention_fwd" in str(jax.make_jaxpr(model.apply)(params, x, t))
    assert matmul_flops(model.apply, params, x, t) == counted


def test_loops_products_and_transposes_by_hand():
    def function(x, w):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=5)
        return jnp.einsum("bi,bi->b", x, x).sum()

    x, w = jnp.ones((3, 4)), jnp.ones((4, 4))
    forward = 5 * 2 * 3 * 4 * 4 + 2 * 3 * 4
    assert matmul_flops(function, x, w) == forward
    assert matmul_flops(jax.checkpoint(function), x, w) == forward
