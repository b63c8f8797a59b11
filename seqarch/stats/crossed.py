"""The crossed t interval: of a mean over seeds and works, both of which are drawn at random.

Reports use it from SEEDS seeds and WORKS works on. With fewer, it is so wide that it says little,
and the bootstrap (seqarch.stats.bootstrap) is too narrow.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from seqarch.stats.bootstrap import Interval
from seqarch.types import Float

SEEDS = 5  # least number of seeds for which reports use the interval
WORKS = 12  # least number of works, or of their scenes
TINY = 1e-300  # of a standard error, which stands in a denominator


class CrossedT(NamedTuple):
    """A mean over seeds and works.

    Attributes:
      interval: the mean with its interval over seeds and works of their kind.
      p: the two-sided p-value of a mean of zero; below 0.05 where the 95 % interval leaves it out.
    """

    interval: Interval
    p: float


def enough(seeds: int, works: int) -> bool:
    """Returns whether there are seeds and works enough for the crossed t interval in a report."""
    return seeds >= SEEDS and works >= WORKS


def crossed_t(
    differences: Float[np.ndarray, "*sets seeds works"],
    weights: Float[np.ndarray, "works"],
    *,
    confidence: float = 0.95,
) -> CrossedT:
    """Returns the interval of a weighted mean over two crossed random factors.

    With weights that sum to 1, and the means r_i of each seed and c_j of each work,

        m   = mean_i r_i,  r_i = sum_j w_j d_ij,  c_j = mean_i d_ij
        v   = sum_i (r_i - m)^2 / (I (I - 1)) + J / (J - 1) sum_j w_j^2 (c_j - m)^2
        m +- t sqrt(v),  t the quantile of Student's t with min(I, J) - 1 degrees of freedom

    Each term of v is the usual variance of a mean over one factor; with equal weights the second
    is s_c^2 / J. The variance within a cell is in both terms, which makes the interval
    conservative.

    Args:
      differences: difference of two members for each seed and work, paired in both; leading axes
        are data sets of their own, and the results have their shape.
      weights: weight of each work, such as its bytes.
      confidence: probability of the interval.

    Source: Clark 1973, "The language-as-fixed-effect fallacy": (m^2 / v) is min F'. Its degrees of
    freedom are estimated and never fewer than those here, which Cameron and Miller 2015, "A
    practitioner's guide to cluster-robust inference", give for two-way clusters. The variance with
    unequal weights is that of a ratio, Cochran 1977, chapter 6.
    """
    d, w = np.asarray(differences, np.float64), np.asarray(weights, np.float64)
    w, (seeds, works) = w / w.sum(), d.shape[-2:]
    of_seeds, of_works = d @ w, d.mean(axis=-2)
    mean = of_seeds.mean(axis=-1)
    within_works = (w * (of_works - mean[..., None])) ** 2
    variance = of_seeds.var(axis=-1, ddof=1) / seeds
    variance = variance + works / (works - 1) * within_works.sum(axis=-1)
    error, freedom = np.sqrt(variance), min(seeds, works) - 1
    half = special.stdtrit(freedom, (1 + confidence) / 2) * error
    p = 2 * special.stdtr(freedom, -np.abs(mean) / np.maximum(error, TINY))
    return CrossedT(Interval(mean, mean - half, mean + half), p)
