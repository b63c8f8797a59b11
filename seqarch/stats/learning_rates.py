"""The choice of a learning rate by fit rate, and the window of learning rates that work.

Both take the scores of runs on validation data, from seeds that are not reported. Results are those
of fresh seeds on test data. Scores at lengths beyond training choose nothing.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from seqarch.stats.fit_rate import fits, median_score

WINDOW_SEEDS = 5  # seeds at each learning rate of a grid on which a window is measured
HALF = 0.5  # fit rate from which on a learning rate belongs to the window

Scores = Mapping[float, Sequence[float | None]]  # of each selection seed, by learning rate


class Window(NamedTuple):
    """A stretch of a grid of learning rates at each of which at least half of the seeds fit.

    Attributes:
      low: its smallest learning rate.
      high: its largest learning rate.
      octaves: its width, log2(high / low); on a half-octave grid, an end that is not censored lies
        less than half an octave further out.
      censored_low: whether `low` is the grid's smallest learning rate, so that the window may go on
        below it.
      censored_high: whether `high` is the grid's largest learning rate.
    """

    low: float
    high: float
    octaves: float
    censored_low: bool
    censored_high: bool


def half_octave_grid(low: float, high: float) -> tuple[float, ...]:
    """Returns the learning rates low * 2^(k/2), k = 0, 1, ..., up to `high`, to four digits."""
    steps = math.floor(2 * math.log2(high / low) + 1e-3)
    return tuple(float(f"{low * 2 ** (k / 2):.4g}") for k in range(steps + 1))


def is_half_octave_grid(lrs: Sequence[float]) -> bool:
    """Returns whether rising learning rates are a factor of 2^(1/2) apart, to three digits."""
    steps = [math.log2(other / one) for one, other in itertools.pairwise(lrs)]
    return bool(steps) and all(abs(step - 1 / 2) < 0.01 for step in steps)


def choose_learning_rate(scores: Scores, solved: float) -> float | None:
    """Returns the learning rate with the highest fit rate and, among equals, the highest median.

    Of learning rates that are equal in both, which is common where all seeds solve a task, it is
    the middle one, or the lower of two, since those at the ends may fail with other seeds.

    Args:
      scores: the validation score of each selection seed, by learning rate; higher is better, None
        or NaN where training diverged.
      solved: the score from which on the task counts as solved; -inf where it has no such
        threshold, so that every run fits that did not diverge.

    Returns:
      None where every run diverged.
    """
    ranks = {}
    for lr, found in scores.items():
        ranks[lr] = float(fits(found, solved).mean()), median_score(found)
    if all(np.isnan(np.asarray(found, np.float64)).all() for found in scores.values()):
        return None
    best = max(ranks.values())
    return statistics.median_low(lr for lr, rank in ranks.items() if rank == best)


def learning_rate_window(scores: Scores, solved: float) -> Window | None:
    """Returns the widest unbroken stretch of a grid in which at least half of the seeds fit.

    Args:
      scores: the score of each seed, WINDOW_SEEDS or more, by learning rate on a half-octave grid
        (`half_octave_grid`); None or NaN where training diverged.
      solved: the score from which on the task counts as solved.

    Returns:
      The window, the lower one of two that are equally wide; None where there is none.

    Source: Okpekpe and Orvieto 2025, "Revisiting associative recall in modern recurrent models",
    arXiv 2508.19029, who find that recurrent models recall in a narrow window.
    """
    grid = sorted(scores)
    works = {lr: fits(scores[lr], solved).mean() >= HALF for lr in grid}
    stretches = [list(each) for work, each in itertools.groupby(grid, works.get) if work]
    if not stretches:
        return None
    widest = max(stretches, key=lambda each: each[-1] / each[0])
    low, high = widest[0], widest[-1]
    return Window(low, high, math.log2(high / low), low == grid[0], high == grid[-1])
