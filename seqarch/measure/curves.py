"""How memory grows with the context: exponents over the tail of a curve, and the largest size that fits."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from seqarch.errors import UserError

TAIL = 4  # lengths, the longest ones, that an exponent is fitted to
LINE, POWER, MIDDLE = range(3)  # ways to propose the next size
STEPS = 16  # sizes to a factor of two that are tried, so that the largest that fits is known to 6 %


class Exponent(NamedTuple):
    """b of bytes ~ length^b; half: half of the width of its 95 % confidence interval."""

    b: float
    half: float

    def __str__(self) -> str:
        return f"{abs(self.b) if abs(self.b) < 0.005 else self.b:.2f} ± {self.half:.2f}"


class Growth(NamedTuple):
    """Root mean squares of what a line leaves of log(bytes): a line in log(length), and one in length."""

    power: float
    exponential: float


class Largest(NamedTuple):
    """size: the largest that fits, 0 for none; beyond: the smallest known not to; None where even the last one tried fits."""

    size: int
    beyond: int | None


def exponent(lengths: Sequence[int], values: Sequence[float]) -> Exponent | None:
    """The least-squares slope of log(value) against log(length) over the last TAIL points; None for fewer than three.

    Its interval is Student's, and as narrow as points on one line make it: it tells of curvature, not of noise.
    """
    points = sorted((n, v) for n, v in zip(lengths, values, strict=True) if v > 0)[-TAIL:]
    if len(points) < 3:
        return None
    x, y = np.log(np.array(points, float)).T
    slope, left = _line(x, y)
    error = math.sqrt((left**2).sum() / (len(points) - 2) / ((x - x.mean()) ** 2).sum())
    return Exponent(slope, float(special.stdtrit(len(points) - 2, 0.975) * error))


def growth(lengths: Sequence[int], values: Sequence[float]) -> Growth:
    """How far a curve is from a power of the length and from an exponential of it, over all its points."""
    x, y = np.array(lengths, float), np.log(values)
    return Growth(*(float(np.sqrt((_line(along, y)[1] ** 2).mean())) for along in (np.log(x), x)))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The least-squares slope of y against x, and what the line leaves of y."""
    x, y = x - x.mean(), y - y.mean()
    slope = (x * y).sum() / (x * x).sum()
    return float(slope), y - slope * x


def largest(total: Callable[[int], float | None], memory: float, known: Mapping[int, float | None], last: int) -> Largest:
    """The largest size of at most `last` whose total is at most `memory`, by bisection between sizes on a grid of STEPS.

    total: of a size, measured; None where it has none, which counts as too large
    known: sizes that are measured already, and 0 with what is there without any. A line through the nearest totals proposes
    where to cut, and how far to look ahead: what is far too large takes compilers longest. Each proposal is measured, so a
    total that is no line costs more measurements, not a wrong answer.
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
    """The grid's first size at which a line through the last two totals exceeds `memory`; `last` where none does."""
    points = sorted(found.items())[-2:]
    if len(points) < 2 or None in (points[0][1], points[1][1]) or points[0][1] >= points[1][1]:
        return last
    (a, below), (b, above) = points
    return on_grid(min(b + (b - a) * (memory - above) / (above - below), last), 1)


def on_grid(size: float, steps: int = 0) -> int:
    """The grid's size at or below `size`, or so many steps from it; below STEPS it is every integer."""
    grain = 2 ** max(0, math.floor(math.log2(max(size, 1))) - int(math.log2(STEPS)))
    if steps < 0 and size == 2 ** math.floor(math.log2(size)):
        grain = max(1, grain // 2)
    return max(1, (math.ceil(size / grain) if steps < 0 else math.floor(size / grain)) * grain + steps * grain)


def _proposal(low: int, high: int, found: Mapping[int, float | None], memory: float, kind: int) -> float:
    """Where a line, or a power law, through the totals at both ends meets `memory`, or the middle."""
    above, below = found[high], found[low]
    if kind == MIDDLE or above is None or not 0 < below < above:
        return math.sqrt(low * high)
    if kind == POWER:
        return low * (high / low) ** (math.log(memory / below) / math.log(above / below))
    return low + (high - low) * (memory - below) / (above - below)


def parse_length(text: str) -> int:
    """A length from a flag; raises UserError for what is no number of at least 1."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise UserError(f"--lengths has {text!r}; give numbers of tokens of at least 1, separated by commas")
    return int(text)
