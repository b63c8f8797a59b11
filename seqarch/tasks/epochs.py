"""A fixed set of training rows, which comes again in every epoch in another order."""

import functools
from typing import TYPE_CHECKING

import numpy as np

from seqarch.types import Int

if TYPE_CHECKING:
    from seqarch.tasks.probe import Probe
    from seqarch.tasks.rows import Rows

SEED = 0  # of the training rows, whatever the seed of a run


def in_epochs(task: "Probe", seed: int, index: int, count: int) -> "Rows":
    """Returns the rows of a batch of training.

    Args:
      task: with `training_rows`.
      seed: of the order of the rows.
      index: number of the batch.
      count: rows of a batch.
    """
    found = training_rows(task)
    epochs, places = np.divmod(np.arange(index * count, (index + 1) * count), task.training_rows)
    chosen = np.empty(count, int)
    for epoch in np.unique(epochs):
        now = epochs == epoch
        chosen[now] = order(seed, int(epoch), task.training_rows)[places[now]]
    return found._replace(**{name: column[chosen] for name, column in found._asdict().items()})


@functools.lru_cache(maxsize=2)
def training_rows(task: "Probe") -> "Rows":
    """Returns the rows that a task with `training_rows` trains on."""
    drawn = task.new_rows("train", SEED, 0, task.training_rows)
    tokens, targets = (each.astype(np.int32) for each in (drawn.tokens, drawn.targets))
    return drawn._replace(tokens=tokens, targets=targets)


@functools.lru_cache(maxsize=2)
def order(seed: int, epoch: int, rows: int) -> Int[np.ndarray, "n"]:
    """Returns the order of so many rows in an epoch."""
    return np.random.default_rng((seed, epoch)).permutation(rows)
