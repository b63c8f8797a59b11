"""A law of errors: how the share of wrong answers depends on bytes of state and size of the task.

    log(e / (1 - e)) = a + b log2(state) + c log2(size)

A state twice as large changes the log-odds of an error by b, a task twice as large by c. So the
state with which an error e is reached grows as size^(-c / b).
"""

import math
from typing import NamedTuple

import numpy as np

from seqarch.types import Bool, Float

TERMS = ("intercept", "log2_state", "log2_size")  # the coefficients a, b and c
DRAWS = 400  # of the bootstrap
CONFIDENCE = 0.95  # of intervals
STEPS = 60  # of Newton's method at most
STEEPEST = 60.0  # log-odds beyond which a probability is 0 or 1
WIDEST = 60.0  # log2 of the bytes beyond which a state counts as infinite


class Estimate(NamedTuple):
    """A value with its confidence interval.

    Attributes:
      value: the value.
      low: the lower end.
      high: the upper end; infinity where the interval has none.
    """

    value: float
    low: float
    high: float


class Law(NamedTuple):
    """A fitted law.

    Attributes:
      coefficients: a, b and c.
      draws: those of each draw of the bootstrap.
    """

    coefficients: Float[np.ndarray, "3"]
    draws: Float[np.ndarray, "draws 3"]

    def coefficient(self, term: str) -> Estimate:
        """Returns a coefficient with its interval; `term` is one of TERMS."""
        index = TERMS.index(term)
        return _estimate(self.coefficients[index], self.draws[:, index])

    def error(self, state: float, size: float) -> float:
        """Returns the share of wrong answers at a state of so many bytes and a size."""
        x = np.array([1.0, math.log2(state), math.log2(size)])
        return float(_sigmoid(x @ self.coefficients))

    def state(self, size: float, error: float) -> Estimate | None:
        """Returns the bytes of state at which the share of wrong answers falls to `error`.

        None where errors do not fall with the state. The interval has no upper end where they do
        not fall in more than one in forty draws.

        Args:
          size: that of the task.
          error: the share of wrong answers, in (0, 1).
        """
        if self.coefficients[1] >= 0:
            return None
        solved = _inverted(self.coefficients[None], size, error)[0]
        return _estimate(solved, _inverted(self.draws, size, error))


def fit_law(
    states: Float[np.ndarray, "n"],
    sizes: Float[np.ndarray, "n"],
    errors: Float[np.ndarray, "n"],
    counts: Float[np.ndarray, "n"],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Law | None:
    """Returns the law that is most likely given runs, each of which counts once.

    The likelihood is that of a logistic regression whose outcomes are shares. The bootstrap draws
    runs with replacement, so that its intervals hold the noise of seeds and the misfit of the law.
    Answers of one run are no independent evidence.

    Args:
      states: bytes of state of each run.
      sizes: size of the task of each run.
      errors: share of wrong answers of each run.
      counts: number of answers of each run. A share counts as that of half an error more among one
        answer more, without which a run without errors has infinite log-odds.
      draws: number of draws.
      seed: that of the draws; the same seed gives the same interval.

    Returns:
      None where runs have fewer than two states or sizes, or lie on one line of both.

    Source: Papke and Wooldridge 1996, "Econometric methods for fractional response variables"
    (shares); Efron and Tibshirani 1993, chapter 9 (drawing cases).
    """
    x = np.stack([np.ones(len(states)), np.log2(states), np.log2(sizes)], axis=1)
    counts = np.asarray(counts, float)
    y = (np.asarray(errors, float) * counts + 0.5) / (counts + 1)
    if not _determined(x[None], np.ones((1, len(x))))[0]:
        return None
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=draws).astype(float)
    weights = weights[_determined(x[None], weights)]
    centre, scale = x.mean(0), x.std(0)
    centre[0], scale[0] = 0.0, 1.0
    found = (
        _newton((x - centre) / scale, y, np.concatenate([np.ones((1, len(x))), weights])) / scale
    )
    found[:, 0] -= found[:, 1:] @ centre[1:]
    return Law(found[0], found[1:])


def _determined(x: Float[np.ndarray, "1 n 3"], weights: Float[np.ndarray, "d n"]) -> Bool:
    """Returns which draws have runs that determine all coefficients."""
    return np.linalg.matrix_rank(x * (weights > 0)[:, :, None], tol=1e-6) == x.shape[2]


def _newton(
    x: Float[np.ndarray, "n 3"], y: Float[np.ndarray, "n"], weights: Float[np.ndarray, "d n"]
) -> Float[np.ndarray, "d 3"]:
    """Returns the most likely coefficients for each row of weights, by damped Newton steps.

    The likelihood is concave, and a step that lowers it is halved.
    """
    beta = np.zeros((len(weights), x.shape[1]))
    value = _log_likelihood(beta, x, y, weights)
    for _ in range(STEPS):
        p = _sigmoid(beta @ x.T)
        gradient = (weights * (y - p)) @ x
        curvature = np.einsum("dn,ni,nj->dij", weights * p * (1 - p), x, x)
        curvature += 1e-12 * np.eye(x.shape[1])
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        for _ in range(30):
            new = _log_likelihood(beta + step, x, y, weights)
            worse = new < value - 1e-12 * np.abs(value)
            if not worse.any():
                break
            step = np.where(worse[:, None], step / 2, step)
        beta, value = beta + step, new
        if np.abs(step).max() < 1e-10:
            break
    return beta


def _log_likelihood(beta, x, y, weights) -> Float[np.ndarray, "d"]:
    odds = beta @ x.T
    return (weights * (y * odds - np.logaddexp(0, odds))).sum(1)


def _sigmoid(odds: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    return 1 / (1 + np.exp(-np.clip(odds, -STEEPEST, STEEPEST)))


def _inverted(
    coefficients: Float[np.ndarray, "d 3"], size: float, error: float
) -> Float[np.ndarray, "d"]:
    """Returns the bytes at which each law has an error; infinity where errors do not fall."""
    a, b, c = np.asarray(coefficients, float).T
    falls = b < 0
    odds = math.log(error / (1 - error)) - a - c * math.log2(size)
    exponent = np.where(falls, odds / np.where(falls, b, -1.0), np.inf)
    return np.where(exponent > WIDEST, np.inf, np.exp2(np.minimum(exponent, WIDEST)))


def _estimate(value: float, draws: Float[np.ndarray, "d"]) -> Estimate:
    """Returns a value with the percentile interval of its draws, some of which may be infinite."""
    ordered, tail = np.sort(draws), (1 - CONFIDENCE) / 2
    low, high = (ordered[math.ceil(part * len(ordered)) - 1] for part in (tail, 1 - tail))
    return Estimate(float(value), float(low), float(high))
