"""What a run's model answers on held-out rows of a probe."""

from typing import NamedTuple

import jax
import numpy as np

from seqarch.evals.loaded_run import LoadedRun
from seqarch.tasks.base import HELD_OUT_SEED
from seqarch.tasks.batch import Batch
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.training.state import token_scores
from seqarch.types import Bool, Float


class Answers(NamedTuple):
    """What a model answers on rows of a probe.

    Attributes:
      rows: the rows.
      right: the scored positions at which the model is right.
    """

    rows: Rows
    right: Bool[np.ndarray, "B T"]

    @property
    def accuracy(self) -> float:
        """The share of scored positions that are right."""
        return float(self.right.sum() / self.positions)

    @property
    def positions(self) -> int:
        """The number of scored positions."""
        return int(self.rows.scored.sum())

    def beyond(self, start: int) -> "Answers":
        """Returns the answers at positions from `start` on."""
        late = np.arange(self.right.shape[1]) >= start
        return Answers(self.rows._replace(scored=self.rows.scored & late), self.right & late)

    @property
    def exact(self) -> float:
        """The share of rows with every scored position right."""
        return float((self.right == self.rows.scored).all(axis=1).mean())


def score_rows(
    run: LoadedRun, whole: Batch, what: str
) -> tuple[Float[np.ndarray, "B Q"], Bool[np.ndarray, "B Q"]]:
    """Returns the nats of each target of rows, and whether it is the model's most likely token.

    eval.batch rows are scored at once; `what` says what they are in lines of progress.
    """
    count, size = len(whole.tokens), run.config.eval.batch
    score, progress, parts = jax.jit(token_scores), run.counter(what), []
    for start in range(0, count, size):
        chosen = np.arange(start, start + size) % count  # the last part repeats the first rows
        parts.append(jax.device_get(score(run.model, whole.take(chosen))))
        progress(min(start + size, count), count)
    nats, right = (np.concatenate(each)[:count] for each in zip(*parts, strict=True))
    return nats, right


def answers(run: LoadedRun, probe: Probe, count: int) -> Answers:
    """Returns what the run's model answers on `count` held-out rows of `probe`."""
    drawn = probe.rows(run.split.name, HELD_OUT_SEED, 0, count)
    whole = probe.as_batch(drawn)
    _, right = score_rows(run, whole, f"rows of {probe.length} tokens")
    everywhere, columns = np.zeros(drawn.scored.shape, bool), whole.tokens.shape[1]
    places = np.arange(columns) if whole.positions is None else whole.positions
    places = np.broadcast_to(places + probe.length - columns, right.shape)  # behind a source
    np.put_along_axis(everywhere, places, right, axis=1)
    return Answers(drawn, everywhere & drawn.scored)
