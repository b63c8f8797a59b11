"""Windows of a token stream as training batches: any step's batch is a pure function of (seed,
step).

An epoch e cuts the stream into n windows of `length` + 1 tokens that overlap by one, from a phase
drawn for (seed, e), and visits them in a random order: every token but fewer than 2 `length` at the
ends is predicted once in an epoch.
"""

import functools
from collections.abc import Iterator

import grain
import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.base import Batch, share_of
from seqarch.tasks.text.tokens import in_vocabulary


def batches(
    tokens: np.ndarray,
    *,
    boundary: int,
    length: int,
    batch: int,
    seed: int,
    start: int = 0,
    process: int = 0,
    processes: int = 1,
) -> Iterator[Batch]:
    """Endless batches from step `start` on; process p of n gets the p-th n-th of the global batch's
    rows.

    Row r of step s is window s * batch + r whatever the number of processes. `boundary`: the
    vocabulary's last token. Raises UserError where the stream is shorter than a window, the batch
    does not divide among the processes, or a batch has a token that isn't in the vocabulary.
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
        return _read(tokens, offsets[rows], length, boundary)

    offsets = grain.MapDataset.range(windows).seed(seed).shuffle().repeat().map_with_index(offset)
    steps = offsets.batch(batch, drop_remainder=True).map(read)[start:]
    return iter(steps.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=8)))


def _cut(size: int, length: int) -> tuple[int, int]:
    """The number of windows of a stream of `size` tokens, and of the phases at which the first may
    begin.
    """
    pairs = size - 1  # of a token and its target
    windows = max(1, (pairs - length + 1) // length)
    return windows, min(length, pairs - windows * length + 1)


def _read(tokens: np.ndarray, offsets: np.ndarray, length: int, boundary: int) -> Batch:
    window = in_vocabulary(tokens[offsets[:, None] + np.arange(length + 1)], boundary).astype(
        np.int32
    )
    inputs = window[:, :-1]
    return Batch(inputs, window[:, 1:], inputs == boundary, np.ones(inputs.shape, np.float32))
