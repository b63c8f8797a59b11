"""What the numbers mean: an interpolated byte n-gram model and xz, both given the training works.

    for name, evaluator in BASELINES.items():
        splits = open_split(directory, "train"), open_split(directory, "validation")
        found = list(evaluator(*splits, limit=limit))

Each document is scored from its own start, as by the models, and in bytes, whatever the models'
tokens are; bits per byte is total bits over total bytes. Of a large corpus the end of the training
split is used; the fact "train_bytes" says how much.
"""

import lzma
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from seqarch.errors import UserError
from seqarch.records import Fact, Record
from seqarch.tasks.text.tokenizer import BOUNDARY, VOCAB
from seqarch.tasks.text.tokens import TokenFile
from seqarch.types import Float, Int

Found = Iterator[Record | Fact]
TRAIN_BYTES = 1 << 28  # that a baseline reads at most, boundaries included
MAX_CONTEXT = 6  # VOCAB ** (MAX_CONTEXT + 1) still fits a signed 64-bit key


class Order(NamedTuple):
    """Counts of one order: sorted distinct keys of grams, and before each gram (and at the end) the
    sum of counts.
    """

    grams: Int[np.ndarray, "G"]
    before: Int[np.ndarray, "G+1"]
    discount: float


class NGram(NamedTuple):
    """Interpolated Kneser-Ney over bytes (Kneser and Ney 1995; the interpolated form of Chen and
    Goodman 1998).

        p_j(c | h) = (max(n(h c) - d_j, 0) + d_j |{c' : n(h c') > 0}| p_{j-1}(c | h')) / n(h)
        p_{-1} = 1 / 256

    with h' = h without its oldest byte; an unseen h gives p_{j-1}. n counts occurrences at the
    highest order, and at the lower ones the distinct tokens seen before a gram; d_j = n_1 / (n_1 +
    2 n_2), from the numbers of grams counted once and twice (1/2 where none was counted once).
    Nothing is fitted on held-out text. Before a document's first byte stand boundaries. The
    distribution is over the 256 bytes and sums to one: a boundary is never predicted.
    """

    orders: tuple[Order, ...]

    @classmethod
    def fit(cls, tokens: Int[np.ndarray, "T"], context: int, block: int = 1 << 22) -> "NGram":
        """The model with up to `context` bytes of context; memory is that of the tables and of one
        block of tokens.
        """
        if not 0 <= context <= MAX_CONTEXT:
            raise UserError(
                f"an n-gram context of {context} bytes is not possible; give 0 to {MAX_CONTEXT}"
            )
        grams, counts = np.empty(0, np.int64), np.empty(0, np.int64)
        for lo in range(0, len(tokens), block):
            seen = max(0, lo - context)
            keys = _keys(tokens[seen : lo + block], context)[lo - seen :]
            new, new_counts = np.unique(keys[keys % VOCAB != BOUNDARY], return_counts=True)
            grams, counts = _tally(
                np.concatenate([grams, new]), np.concatenate([counts, new_counts])
            )
        orders = [_order(grams, counts)]
        for order in range(context, 0, -1):
            grams, counts = np.unique(grams % VOCAB**order, return_counts=True)
            orders.insert(0, _order(grams, counts))
        return cls(tuple(orders))

    @property
    def nbytes(self) -> int:
        return sum(order.grams.nbytes + order.before.nbytes for order in self.orders)

    def __call__(self, text: Int[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
        """The probability of each byte of a document given those before it."""
        keys = _keys(np.concatenate([[BOUNDARY], text]), len(self.orders) - 1)[1:]
        p = np.full(len(text), 1 / 256)
        for j, (grams, before, discount) in enumerate(self.orders):
            gram = keys % VOCAB ** (j + 1)
            history = gram - gram % VOCAB
            i, first, last = (
                np.searchsorted(grams, key) for key in (gram, history, history + VOCAB)
            )
            seen = grams[np.minimum(i, len(grams) - 1)] == gram
            count = np.where(
                seen, before[np.minimum(i + 1, len(grams))] - before[i] - discount, 0.0
            )
            total = before[last] - before[first]
            p = np.where(
                total > 0, (count + discount * (last - first) * p) / np.maximum(total, 1), p
            )
        return p


def ngram(train: TokenFile, held_out: TokenFile, *, context: int, limit: int = 0) -> Found:
    """Quality of the n-gram model with `context` bytes of context, and the bytes of its tables.

    limit: bytes of each held-out document that are scored, from its beginning; 0 for all
    """
    tokens = train.last_symbols(TRAIN_BYTES)
    model = NGram.fit(tokens, context)
    bits = {
        doc.name: float(-np.log2(model(held_out.read(doc, limit))).sum())
        for doc in held_out.documents
    }
    yield from _quality(bits, held_out, limit)
    yield Record("memory", "params_bytes", model.nbytes)
    yield Fact("quality", "train_bytes", int(np.count_nonzero(tokens != BOUNDARY)))


def xz(train: TokenFile, held_out: TokenFile, *, limit: int = 0) -> Found:
    """Quality of LZMA2 at xz's strongest preset, conditioned on the training works: |xz(train doc)|
    - |xz(train)|.

    The raw stream is counted, without xz's container. The dictionary covers the training text,
    which is therefore the memory. Each document costs a compression of that text, so TRAIN_BYTES
    bounds what they read together.
    """
    tokens = train.last_symbols(TRAIN_BYTES // (1 + len(held_out.documents)))
    text = tokens[tokens != BOUNDARY].astype(np.uint8).tobytes()
    parts = [b"", *(held_out.read(doc, limit).tobytes() for doc in held_out.documents)]
    window = max(4096, len(text) + max(map(len, parts)))  # 4096 is liblzma's smallest
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": window}]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        alone, *sizes = pool.map(
            lambda part: len(lzma.compress(text + part, lzma.FORMAT_RAW, filters=filters)), parts
        )
    names = [doc.name for doc in held_out.documents]
    yield from _quality(
        {name: 8 * (size - alone) for name, size in zip(names, sizes)}, held_out, limit
    )
    yield Record("memory", "params_bytes", len(text))
    yield Fact("quality", "train_bytes", len(text))


BASELINES: dict[str, Callable[..., Found]] = {
    "ngram-0": partial(ngram, context=0),
    "ngram-2": partial(ngram, context=2),
    "ngram-5": partial(ngram, context=5),
    "xz": xz,
}


def _keys(tokens: Int[np.ndarray, "T"], context: int) -> Int[np.ndarray, "T"]:
    """The gram that ends at each token, as a number in base VOCAB: the token is its last digit,
    older ones go before.

    What lies before a document's boundary reads as boundaries.
    """
    tokens = tokens.astype(np.int64)
    keys, ended = tokens.copy(), np.zeros(len(tokens), bool)
    for age in range(1, context + 1):
        older = np.full(len(tokens), BOUNDARY)
        older[age:] = tokens[:-age]
        older[ended] = BOUNDARY
        ended |= older == BOUNDARY
        keys += older * VOCAB**age
    return keys


def _tally(
    keys: Int[np.ndarray, "G"], counts: Int[np.ndarray, "G"]
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted distinct keys and the sums of their counts."""
    by_key = np.argsort(keys, kind="stable")
    keys, counts = keys[by_key], counts[by_key]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.add.reduceat(counts, first)


def _order(grams: Int[np.ndarray, "G"], counts: Int[np.ndarray, "G"]) -> Order:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    return Order(
        grams, np.concatenate([[0], np.cumsum(counts)]), once / (once + 2 * twice) if once else 0.5
    )


def _quality(bits: dict[str, float], held_out: TokenFile, limit: int) -> Found:
    """From the bits that each document takes."""
    sizes = {doc.name: len(held_out.read(doc, limit)) for doc in held_out.documents}
    documents = {"document": list(bits)}
    yield Record("quality", "bits_per_byte", sum(bits.values()) / sum(sizes.values()), n=len(bits))
    yield Record("quality", "bytes", sum(sizes.values()))
    yield Record(
        "quality", "document_bits_per_byte", [bits[name] / sizes[name] for name in bits], documents
    )
    yield Record("quality", "document_bytes", list(sizes.values()), documents)
