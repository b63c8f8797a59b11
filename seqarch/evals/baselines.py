"""Two reference points, fitted on all training works: an n-gram model over bytes, and xz.

    for name, evaluator in BASELINES.items():
        splits = open_split(directory, "train"), open_split(directory, "validation")
        found = list(evaluator(*splits, limit=limit))

Each document is scored from its own start, as models score it, and in bytes, whatever the models'
tokens are; bits per byte is total bits over total bytes. Of a large corpus the end of the training
split is used; the fact "train_bytes" says how many bytes.
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
TRAIN_BYTES = 1 << 28  # read by a baseline at most, boundaries included
MAX_CONTEXT = 6  # bytes; VOCAB ** (MAX_CONTEXT + 1) still fits a signed 64-bit key


class Order(NamedTuple):
    """Counts of the grams of one order.

    Attributes:
      grams: sorted distinct keys.
      before: sum of the counts of all grams before each one, and of all grams at the end.
      discount: what is taken from each count.
    """

    grams: Int[np.ndarray, "G"]
    before: Int[np.ndarray, "G+1"]
    discount: float


class NGram(NamedTuple):
    """An interpolated Kneser-Ney model over bytes.

        p_j(c | h) = (max(n(h c) - d_j, 0) + d_j |{c' : n(h c') > 0}| p_{j-1}(c | h')) / n(h)
        p_{-1} = 1 / 256

    with h' = h without its oldest byte; an unseen h gives p_{j-1}. n counts occurrences at the
    highest order, and at the lower ones the distinct tokens seen before a gram; d_j = n_1 / (n_1 +
    2 n_2), from the numbers of grams counted once and twice (1/2 where none was counted once).
    Nothing is fitted on held-out text. Boundaries stand before a document's first byte. The
    distribution is over the 256 bytes and sums to one: a boundary is never predicted.

    Source: Kneser and Ney 1995; the interpolated form of Chen and Goodman 1998.
    """

    orders: tuple[Order, ...]

    @classmethod
    def fit(cls, tokens: Int[np.ndarray, "T"], context: int, block: int = 1 << 22) -> "NGram":
        """Returns the model of a training text.

        Args:
          tokens: the training text, with boundaries.
          context: bytes of context at most, 0 to MAX_CONTEXT.
          block: tokens that are counted at once; memory is that of the tables and of one block.

        Raises:
          UserError: where `context` is out of range.
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
            both = np.concatenate([grams, new]), np.concatenate([counts, new_counts])
            grams, counts = _tally(*both)
        orders = [_order(grams, counts)]
        for order in range(context, 0, -1):
            grams, counts = np.unique(grams % VOCAB**order, return_counts=True)
            orders.insert(0, _order(grams, counts))
        return cls(tuple(orders))

    @property
    def nbytes(self) -> int:
        """Bytes of the tables."""
        return sum(order.grams.nbytes + order.before.nbytes for order in self.orders)

    def __call__(self, text: Int[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
        """Returns the probability of each byte of a document given those before it."""
        keys = _keys(np.concatenate([[BOUNDARY], text]), len(self.orders) - 1)[1:]
        p = np.full(len(text), 1 / 256)
        for j, (grams, before, discount) in enumerate(self.orders):
            gram = keys % VOCAB ** (j + 1)
            history = gram - gram % VOCAB
            i = np.searchsorted(grams, gram)
            first, last = (np.searchsorted(grams, key) for key in (history, history + VOCAB))
            seen = grams[np.minimum(i, len(grams) - 1)] == gram
            counted = before[np.minimum(i + 1, len(grams))] - before[i]
            count = np.where(seen, counted - discount, 0.0)
            total = before[last] - before[first]
            mixed = (count + discount * (last - first) * p) / np.maximum(total, 1)
            p = np.where(total > 0, mixed, p)
        return p


def ngram(train: TokenFile, held_out: TokenFile, *, context: int, limit: int = 0) -> Found:
    """Yields the quality of an n-gram model, and the bytes of its tables.

    Args:
      train: the text that it is fitted on.
      held_out: the text that is scored.
      context: bytes of context.
      limit: bytes of each held-out document that are scored, from its beginning; 0 for all.
    """
    tokens = train.last_symbols(TRAIN_BYTES)
    model, bits = NGram.fit(tokens, context), {}
    for document in held_out.documents:
        probabilities = model(held_out.read(document, limit))
        bits[document.name] = float(-np.log2(probabilities).sum())
    yield from _quality(bits, held_out, limit)
    yield Record("memory", "params_bytes", model.nbytes)
    yield Fact("quality", "train_bytes", int(np.count_nonzero(tokens != BOUNDARY)))


def xz(train: TokenFile, held_out: TokenFile, *, limit: int = 0) -> Found:
    """Yields the quality of LZMA2 at xz's strongest preset, given the training works.

    A document takes |xz(train document)| - |xz(train)| bytes of the raw stream, without xz's
    container. The dictionary covers the training text, which is therefore the memory. Each document
    costs a compression of that text, so TRAIN_BYTES bounds what all of them read together.

    Args:
      train: the text that stands before each document.
      held_out: the text that is scored.
      limit: bytes of each held-out document that are scored, from its beginning; 0 for all.
    """
    tokens = train.last_symbols(TRAIN_BYTES // (1 + len(held_out.documents)))
    text = tokens[tokens != BOUNDARY].astype(np.uint8).tobytes()
    parts = [b"", *(held_out.read(doc, limit).tobytes() for doc in held_out.documents)]
    window = max(4096, len(text) + max(map(len, parts)))  # 4096 is liblzma's smallest
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": window}]

    def compressed_bytes(part: bytes) -> int:
        return len(lzma.compress(text + part, lzma.FORMAT_RAW, filters=filters))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        alone, *sizes = pool.map(compressed_bytes, parts)
    documents = zip(held_out.documents, sizes, strict=True)
    bits = {document.name: 8 * (size - alone) for document, size in documents}
    yield from _quality(bits, held_out, limit)
    yield Record("memory", "params_bytes", len(text))
    yield Fact("quality", "train_bytes", len(text))


BASELINES: dict[str, Callable[..., Found]] = {
    "ngram-0": partial(ngram, context=0),
    "ngram-2": partial(ngram, context=2),
    "ngram-5": partial(ngram, context=5),
    "xz": xz,
}


def _keys(tokens: Int[np.ndarray, "T"], context: int) -> Int[np.ndarray, "T"]:
    """Returns the gram that ends at each token, as a number in base VOCAB.

    The token is the last digit, and older ones stand before it. What lies before a document's
    boundary reads as boundaries.
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
    """Returns sorted distinct keys and the sums of their counts."""
    by_key = np.argsort(keys, kind="stable")
    keys, counts = keys[by_key], counts[by_key]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[first], np.add.reduceat(counts, first)


def _order(grams: Int[np.ndarray, "G"], counts: Int[np.ndarray, "G"]) -> Order:
    once, twice = int((counts == 1).sum()), int((counts == 2).sum())
    discount = once / (once + 2 * twice) if once else 0.5
    return Order(grams, np.concatenate([[0], np.cumsum(counts)]), discount)


def _quality(bits: dict[str, float], held_out: TokenFile, limit: int) -> Found:
    """Yields the quality of a baseline from the bits that it needs for each document."""
    sizes = {doc.name: len(held_out.read(doc, limit)) for doc in held_out.documents}
    documents = {"document": list(bits)}
    yield Record("quality", "bits_per_byte", sum(bits.values()) / sum(sizes.values()), n=len(bits))
    yield Record("quality", "bytes", sum(sizes.values()))
    scores = [bits[name] / sizes[name] for name in bits]
    yield Record("quality", "document_bits_per_byte", scores, documents)
    yield Record("quality", "document_bytes", list(sizes.values()), documents)
