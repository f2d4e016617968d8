"""Scores of text in bits a byte, whatever its tokens: the model's bound on held-out text, beside compressors and an
n-gram model, which is also a judge of what the model writes. A language model that has seen none of this is another."""

import dataclasses
import gzip
import itertools
import lzma
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from dit_jax.diffusion.keys import domain, example_keys
from dit_jax.diffusion.stream import generation_order, with_pasts
from dit_jax.evaluation.language_model import Reader
from dit_jax.parallel.hosts import on_host
from dit_jax.parallel.mesh import BATCH, shardings
from dit_jax.run import Run, SampleOptions
from dit_jax.sampling.draw import draw, equal_batches, gather

Judge = Callable[[np.ndarray], np.ndarray]

COMPRESSORS = {"gzip": lambda data: gzip.compress(data, 9), "xz": lambda data: lzma.compress(data, preset=9)}


def bound(
    run: Run, params: Any, mesh: Mesh, options: SampleOptions, name: str, texts: np.ndarray, draws: int = 4
) -> np.ndarray:
    """At most how many bits a token a model of this stream alone needs for each of the texts [n, L]: [n].

    Each is the mean of `draws` estimates that hide a random number of tokens (`Masked.corrupt_evenly`), in each block
    where the stream has a past.
    """
    process: Any = run.streams[name].process
    groups = generation_order(run.streams)[name].size
    total = draws * len(texts)
    params = jax.device_put(params, shardings(params, mesh))

    @jax.jit
    def cost(params, rows, x):
        keys = example_keys(domain(jax.random.key(options.seed), "bound"), rows)
        z, target, t = process.corrupt_evenly(keys, x, groups)
        sample = with_pasts(run.streams, {name: x}) | {name: z}
        levels = {k: jnp.zeros(len(x)) for k in sample} | {name: t}
        return process.loss(run.model.apply(params, sample, levels)[name], target, t) / np.log(2)

    costs = []
    for rows in equal_batches(total, options.batch, mesh):
        placed = jax.device_put((rows, texts[rows % len(texts)]), NamedSharding(mesh, BATCH))
        costs.append(on_host(cost(params, *placed)))
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


def in_rows(texts: list[bytes]) -> np.ndarray:
    """Texts, one after another, in as many rows of one length [n, L]: texts of one length as they are."""
    joined, length = np.frombuffer(b"".join(texts), np.uint8), sum(map(len, texts)) // len(texts)
    return joined[: len(texts) * length].reshape(len(texts), length)


def per_byte(bits: np.ndarray, lengths: np.ndarray) -> dict[str, float]:
    """Bits [n] of texts of so many bytes [n] -> all bits for all bytes, and the standard error of this over texts."""
    ratio = bits.sum() / lengths.sum()
    error = np.std(bits - ratio * lengths, ddof=1) / (np.sqrt(len(bits)) * lengths.mean())
    return {"bits_per_byte": float(ratio), "standard_error": float(error)}


def read_by(reader: Reader, sets: list[list[bytes]]) -> list[dict[str, float]]:
    """Of each set of as many texts, the bits a byte that they cost a language model, and the entropy of its own choice
    in their place. All are read at once, which is one program."""
    bits, own, lengths = (part.reshape(len(sets), -1).sum(1) for part in reader([*itertools.chain(*sets)]))
    names = "language_model_bits_per_byte", "language_model_entropy_per_byte"
    return [dict(zip(names, map(float, pair), strict=True)) for pair in zip(bits / lengths, own / lengths, strict=True)]


def score(
    run: Run,
    params: Any,
    mesh: Mesh,
    options: SampleOptions,
    real: dict[str, dict[str, np.ndarray]],
    name: str = "text",
    reader: Reader | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows {"what", "scores"} of real {split: {name: [n, L]}} tokens, and of what the run draws, given nothing.

    Held-out text: the bits a byte that it costs the model and an n-gram model, each with the standard error over texts,
    and compressors. Samples: the bits a byte that they cost the n-gram model, and the entropy of their words, which
    says whether they are cheap only because they repeat themselves; and if there is a language model that reads them,
    the bits a byte that they cost it, and the entropy of what it would write in their place. Beside as many held-out
    texts.
    """
    to_bytes: Any = run.streams[name].view.to_bytes
    tokens = real["test"][name]
    train, test = (in_rows(to_bytes(real[split][name])) for split in ("train", "test"))
    judge = ngram(train)
    bits, lengths = (
        bound(run, params, mesh, options, name, tokens) * tokens.shape[1],
        np.array([*map(len, to_bytes(tokens))]),
    )
    yield {"what": f"{len(test)} held-out texts, model", "scores": per_byte(bits, lengths)}
    scores = per_byte(judge(test).sum(1), np.full(len(test), test.shape[1]))
    yield {"what": f"{len(test)} held-out texts, 6-gram model", "scores": scores}
    for who, compress in COMPRESSORS.items():
        alone, after = compressed(compress, test, train)
        scores = {"bits_per_byte": alone, "after_training_text": after}
        yield {"what": f"{len(test)} held-out texts, {who}", "scores": scores}
    options = dataclasses.replace(options, given=())
    drawn = gather(draw(run, params, mesh, options))[name]
    alike = tokens[np.arange(len(drawn)) * len(tokens) // len(drawn)]
    said = [to_bytes(drawn), to_bytes(alike)]
    read: list[dict[str, float]] = [{}, {}] if reader is None else read_by(reader, said)
    protocols = {"samples": dataclasses.asdict(options), "held-out texts": {}}
    for (what, protocol), texts, costs in zip(protocols.items(), said, read, strict=True):
        rows = in_rows(texts)
        scores = {"judged_bits_per_byte": float(judge(rows).mean()), "word_entropy": entropy(rows), **costs}
        yield {"what": f"{len(texts)} {what}", **protocol, "scores": scores}
