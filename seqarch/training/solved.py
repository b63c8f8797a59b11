"""Whether a probe's run ends before its last step, because its task is solved.

The learning-rate schedule is that of all steps, so that such a run is the beginning of the whole
one, bit for bit.
"""

import os
from collections.abc import Mapping
from typing import Any

from seqarch import tasks
from seqarch.config import Config
from seqarch.training.logging import read_rows


def is_solved(row: Mapping[str, Any], config: Config) -> bool:
    """Returns whether a run ends at a row of metrics.jsonl, as `eval.stop_when_solved` says."""
    if not config.eval.stop_when_solved:
        return False
    task = tasks.find(config.task)
    reached = row.get(f"validation_{task.score.metric}")
    return reached is not None and reached >= task.solved


def last_step(run_dir: str | os.PathLike, config: Config) -> int:
    """Returns the last step of a run: that at which it was solved, or else `config.steps`."""
    rows = read_rows(run_dir)
    return rows[-1]["step"] if rows and is_solved(rows[-1], config) else config.steps
