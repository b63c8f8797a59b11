"""How sure a difference between two models is, from documents that both were scored on."""

import math
from typing import NamedTuple

import numpy as np

from seqarch.types import Float

BLOCK = 1 << 22  # resampled documents in memory at once


class Interval(NamedTuple):
    """`mean` on the documents that there are; `low` and `high` bound it as if others of their kind
    had been drawn.
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
    """The percentile interval of a weighted mean over documents (Efron and Tibshirani 1993,
    sections 13.3 and 25.4).

        mean = sum_i w_i d_i / sum_i w_i

    and again for `resamples` draws of n documents with replacement.

    differences: of one document between two models, in bits per byte; where each was trained from
    several seeds, a row for each pair of runs, rows being drawn with replacement too
    weights: a document's bytes, so that the mean is the difference of the bits per byte over all
      bytes

    Documents are what is drawn, because bytes of one are no independent evidence. The same seed
    gives the same interval. Few documents make it too narrow, and of one there is none: -inf to
    inf.
    """
    d, w = np.atleast_2d(np.asarray(differences, np.float64)), np.asarray(weights, np.float64)
    mean, (rows, n) = float((d @ w).mean() / w.sum()), d.shape
    if n < 2:
        return Interval(mean, -math.inf, math.inf)
    of_documents, of_rows, means = (
        np.random.default_rng(seed),
        np.random.default_rng((seed, rows)),
        [],
    )
    for start in range(0, resamples, step := max(1, BLOCK // d.size)):
        count = min(step, resamples - start)
        drawn, runs = (
            of_documents.integers(n, size=(count, n)),
            of_rows.integers(rows, size=(count, rows)),
        )
        sums = (d * w)[runs[:, :, None], drawn[:, None, :]]
        means.append(sums.sum(axis=(1, 2)) / (rows * w[drawn].sum(axis=1)))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high))
