"""The batches of tasks: rows of tokens, and the positions that are scored.

Logits are computed at scored positions alone, so a probe with few of them lists them.
"""

from fractions import Fraction
from typing import NamedTuple, Self

import numpy as np

from seqarch.types import Bool, Float, Int


class Batch(NamedTuple):
    """Rows of tokens.

    tokens: the inputs
    targets: the token to predict at each scored position; without meaning where the weight is 0
    starts: whether a token is the first of a packed document; None: each row is one document
    weights: of the loss at each scored position
    positions: the scored positions; None: all, so that Q is T
    source: what an encoder-decoder's encoder reads, then -1; None: there is no encoder
    """

    tokens: Int[np.ndarray, "B T"]
    targets: Int[np.ndarray, "B Q"]
    starts: Bool[np.ndarray, "B T"] | None
    weights: Float[np.ndarray, "B Q"]
    positions: Int[np.ndarray, "B Q"] | None = None
    source: Int[np.ndarray, "B S"] | None = None

    @classmethod
    def of_text(cls, windows: Int[np.ndarray, "B T+1"], boundary: int) -> Self:
        """Returns windows of packed documents, in which `boundary` begins a document."""
        windows = windows.astype(np.int32)
        tokens, targets = windows[:, :-1], windows[:, 1:]
        return cls(tokens, targets, tokens == boundary, np.ones(targets.shape, np.float32))

    def take(self, rows: slice | np.ndarray) -> Self:
        """Returns the chosen rows as a batch."""
        return type(self)(*(None if column is None else column[rows] for column in self))


class BatchLayout(NamedTuple):
    """Which arrays the batches of a task have.

    packed: whether a row may hold several documents; if not, there are no `starts`
    scored: the number Q of `positions`; None: all positions are scored, and none are listed
    source: the share of a row's tokens that are the `source` of an encoder-decoder; 0: none
    """

    packed: bool
    scored: int | None
    source: Fraction = Fraction(0)

    def columns(self, length: int) -> tuple[int, int]:
        """Returns the columns of the source and of the tokens, in rows of `length`."""
        source = int(length * self.source)
        return source, length - source


def select_scored(
    scored: Bool[np.ndarray, "B T"], count: int | None
) -> Int[np.ndarray, "B Q"] | None:
    """Returns `count` different positions of each row, the scored ones first; None for None."""
    if count is None:
        return None
    return np.argsort(~scored, axis=1, kind="stable")[:, :count].astype(np.int32)


def example_batch(window: Int[np.ndarray, "B T+1"], boundary: int, layout: BatchLayout) -> Batch:
    """Returns a batch of any tokens, with which train steps of a layout can be timed.

    Args:
      window: the tokens; each is predicted from those before it, but for those of a source.
      boundary: the token that begins a document.
      layout: of the batch; the first positions are scored.
    """
    columns, _ = layout.columns(window.shape[1] - 1)
    source, window = window[:, :columns] if columns else None, window[:, columns:]
    inputs, targets = window[:, :-1], window[:, 1:][:, : layout.scored]
    positions = None
    if layout.scored is not None:
        positions = np.broadcast_to(np.arange(layout.scored, dtype=np.int32), targets.shape)
    starts = inputs == boundary if layout.packed else None
    return Batch(inputs, targets, starts, np.ones(targets.shape, np.float32), positions, source)
