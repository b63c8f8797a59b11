"""Cuts a token stream into training batches, as a pure function of (seed, step).

An epoch e cuts the stream into n windows of `length` + 1 tokens that overlap by one, from a phase
drawn for (seed, e), and visits them in a random order. Every token is predicted once in an epoch,
except for fewer than 2 `length` at the ends.
"""

import functools
from collections.abc import Iterator

import grain
import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.base import share_of
from seqarch.tasks.batch import Batch
from seqarch.tasks.text.tokens import in_vocabulary


def batches(
    tokens: np.ndarray,
    *,
    boundary: int,
    length: int,
    batch: int,
    seed: int,
    vocab: int | None = None,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """Returns endless batches from a step on.

    Row r of step s is window s * batch + r, whatever the number of processes.

    Args:
      tokens: the stream.
      boundary: the token that begins a document.
      length: tokens of a row.
      batch: rows of the global batch.
      seed: of phases and order, in [0, 2^32).
      vocab: the number of tokens; None: the boundary is the last.
      start: the first step.
      process: the index of this process, which gets its share of each batch's rows.
      processes: the number of processes.

    Raises:
      UserError: where the stream is shorter than a window, the batch does not divide among the
        processes, or a batch has a token outside the vocabulary.
    """
    if len(tokens) <= length:
        raise UserError(
            f"{len(tokens)} tokens are fewer than length {length} + 1; give more text or a "
            "shorter length"
        )
    rows = share_of(batch, process, processes)
    if not 0 <= seed < 2**32:
        raise UserError(f"the data seed is {seed}; give a number in [0, 2^32)")
    windows, phases = _cut(len(tokens), length)

    @functools.cache
    def phase(epoch: int) -> int:
        return int(np.random.default_rng((seed, epoch)).integers(phases))

    def offset(index: int, window: int) -> int:
        return window * length + phase(index // windows)

    def read(offsets: np.ndarray) -> Batch:
        windows = tokens[offsets[rows][:, None] + np.arange(length + 1)]
        return Batch.of_text(in_vocabulary(windows, vocab or boundary + 1), boundary)

    offsets = grain.MapDataset.range(windows).seed(seed).shuffle().repeat().map_with_index(offset)
    steps = offsets.batch(batch, drop_remainder=True).map(read)[start:]
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


def _cut(size: int, length: int) -> tuple[int, int]:
    """Returns the numbers of windows in `size` tokens, and of places where the first may begin."""
    pairs = size - 1  # of a token and its target
    windows = max(1, (pairs - length + 1) // length)
    return windows, min(length, pairs - windows * length + 1)
