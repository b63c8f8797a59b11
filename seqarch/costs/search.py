"""The largest size that fits a memory, by bisection between measured sizes."""

import itertools
import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from seqarch.errors import UserError

LINE, POWER, MIDDLE = range(3)  # ways to propose the next size
STEPS = 16  # sizes to a factor of two that are tried, so that the largest that fits is known to 6 %


class Largest(NamedTuple):
    """size: the largest that fits, 0 for none; beyond: the smallest known not to; None where even
    the last one tried fits.
    """

    size: int
    beyond: int | None


def largest(
    total: Callable[[int], float | None],
    memory: float,
    known: Mapping[int, float | None],
    last: int,
) -> Largest:
    """The largest size of at most `last` whose total is at most `memory`, by bisection between
    sizes on a grid of STEPS.

    total: of a size, measured; None where it has none, which counts as too large
    known: sizes that are measured already, and 0 with what is there without any. A line through the
    nearest totals proposes where to cut, and how far to look ahead: what is far too large takes
    compilers longest. Each proposal is measured, so a total that is no line costs more
    measurements, not a wrong answer.
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
    """The grid's first size at which a line through the last two totals exceeds `memory`; `last`
    where none does.
    """
    points = sorted(found.items())[-2:]
    if len(points) < 2 or None in (points[0][1], points[1][1]) or points[0][1] >= points[1][1]:
        return last
    (a, below), (b, above) = points
    return on_grid(min(b + (b - a) * (memory - above) / (above - below), last), 1)


def on_grid(size: float, steps: int = 0) -> int:
    """The grid's size at or below `size`, or so many steps from it; below STEPS it is every
    integer.
    """
    grain = 2 ** max(0, math.floor(math.log2(max(size, 1))) - int(math.log2(STEPS)))
    if steps < 0 and size == 2 ** math.floor(math.log2(size)):
        grain = max(1, grain // 2)
    return max(
        1,
        (math.ceil(size / grain) if steps < 0 else math.floor(size / grain)) * grain
        + steps * grain,
    )


def _proposal(
    low: int, high: int, found: Mapping[int, float | None], memory: float, kind: int
) -> float:
    """Where a line, or a power law, through the totals at both ends meets `memory`, or the
    middle.
    """
    above, below = found[high], found[low]
    if kind == MIDDLE or above is None or not 0 < below < above:
        return math.sqrt(low * high)
    if kind == POWER:
        return low * (high / low) ** (math.log(memory / below) / math.log(above / below))
    return low + (high - low) * (memory - below) / (above - below)


def parse_length(text: str) -> int:
    """A length from a flag; raises UserError for what is no number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise UserError(
            f"--lengths has {text!r}; give numbers of tokens of at least 1, separated by commas"
        )
    return int(text)
