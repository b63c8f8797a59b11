"""Fits of power laws, and of curves of bytes against length: their exponent and their growth."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

TAIL = 4  # number of the longest lengths, which an exponent is fitted to


class Exponent(NamedTuple):
    """The exponent of a power law, y ~ x^b.

    Attributes:
      b: the exponent.
      half: half of the width of its 95 % confidence interval.
    """

    b: float
    half: float


class Growth(NamedTuple):
    """How far log(bytes) is from a line: root mean squares of the residuals.

    Attributes:
      power: those of a line in log(length).
      exponential: those of a line in length.
    """

    power: float
    exponential: float


def exponent(lengths: Sequence[int], values: Sequence[float]) -> Exponent | None:
    """Returns the least-squares slope of log(value) against log(length) over the last TAIL points.

    Its interval is Student's. It is as narrow as points on one line make it, so that it shows
    curvature and not noise. Fewer than three points give None.
    """
    points = sorted((n, v) for n, v in zip(lengths, values, strict=True) if v > 0)[-TAIL:]
    return power_law(*zip(*points, strict=True)) if len(points) >= 3 else None


def power_law(x: Sequence[float], y: Sequence[float]) -> Exponent:
    """Returns the least-squares slope of log(y) against log(x), with Student's interval.

        log y = a + b log x,  b +- t s / sqrt(sum (log x - mean)^2)

    s^2 is the sum of squared residuals over n - 2, and t the quantile of n - 2 degrees of freedom.
    Several values at one x count as points of their own.

    Args:
      x: positive numbers, at least three, not all equal.
      y: positive numbers.
    """
    x, y = np.log(np.array(x, float)), np.log(np.array(y, float))
    slope, left = _line(x, y)
    error = math.sqrt((left**2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum())
    return Exponent(slope, float(special.stdtrit(len(x) - 2, 0.975) * error))


def growth(lengths: Sequence[int], values: Sequence[float]) -> Growth:
    """Returns how far a curve is from a power of the length, and from an exponential of it."""
    x, y = np.array(lengths, float), np.log(values)
    residuals = (_line(along, y)[1] for along in (np.log(x), x))
    return Growth(*(float(np.sqrt((each**2).mean())) for each in residuals))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the least-squares slope of y against x, and the residuals."""
    x, y = x - x.mean(), y - y.mean()
    slope = (x * y).sum() / (x * x).sum()
    return float(slope), y - slope * x
