"""The interval of a difference between two models, from documents that both were scored on."""

import math
from typing import NamedTuple

import numpy as np

from seqarch.types import Float

BLOCK = 1 << 22  # documents that are resampled at once


class Interval(NamedTuple):
    """A mean with its confidence interval.

    Attributes:
      mean: the mean over the given documents.
      low: the lower end of its interval over documents of their kind.
      high: the upper end.
    """

    mean: float
    low: float
    high: float


def paired_bootstrap(
    differences: Float[np.ndarray, "n"] | Float[np.ndarray, "seeds n"],
    weights: Float[np.ndarray, "n"],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Returns the percentile interval of a weighted mean over documents.

        mean = sum_i w_i d_i / sum_i w_i

    is computed of the documents, and of each of `resamples` draws of n documents with replacement.
    Documents are drawn because the bytes of one are no independent evidence. The interval is too
    narrow for few documents, and -inf to inf for a single one.

    Args:
      differences: difference of two models on each document, in bits per byte. Where each model was
        trained from several seeds, there is a row for each pair of runs, and rows are drawn with
        replacement too.
      weights: bytes of each document, so that the mean is the difference over all bytes.
      confidence: probability of the interval.
      resamples: number of draws.
      seed: that of the draws; the same seed gives the same interval.

    Source: Efron and Tibshirani 1993, chapters 13 and 25.
    """
    d, w = np.atleast_2d(np.asarray(differences, np.float64)), np.asarray(weights, np.float64)
    mean, (rows, n) = float((d @ w).mean() / w.sum()), d.shape
    if n < 2:
        return Interval(mean, -math.inf, math.inf)
    of_documents, of_rows = np.random.default_rng(seed), np.random.default_rng((seed, rows))
    step, means = max(1, BLOCK // d.size), []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = of_documents.integers(n, size=(count, n))
        runs = of_rows.integers(rows, size=(count, rows))
        sums = (d * w)[runs[:, :, None], drawn[:, None, :]]
        means.append(sums.sum(axis=(1, 2)) / (rows * w[drawn].sum(axis=1)))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high))
