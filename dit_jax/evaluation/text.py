"""Scores of text in bits a byte: the model's bound on held-out text, beside compressors and an n-gram model, which is
also the judge of what the model writes."""

import dataclasses
import gzip
import lzma
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from dit_jax.diffusion.keys import example_keys
from dit_jax.diffusion.stream import order, with_copies
from dit_jax.evaluation.draw import draw, equal_batches, gather
from dit_jax.parallel.mesh import BATCH, shardings
from dit_jax.run import Run, Sample

Judge = Callable[[np.ndarray], np.ndarray]

COMPRESSORS = {"gzip": lambda data: gzip.compress(data, 9), "xz": lambda data: lzma.compress(data, preset=9)}


def bound(run: Run, params: Any, mesh: Mesh, how: Sample, name: str, texts: np.ndarray, draws: int = 4) -> np.ndarray:
    """At most how many bits a token a model of this stream alone needs for each of the texts [n, L]: [n].

    Each is the mean of `draws` estimates that hide a random number of tokens (`Masked.corrupt_evenly`), in each block
    where the stream has a past.
    """
    process: Any = run.streams[name].process
    groups = order(run.streams)[name].size
    total = draws * len(texts)
    params = jax.device_put(params, shardings(params, mesh))

    @jax.jit
    def cost(params, rows, x):
        z, target, t = process.corrupt_evenly(example_keys(jax.random.key(how.seed), rows), x, groups)
        sample = with_copies(run.streams, {name: x}) | {name: z}
        levels = {k: jnp.zeros(len(x)) for k in sample} | {name: t}
        return process.loss(run.model.apply(params, sample, levels)[name], target, t) / np.log(2)

    costs = []
    for rows in equal_batches(total, how.batch, mesh):
        placed = jax.device_put((rows, texts[rows % len(texts)]), NamedSharding(mesh, BATCH))
        costs.append(np.asarray(cost(params, *placed)))
    return np.concatenate(costs)[:total].reshape(draws, -1).mean(0)


def compressed(compress: Callable[[bytes], bytes], texts: np.ndarray, known: np.ndarray) -> tuple[float, float]:
    """Bits a byte of texts [n, L] as one: alone, and as what they add to the known ones [m, L] before them."""
    alone, before = (texts.astype(np.uint8).tobytes(), known.astype(np.uint8).tobytes())
    added = len(compress(before + alone)) - len(compress(before))
    return 8 * len(compress(alone)) / texts.size, 8 * added / texts.size


def ngram(texts: np.ndarray, order: int = 6) -> Judge:
    """A byte model trained on texts [n, L]: texts [k, L] -> bits of each of their bytes, [k, L], given those before it.

    It mixes the orders 1 ... `order`, at most 8, as Witten & Bell (1991): of c occurrences of a context, which d
    different bytes have followed, p(byte) = (count + d p(byte | shorter context)) / (c + d); order 0 is uniform.
    """
    tables = []
    for n in range(1, min(order, texts.shape[1]) + 1):
        grams, counts = np.unique(_grams(texts, n), return_counts=True)
        contexts, first = np.unique(grams >> 8, return_index=True)  # sorted, because grams are
        different = np.diff(first, append=len(grams))
        tables.append(((grams, counts), (contexts, np.add.reduceat(counts, first)), (contexts, different)))

    def bits(texts: np.ndarray) -> np.ndarray:
        p = np.full(texts.shape, 1 / 256)
        for n, (bytes_after, occurrences, kinds) in enumerate(tables, start=1):
            here = _grams(texts, n)
            count, c, d = _look(here, *bytes_after), _look(here >> 8, *occurrences), _look(here >> 8, *kinds)
            shorter = p[:, n - 1 :]
            p[:, n - 1 :] = np.where(c > 0, (count + d * shorter) / np.maximum(c + d, 1), shorter)
        return -np.log2(p)

    return bits


def _grams(texts: np.ndarray, n: int) -> np.ndarray:
    """The n bytes up to each place of texts [k, L] as one integer, the last byte lowest: [k, L - n + 1]."""
    windows = np.lib.stride_tricks.sliding_window_view(texts.astype(np.uint64), n, axis=1)
    return np.bitwise_or.reduce(windows << np.arange(8 * (n - 1), -1, -8, dtype=np.uint64), axis=-1)


def _look(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The values of the wanted keys, which are sorted, and 0 for those that are not there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def entropy(texts: np.ndarray) -> float:
    """Of the words of texts [n, L], in bits a word: text that repeats itself has little. Compare equally long texts."""
    words = b"\n".join(row.tobytes() for row in texts.astype(np.uint8)).split()
    _, counts = np.unique(words, return_counts=True)
    share = counts / counts.sum()
    return float(-np.sum(share * np.log2(share)))


def score(
    run: Run, params: Any, mesh: Mesh, how: Sample, real: dict[str, dict[str, np.ndarray]], name: str = "text"
) -> Iterator[dict[str, Any]]:
    """Rows {"what", "scores"} of real {split: {name: [n, L]}} bytes, and of what the run draws, given nothing.

    Held-out text: the bits a byte that it costs the model and an n-gram model, each with the standard error over texts,
    and compressors. Samples: the bits a byte that they cost the n-gram model, and the entropy of their words, which
    says whether they are cheap only because they repeat themselves; beside as many held-out texts.
    """
    train, test = (real[split][name] for split in ("train", "test"))
    judge = ngram(train)
    for who, costs in (("model", bound(run, params, mesh, how, name, test)), ("6-gram model", judge(test).mean(1))):
        error = costs.std(ddof=1) / np.sqrt(len(costs))
        scores = {"bits_per_byte": float(costs.mean()), "standard_error": float(error)}
        yield {"what": f"{len(test)} held-out texts, {who}", "scores": scores}
    for who, compress in COMPRESSORS.items():
        alone, after = compressed(compress, test, train)
        scores = {"bits_per_byte": alone, "after_training_text": after}
        yield {"what": f"{len(test)} held-out texts, {who}", "scores": scores}
    how = dataclasses.replace(how, given=())
    drawn = gather(draw(run, params, mesh, how))[name]
    alike = test[np.arange(len(drawn)) * len(test) // len(drawn)]
    for what, texts, protocol in (("samples", drawn, dataclasses.asdict(how)), ("held-out texts", alike, {})):
        scores = {"judged_bits_per_byte": float(judge(texts).mean()), "word_entropy": entropy(texts)}
        yield {"what": f"{len(texts)} {what}", **protocol, "scores": scores}
