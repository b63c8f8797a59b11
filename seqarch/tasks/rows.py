"""Rows of a probe, and the hashes that decide their splits."""

from typing import Any, NamedTuple, Self

import numpy as np

from seqarch.types import Bool, Int


class Rows(NamedTuple):
    """Rows as a probe draws them: tokens, targets, and whether a position is scored."""

    tokens: Int[np.ndarray, "B T"]
    targets: Int[np.ndarray, "B T"]
    scored: Bool[np.ndarray, "B T"]

    @classmethod
    def asking(cls, tokens: Int[np.ndarray, "B T"], where: Any, answers: np.ndarray) -> Self:
        """Returns rows that are scored at some positions alone.

        Args:
          tokens: of the rows.
          where: the positions, as an index of `tokens`.
          answers: the targets there.
        """
        targets, scored = np.zeros_like(tokens), np.zeros(tokens.shape, bool)
        targets[where], scored[where] = answers, True
        return cls(tokens, targets, scored)


class HeldOut(NamedTuple):
    """The data of a probe's split.

    name: of the split
    tokens: `seqarch.tasks.probe.HELD_OUT_ROWS` rows, one after the other
    boundary: -1, since no token begins a document
    """

    name: str
    tokens: Int[np.ndarray, "n"]
    boundary: int = -1


def row_hashes(tokens: Int[np.ndarray, "B T"]) -> np.ndarray:
    """Returns a hash of 64 bits for each row, which is the same on every machine.

    It is a random linear map mod 2^64, followed by the finalizer of splitmix64.

    Source: Steele et al. 2014, "Fast splittable pseudorandom number generators".
    """
    weights = _splitmix(np.arange(1, 1 + tokens.shape[1], dtype=np.uint64)) | np.uint64(1)
    return _splitmix((tokens.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64))


def _splitmix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
