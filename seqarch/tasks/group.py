"""The word problem of a group: the product of all elements so far.

    tokens    b  a  a  c        elements of S3, A5, S5 or Z60, by number
    targets   b  ba baa baac    with labels=every; the last one alone with labels=end

Elements are random. Permutations are numbered in lexicographic order, 0 being the identity; in a
product the one that stands to the right is applied first. Chance: one in the number of elements.

S5 and A5 are not solvable, so their word problem is complete for NC1; Z60 is as large as A5 and
commutes. Z60 is also `modular_addition(modulus=60)`.

Source: Merrill et al. 2024, "The illusion of state in state-space models", and its code
(word-problem), which labels every position or the end. There rows of all lengths are trained on,
and a random fifth of the longest is held out; here rows have one length, and every position has a
label for the row that ends there. S3 is the smallest group that does not commute.
"""

import dataclasses
import functools
import itertools

import numpy as np

from seqarch.errors import unknown
from seqarch.tasks.running import RunningProduct
from seqarch.types import Int

GROUPS = ("S3", "A5", "S5", "Z60")


@dataclasses.dataclass(frozen=True)
class Group(RunningProduct):
    """The word problem of a group; further options are those of `RunningProduct`.

    Attributes:
      name: of the group: S3, A5, S5 or Z60.
    """

    name: str = "S3"

    def __post_init__(self):
        super().__post_init__()
        if self.name not in GROUPS:
            raise unknown("group", self.name, GROUPS)

    @property
    def vocab(self) -> int:
        return len(table(self.name))

    def products(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        product_of, found = table(self.name), tokens.copy()
        for t in range(1, self.length):
            found[:, t] = product_of[found[:, t - 1], tokens[:, t]]
        return found


@functools.cache
def table(name: str) -> Int[np.ndarray, "G G"]:
    """Returns the product of each two elements of the group `name`."""
    kind, size = name[0], int(name[1:])
    if kind == "Z":
        return np.add.outer(np.arange(size), np.arange(size)) % size
    elements = list(itertools.permutations(range(size)))
    if kind == "A":
        elements = [each for each in elements if is_even(each)]
    number = {element: index for index, element in enumerate(elements)}
    products = [[number[tuple(a[i] for i in b)] for b in elements] for a in elements]
    return np.array(products)


def is_even(permutation: tuple[int, ...]) -> bool:
    """Returns whether the number of pairs out of order is even."""
    return sum(a > b for a, b in itertools.combinations(permutation, 2)) % 2 == 0
