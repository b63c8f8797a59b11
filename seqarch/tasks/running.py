"""Running products, the base class of probes of state tracking.

    tokens    x1 x2     x3        x4
    targets   x1 x1·x2  x1·x2·x3  x1·x2·x3·x4        with labels=every
    targets   -  -      -         x1·x2·x3·x4        with labels=end

Tokens are elements of a group, each equally likely. A product depends on every token so far, so
that no window of tokens tells anything of it. Chance: one in the number of elements.
"""

import abc
import dataclasses
import math
from typing import ClassVar

import numpy as np

from seqarch.errors import UserError, unknown
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int

LABELS = ("every", "end")


@dataclasses.dataclass(frozen=True)
class RunningProduct(Probe):
    """A task whose answers are the products of all tokens so far.

    Attributes:
      length: tokens of a row.
      labels: "every" position is scored, or the "end".
      shortest: with labels=end, one position of each row is scored, and rows of a causal model end
        there: any from this number of tokens on. None: the last one.
    """

    ability: ClassVar[str] = "state tracking"
    length: int = 64
    labels: str = "every"
    shortest: int | None = None

    def __post_init__(self):
        if self.labels not in LABELS:
            raise unknown("labels of a task of state tracking", self.labels, LABELS)
        if self.shortest is not None and (self.labels == "every" or self.shortest > self.length):
            raise UserError(
                f"shortest={self.shortest} needs labels=end and a length of {self.shortest} or "
                f"more; labels is {self.labels}, length is {self.length}"
            )

    @abc.abstractmethod
    def products(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the product of the tokens up to each one."""

    @property
    def most_scored(self) -> int:
        return self.length if self.labels == "every" else 1

    @property
    def chance(self) -> float:
        return 1 / self.vocab

    @property
    def domain_bits(self) -> float:
        return self.length * math.log2(self.vocab)

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        tokens = rng.integers(self.vocab, size=(count, self.length))
        scored = np.full(tokens.shape, self.labels == "every")
        if self.labels == "end":
            ends = rng.integers((self.shortest or self.length) - 1, self.length, size=count)
            scored[np.arange(count), ends] = True
        return Rows(tokens, self.products(tokens), scored)

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        return self.products(tokens)

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens since the first, on which every product depends."""
        return np.broadcast_to(np.arange(self.length), tokens.shape)
