"""Runs a sweep: shows what it will do and how long it takes, does it, and counts the ends."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from seqarch import tasks
from seqarch.report.formats import show
from seqarch.runtime.progress import Say, duration
from seqarch.sweep.estimate import TimeEstimate
from seqarch.sweep.plan import PlannedRun, spread, varied
from seqarch.sweep.work import DIVERGED, End, Ended, find_end

SHOWN = 20  # runs that are listed before the sweep starts

Train = Callable[[Sequence[PlannedRun], Ended], None]


class SweepState:
    """The runs of a sweep with the ends of those that are finished, and the time of the others.

    Args:
      runs: the runs.
      workdir: the sweep's directory.
      at_once: runs that may be trained at once.
      here: whether these are trained on this machine.
    """

    def __init__(self, runs: Sequence[PlannedRun], workdir: Path, at_once: int, here: bool = True):
        self.runs, self.workdir, self._here = runs, workdir, here
        self.ends: dict[str, End] = {}
        self._estimate = TimeEstimate()
        for run in runs:
            if end := find_end(run):
                self.add(run, end)
        self.at_once = max(1, min(at_once, len(self.left)))

    @property
    def left(self) -> list[PlannedRun]:
        """The runs that are not finished, in the order in which they start."""
        return spread([run for run in self.runs if run.name not in self.ends])

    @property
    def diverged(self) -> int:
        """The number of runs that diverged."""
        return sum(end.status == DIVERGED for end in self.ends.values())

    @property
    def time(self) -> str:
        """The time that is left, as text."""
        return self._estimate.text(self.left, self.at_once)

    def add(self, run: PlannedRun, end: End) -> None:
        """Adds the end of a run."""
        self.ends[run.name] = end
        self._estimate.add(run, end.seconds)

    def lines(self, longest: int | None = SHOWN) -> list[str]:
        """Returns what a user should know before the sweep starts.

        Args:
          longest: the number of runs that are listed; None: all.
        """
        fields = [f"{name} ({len(values)})" for name, values in varied(self.runs).items()]
        varying = f", varying {', '.join(fields)}" if fields else ""
        left, finished = self.left, ""
        if self.ends:
            finished = f"{len(self.ends)} finished, of which {self.diverged} diverged; "
        found = [
            f"{len(self.runs)} runs in {self.workdir}{varying}",
            f"{finished}{len(left)} to run, {self.at_once} at once",
        ]
        found += [f"  {run.name}" for run in left[:longest]]
        if len(left) > len(left[:longest]):
            found.append(f"  and {len(left[longest:])} more, which --dry_run lists")
        if self._here and self.at_once > 1 and any("speed" in run.evaluators for run in left):
            found.append(f"note: speed is measured while {self.at_once} runs share the machine")
        return [*found, f"time: {self.time}"] if left else found[:1] + ["all of them are finished"]

    def summary(self) -> list[str]:
        """Returns the counts of ends, and the command of a report."""
        done = len(self.ends) - self.diverged
        report = f"python scripts/report.py {shlex.quote(str(self.workdir))}"
        return [f"{done} of {len(self.runs)} runs are done, {self.diverged} diverged", report]


def run(state: SweepState, train: Train, say: Say) -> None:
    """Trains and measures the runs of a sweep that are not finished.

    Args:
      state: the sweep.
      train: is called with these runs, and with a function that it calls at the end of each.
      say: takes lines of progress.
    """

    def ended(run: PlannedRun, end: End, left: int) -> None:
        state.add(run, end)
        time = f", {state.time} left" if state.left else ""
        say(f"[{len(state.ends)}/{len(state.runs)}{time}] {run.name}: {_text(run, end)}")

    if state.left:
        train(state.left, ended)
    for line in state.summary():
        say(line)


def _text(run: PlannedRun, end: End) -> str:
    score = tasks.find(run.config.task).score
    said = end.status if end.score is None else f"{score.title} {show(end.score, score.unit)}"
    return said if end.seconds is None else f"{said}, {duration(end.seconds)}"
