"""How heads of linear attention stand in the lanes of a TPU's registers.

Heads stand side by side, [B, T, H*K]. Heads of 64 channels come in pairs, which fill a register: a
pair's state is block-diagonal, and a product of one head has the other's lanes set to 0.
"""

import math
from typing import NamedTuple

from seqarch.ops.kernels import LANES

CHUNK = 128  # tokens of a chunk; the scores of 256 do not stay in registers
WIDEST = 1024  # the usual lanes of a turn of the grid
LARGEST = 2**18  # numbers in the states that a turn of the grid takes; a v4 has 16 MiB for all


class Layout(NamedTuple):
    """Heads in lanes, in units whose lanes fill whole registers.

    Attributes:
      heads: number H of heads.
      key, value: channels K and V of a head, 64 or a multiple of 128.
      sums: whether the state also has the sum of keys, in a register of its own behind the values.
      widest: lanes of keys or values that a turn of the grid takes, if units are not wider.
    """

    heads: int
    key: int
    value: int
    sums: bool
    widest: int = WIDEST

    @property
    def paired(self) -> int:
        """Heads of a unit."""
        return 1 if self.key % LANES == 0 == self.value % LANES else 2

    @property
    def keys(self) -> int:
        """Lanes of a unit's keys."""
        return self.paired * self.key

    @property
    def values(self) -> int:
        """Lanes of a unit's values, without the sums."""
        return self.paired * self.value

    @property
    def state(self) -> tuple[int, int]:
        """Shape of a unit's state."""
        return self.keys, self.values + LANES * self.sums

    @property
    def units(self) -> int:
        """Number of units."""
        return self.heads // self.paired

    @property
    def together(self) -> int:
        """Units that a turn of the grid takes."""
        most = min(self.widest // max(self.keys, self.values), LARGEST // math.prod(self.state))
        most = max(1, most)
        return max(size for size in range(1, most + 1) if self.units % size == 0)

    @property
    def turns(self) -> int:
        """Turns of the grid over the units."""
        return self.units // self.together

    @property
    def heads_together(self) -> int:
        """Heads that a turn of the grid takes."""
        return self.together * self.paired

    @property
    def rows(self) -> int:
        """Rows of numbers per head of a turn of the grid, in whole registers."""
        return self.heads_together + -self.heads_together % 8

    def lanes(self, unit: int) -> tuple[slice, slice]:
        """Returns the lanes of keys and of values of a unit in a turn of the grid."""
        keys = slice(unit * self.keys, (unit + 1) * self.keys)
        return keys, slice(unit * self.values, (unit + 1) * self.values)


def fits(heads: int, key: int, value: int) -> bool:
    """Returns whether heads of these channels fill registers, and a state the core's memory."""
    layout = Layout(heads, key, value, sums=True)
    whole = all(size == LANES // 2 or (size and size % LANES == 0) for size in (key, value))
    return whole and heads % layout.paired == 0 and math.prod(layout.state) <= LARGEST
