"""The largest size that fits a memory, by bisection between measured sizes."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

LINE, POWER, MIDDLE = range(3)  # how the next size is proposed
STEPS = 16  # sizes tried in each factor of two, so that the largest that fits is known to 6 %


class Largest(NamedTuple):
    """The largest size that fits.

    Attributes:
      size: it is 0 where none fits.
      beyond: the smallest size that is known not to fit; None where the last one still fits.
    """

    size: int
    beyond: int | None


def largest(
    total: Callable[[int], float | None],
    memory: float,
    known: Mapping[int, float | None],
    last: int,
) -> Largest:
    """Returns the largest size of at most `last` whose total is at most `memory`.

    Sizes lie on a grid of STEPS and are bisected. A line through the nearest totals proposes where
    to cut and how far to look ahead, since compilers are slowest for what is far too large. Each
    proposal is measured, so that a total which is no line costs more measurements but is not wrong.

    Args:
      total: measures a size; None counts as too large.
      memory: bytes that a size may need.
      known: totals by size that are measured already, and that of size 0.
      last: the largest size that is tried.
    """
    found = {size: value for size, value in known.items() if size <= last}
    kinds = itertools.cycle((LINE, POWER, LINE, MIDDLE))

    def fits(size: int) -> bool:
        if size not in found:
            found[size] = total(size)
        return found[size] is not None and found[size] <= memory

    low = max((size for size in found if fits(size)), default=0) or int(fits(1))
    if not low:
        return Largest(0, 1)
    high = min((size for size in found if size > low and not fits(size)), default=None)
    step = 1
    while high is None:
        if low == last:
            return Largest(last, None)
        ahead = min(max(_ahead(found, memory, last), on_grid(low, step)), last)
        low, high, step = (ahead, None, 2 * step) if fits(ahead) else (low, ahead, step)
    while (after := on_grid(low, 1)) < high:
        cut = on_grid(_proposal(low, high, found, memory, next(kinds)))
        cut = min(max(cut, after), on_grid(high, -1))
        low, high = (cut, high) if fits(cut) else (low, cut)
    return Largest(low, high)


def _ahead(found: Mapping[int, float | None], memory: float, last: int) -> int:
    """Returns the grid's first size at which a line through the last two totals exceeds `memory`.

    It is `last` where the line does not reach `memory`.
    """
    points = sorted(found.items())[-2:]
    if len(points) < 2 or None in (points[0][1], points[1][1]) or points[0][1] >= points[1][1]:
        return last
    (a, below), (b, above) = points
    return on_grid(min(b + (b - a) * (memory - above) / (above - below), last), 1)


def on_grid(size: float, steps: int = 0) -> int:
    """Returns the grid's size at or below `size`, or so many steps from it.

    The grid holds every integer below STEPS.
    """
    grain = 2 ** max(0, math.floor(math.log2(max(size, 1))) - int(math.log2(STEPS)))
    if steps < 0 and size == 2 ** math.floor(math.log2(size)):
        grain = max(1, grain // 2)
    rounded = math.ceil(size / grain) if steps < 0 else math.floor(size / grain)
    return max(1, (rounded + steps) * grain)


def _proposal(
    low: int, high: int, found: Mapping[int, float | None], memory: float, kind: int
) -> float:
    """Returns where a line or a power law through both ends meets `memory`, or the middle."""
    above, below = found[high], found[low]
    if kind == MIDDLE or above is None or not 0 < below < above:
        return math.sqrt(low * high)
    if kind == POWER:
        return low * (high / low) ** (math.log(memory / below) / math.log(above / below))
    return low + (high - low) * (memory - below) / (above - below)
