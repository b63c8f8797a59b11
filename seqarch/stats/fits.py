"""How memory grows with the context: exponents over the tail of a curve."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

TAIL = 4  # lengths, the longest ones, that an exponent is fitted to


class Exponent(NamedTuple):
    """b of bytes ~ length^b; half: half of the width of its 95 % confidence interval."""

    b: float
    half: float


class Growth(NamedTuple):
    """Root mean squares of what a line leaves of log(bytes): a line in log(length), and one in
    length.
    """

    power: float
    exponential: float


def exponent(lengths: Sequence[int], values: Sequence[float]) -> Exponent | None:
    """The least-squares slope of log(value) against log(length) over the last TAIL points; None for
    fewer than three.

    Its interval is Student's, and as narrow as points on one line make it: it tells of curvature,
    not of noise.
    """
    points = sorted((n, v) for n, v in zip(lengths, values, strict=True) if v > 0)[-TAIL:]
    if len(points) < 3:
        return None
    x, y = np.log(np.array(points, float)).T
    slope, left = _line(x, y)
    error = math.sqrt((left**2).sum() / (len(points) - 2) / ((x - x.mean()) ** 2).sum())
    return Exponent(slope, float(special.stdtrit(len(points) - 2, 0.975) * error))


def growth(lengths: Sequence[int], values: Sequence[float]) -> Growth:
    """How far a curve is from a power of the length and from an exponential of it, over all its
    points.
    """
    x, y = np.array(lengths, float), np.log(values)
    return Growth(*(float(np.sqrt((_line(along, y)[1] ** 2).mean())) for along in (np.log(x), x)))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The least-squares slope of y against x, and what the line leaves of y."""
    x, y = x - x.mean(), y - y.mean()
    slope = (x * y).sum() / (x * x).sum()
    return float(slope), y - slope * x
