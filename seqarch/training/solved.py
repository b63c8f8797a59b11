"""Whether a probe's run ends before its last step, because its task is solved.

It ends when several validations in a row say so, since a score that just touches the threshold is
often below it on test rows. The learning-rate schedule is that of all steps, so that such a run is
the beginning of the whole one, bit for bit.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from seqarch import tasks
from seqarch.config import Config
from seqarch.training.logging import read_rows

IN_A_ROW = 2  # validations that say so


def is_solved(rows: Sequence[Mapping[str, Any]], config: Config) -> bool:
    """Returns whether a run ends at its last row, as `eval.stop_when_solved` says.

    Args:
      rows: those of metrics.jsonl so far; rows without a validation do not count.
      config: the run's config.
    """
    if not config.eval.stop_when_solved:
        return False
    task = tasks.find(config.task)
    column = f"validation_{task.score.metric}"
    scores = [row[column] for row in rows if column in row][-IN_A_ROW:]
    reached = all(score is not None and score >= task.solved for score in scores)
    return reached and len(scores) == IN_A_ROW and column in rows[-1]


def last_step(run_dir: str | os.PathLike, config: Config) -> int:
    """Returns the last step of a run: that at which it was solved, or else `config.steps`."""
    rows = read_rows(run_dir)
    return rows[-1]["step"] if is_solved(rows, config) else config.steps
