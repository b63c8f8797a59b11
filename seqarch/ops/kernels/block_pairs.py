"""The pairs of a block of queries and a block of keys that a kernel of attention visits.

A kernel has one turn for each pair, so that pairs of which nothing is visible cost nothing. Its
tables lie in the scalar memory of a TPU.
"""

from typing import NamedTuple

import numpy as np

WORDS = 2**17  # of tables; a TPU has scalar memory for twice as many
FIRST, LAST, NEW, OVER = 1, 2, 4, 8  # bits of `Pairs.edge`


class Pairs(NamedTuple):
    """Pairs of an outer and an inner block, in the order of their turns.

    Those of one outer block follow each other; those of one inner block do not.

    Attributes:
      outer: numbers of the outer blocks.
      inner: numbers of the inner blocks.
      edge: FIRST and LAST at the first and last turn of an outer block, NEW and OVER at those of an
        inner block.
      done: numbers of the inner blocks that were the last to be over; before the first of them,
        its number.
    """

    outer: np.ndarray
    inner: np.ndarray
    edge: np.ndarray
    done: np.ndarray


def visible_pairs(
    counts: tuple[int, int], size: int, causal: bool, window: int | None
) -> np.ndarray:
    """Returns the numbers of the blocks of queries and of keys of which some see some.

    Args:
      counts: numbers of blocks of queries and of keys.
      size: tokens of a block.
      causal: whether a query sees no later key, by the order of the tokens.
      window: tokens that a query sees, its own included, where it is causal; None: all.
    """
    ahead = size * (np.arange(counts[0])[:, None] - np.arange(counts[1])[None])
    seen = np.ones(counts, bool)
    if causal:
        seen &= ahead + size > 0
        if window is not None:
            seen &= ahead - size + 1 < window
    return np.argwhere(seen).astype(np.int32)


def order_pairs(outer: np.ndarray, inner: np.ndarray) -> Pairs:
    """Returns the tables of the pairs of some outer and inner blocks."""
    order = np.lexsort((inner, outer))
    outer, inner = outer[order], inner[order]
    edge = np.zeros(len(order), np.int32)
    for blocks, first, last in ((outer, FIRST, LAST), (inner, NEW, OVER)):
        edge[np.unique(blocks, return_index=True)[1]] |= first
        edge[len(order) - 1 - np.unique(blocks[::-1], return_index=True)[1]] |= last
    (over,) = np.nonzero(edge & OVER)
    latest = np.maximum(np.searchsorted(over, np.arange(len(order)), side="right") - 1, 0)
    return Pairs(outer, inner, edge, inner[over[latest]])
