"""Trains and measures one run of a sweep, and tells how it stands."""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from seqarch import records, tasks
from seqarch.compare import execution
from seqarch.errors import Diverged
from seqarch.files import find_json, write_json
from seqarch.report.run_files import SWEPT
from seqarch.runtime.process import keep_compilations
from seqarch.runtime.progress import Progress, Say
from seqarch.sweep.plan import PlannedRun
from seqarch.training.logging import read_rows
from seqarch.training.loop import train_together

SAY_EVERY_S = 60.0  # time between lines of one run
DONE, DIVERGED = "done", "diverged"


class End(NamedTuple):
    """The end of a run.

    Attributes:
      status: DONE, or DIVERGED.
      score: the metric that the task is scored by; None where it diverged.
      seconds: of training and measuring; None where a part of it was done before.
    """

    status: str
    score: float | None
    seconds: float | None


Ended = Callable[[PlannedRun, End, int], None]  # takes a run, its end, and the number of runs left


def find_end(run: PlannedRun) -> End | None:
    """Returns how a run ended; None where it is to be trained or measured still.

    A run has ended if it was trained to its last step and each of its evaluators has records of
    this config, or if its records say that it diverged.
    """
    results = execution.find(run.directory, run.config, run.split)
    if results is None:
        return None
    score = tasks.find(run.config.task).score
    found = results.find(score.evaluator, score.metric)
    if execution.diverged(run.directory, run.config):
        marked = found is not None and found.status == "diverged"
        return End(DIVERGED, None, _seconds(run)) if marked else None
    if execution.missing(results, run.evaluators):
        return None
    return End(DONE, found.value if found else None, _seconds(run))


def work_together(runs: Sequence[PlannedRun], say: Say) -> list[End]:
    """Trains runs whose `program` is the same by it, and then measures them, as `work` does each.

    Raises:
      UserError, Stopped: as in `work`.
    """
    keep_compilations()
    for run in runs:
        execution.check(run.directory, run.config)
    begun, began = any(read_rows(run.directory) for run in runs), time.monotonic()
    left = [run for run in runs if not execution.finished(run.directory, run.config)]
    while len(left) > 1:  # those that stand at another step are left for another turn
        together = [(run.config, run.directory) for run in left]
        ends = train_together(together, progress=_seldom(f"{len(left)} runs", say))
        left = [run for run, end in zip(left, ends, strict=True) if end is None]
    seconds = None if begun else (time.monotonic() - began) / len(runs)
    return [work(run, say, seconds) for run in runs]


def work(run: PlannedRun, say: Say, trained: float | None = None) -> End:
    """Trains and measures a run; what is done already is not done again.

    Args:
      run: the run.
      say: takes lines of progress.
      trained: seconds of its training, if it was trained just before.

    Raises:
      UserError: where the run cannot be trained or measured.
      Stopped: at SIGTERM and Ctrl-C, once the run is saved.
    """
    keep_compilations()
    begun, began = bool(read_rows(run.directory)) and trained is None, time.monotonic()
    progress = Progress(1, say=_seldom(run.name, say))
    try:
        execution.measured(run.directory, run.config, run.split, run.evaluators, progress)
    except Diverged:
        failure = execution.failure(run.directory, run.config, run.split)
        records.write(run.directory / records.NAME, [failure])
    seconds = None if begun else time.monotonic() - began + (trained or 0.0)
    write_json(run.directory / SWEPT, dict(fields=dict(run.fields), seconds=seconds))
    return find_end(run) or End(DONE, None, seconds)


def _seconds(run: PlannedRun) -> float | None:
    known = find_json(run.directory / SWEPT, {"seconds": float, "*": object})
    return known["seconds"] if known else None


def _seldom(name: str, say: Say) -> Say:
    """Returns a function that passes warnings on, and one other line each SAY_EVERY_S."""
    last = time.monotonic()

    def said(line: str) -> None:
        nonlocal last
        if line.startswith("warning:") or time.monotonic() - last >= SAY_EVERY_S:
            last = time.monotonic()
            say(f"{name}: {line}")

    return said
