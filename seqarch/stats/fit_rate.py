"""How often runs of a probe solve it: the fit rate, its interval, and a test of two rates.

A run fits where its score reaches the task's `solved`. A diverged run has no score and does not
fit. Outcomes over seeds are bimodal, so that a count says more than a mean.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seqarch.types import Bool

VERDICT_SEEDS = 10  # fresh seeds from which on a member gets a verdict and letters


class FitRate(NamedTuple):
    """The share of runs that fit, with its confidence interval.

    Attributes:
      fits: number of runs that fit.
      n: number of runs.
      low: the lower end of the interval of the probability that a run fits.
      high: the upper end.
    """

    fits: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """The share of runs that fit."""
        return self.fits / self.n

    @property
    def has_verdict(self) -> bool:
        """Whether there are enough runs for a verdict."""
        return self.n >= VERDICT_SEEDS


def fits(scores: Sequence[float | None], solved: float) -> Bool[np.ndarray, "n"]:
    """Returns which runs fit.

    Args:
      scores: the score of each run, of which higher is better; None or NaN where it diverged.
      solved: the score from which on the task counts as solved.
    """
    return np.asarray(scores, np.float64) >= solved  # which NaN is not


def median_score(scores: Sequence[float | None]) -> float:
    """Returns the median score; a diverged run counts as -inf, and so does half of them."""
    found = np.asarray(scores, np.float64)
    return float(np.median(np.where(np.isnan(found), -np.inf, found)))


def fit_rate(scores: Sequence[float | None], solved: float, *, confidence: float = 0.95) -> FitRate:
    """Returns the fit rate of runs with Wilson's interval: 0 of 10 is [0, 0.28].

    The interval holds the rates p that the observed rate k/n does not reject:

        |k/n - p| <= z sqrt(p (1 - p) / n),  z the normal quantile of (1 + confidence) / 2

    Args:
      scores: the score of each run, at least one; None or NaN where it diverged.
      solved: the score from which on the task counts as solved.
      confidence: probability of the interval.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    from scipy import stats  # takes most of a second to import

    k, n = int(fits(scores, solved).sum()), len(scores)
    interval = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    return FitRate(k, n, float(interval.low), float(interval.high))


def fisher_exact(one: FitRate, other: FitRate) -> float:
    """Returns the two-sided p-value of Fisher's exact test that two fit rates are equal.

    It is the probability, given the number of all runs that fit, of the observed counts and of all
    counts that are no more likely.

    Source: Fisher 1935, "The logic of inductive inference".
    """
    from scipy import stats  # takes most of a second to import

    counts = [[each.fits, each.n - each.fits] for each in (one, other)]
    return float(stats.fisher_exact(counts).pvalue)
