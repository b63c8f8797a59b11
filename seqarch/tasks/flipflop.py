"""The flip-flop language: a bit is written, other bits are ignored, and it is read.

    tokens    w 1 i 0 i 1 r 1 w 0 i 1 r 0        w: write, i: ignore, r: read
    targets   - - - - - - 1 - - - - - 0 -

Instructions and bits alternate. The first instruction is w, the last is r; the others are i with
probability `ignore`, and w or r with half of the rest each. Bits after w and i are random, one
after r is that of the last w. Each r is scored. Chance: one in two.

Source: Liu et al. 2023, "Exposing attention glitches with flip-flop language modeling". FFL(0.8) is
for training; by default a run is scored at 0.98 (few writes and reads), 0.8 and 0.1 (many) too.
There rows have 512 tokens, here 128, and the loss there is at every token.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int

WRITE, READ, IGNORE = 2, 3, 4  # tokens; 0 and 1 are the bits


@dataclasses.dataclass(frozen=True)
class FlipFlop(Probe):
    """The flip-flop language.

    Attributes:
      length: tokens of a row, an even number.
      ignore: the probability of i.
    """

    size: ClassVar[str] = "ignore"
    sizes: ClassVar[tuple[float, ...]] = (0.98, 0.8, 0.1)
    vocab: ClassVar[int] = 5
    length: int = 128
    ignore: float = 0.8

    def __post_init__(self):
        if self.length % 2 or self.length < 4:
            raise UserError(f"flipflop needs an even length of 4 or more; length is {self.length}")
        if not 0 <= self.ignore <= 1:
            raise UserError(f"flipflop needs an ignore in [0, 1]; ignore is {self.ignore}")

    @property
    def most_scored(self) -> int:
        return self.length // 2

    @property
    def chance(self) -> float:
        return 1 / 2

    @property
    def domain_bits(self) -> float:
        return self.length / 2 - 1

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        shape = (count, self.length // 2)
        other = rng.integers(WRITE, READ + 1, size=shape)
        instructions = np.where(rng.random(shape) < self.ignore, IGNORE, other)
        instructions[:, 0], instructions[:, -1] = WRITE, READ
        bits = rng.integers(2, size=shape)
        stored = np.take_along_axis(bits, _last_write(instructions), axis=1)
        reads = instructions == READ
        tokens = np.stack([instructions, np.where(reads, stored, bits)], axis=2)
        targets, scored = np.zeros(tokens.shape, int), np.zeros(tokens.shape, bool)
        targets[..., 0], scored[..., 0] = stored, reads
        return Rows(*(each.reshape(count, self.length) for each in (tokens, targets, scored)))

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        bit = np.minimum(_last_write(tokens) + 1, self.length - 1)
        return np.where(tokens == READ, np.take_along_axis(tokens, bit, axis=1), -1)

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the number of tokens from the stored bit."""
        return np.arange(self.length) - (_last_write(tokens) + 1)


def _last_write(tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
    """Returns the place of the last w up to each token."""
    places = np.where(tokens == WRITE, np.arange(tokens.shape[1]), 0)
    return np.maximum.accumulate(places, axis=1)
