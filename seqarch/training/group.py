"""The members of one start, and what follows each of their dispatches."""

from collections.abc import Sequence
from typing import NamedTuple

from seqarch.config import Config
from seqarch.runtime.progress import Progress
from seqarch.tasks.base import Score
from seqarch.training.dispatch import Dispatcher
from seqarch.training.member import OpenRun
from seqarch.training.meter import LogRow, Meter
from seqarch.training.solved import is_solved
from seqarch.training.state import TrainState
from seqarch.training.validation import Validate


class RunGroup(NamedTuple):
    """Runs that are trained by one program; a single run is a group of one.

    Attributes:
      config: that of the first member, resolved.
      members: the runs.
      dispatcher: compiled.
      validate: returns the columns of metrics.jsonl for a model.
      meter: makes the rows of metrics.jsonl.
      score: the metric of the task.
      progress: of all members.
    """

    config: Config
    members: Sequence[OpenRun]
    dispatcher: Dispatcher
    validate: Validate
    meter: Meter
    score: Score
    progress: Progress

    @property
    def active(self) -> list[tuple[int, OpenRun]]:
        """The members that have not ended, with their indices."""
        return [(i, member) for i, member in enumerate(self.members) if member.end is None]

    def counts(self, steps: range) -> list[int]:
        """Returns how many of the steps each member takes; those that have ended take none."""
        return [len(steps) if member.end is None else 0 for member in self.members]

    def finish(
        self, rows: list[list[LogRow]], state: TrainState, *, save: bool, validate: bool
    ) -> None:
        """Validates, logs and saves each member, and reports progress.

        Args:
          rows: those to log, of each member.
          state: after the last of them, if it is to be saved or validated.
          save: whether a checkpoint is due.
          validate: whether a validation is due.
        """
        shown = []
        for index, member in self.active:
            mine, solved = None, False
            if save or validate:
                mine = self.dispatcher.member(state, index)
            if validate:
                rows[index][-1] |= self.validate(mine.model)
                member.validated.append(rows[index][-1])
                solved = is_solved(member.validated, member.config)
            member.log(rows[index])
            if member.end is not None:
                if len(self.members) > 1:
                    member.say(f"diverged: {member.end}")
                continue
            shown.append(rows[index])
            member.checkpoints.check()
            if save or solved:
                member.checkpoints.save(mine)
            if solved or rows[index][-1:] and rows[index][-1]["step"] == self.config.steps:
                member.checkpoints.wait()  # here, where the handlers of signals are still installed
                member.end = rows[index][-1]
        self.meter.sharing = max(1, len(self.active))
        if shown and shown[0]:
            self._report(shown)

    def _report(self, rows: list[list[LogRow]]) -> None:
        """Reports the progress that the rows of the active members show."""
        metric, title = self.score.metric, self.score.title
        last, validated = [each[-1] for each in rows], f"validation_{metric}"
        text = f"{_span(last, metric)} {title}"
        if validated in last[0]:
            text += f", validation {_span(last, validated)} {title}"
        seconds = sum(row["step_seconds"] for each in rows for row in each)
        self.progress.advance(len(rows[0]), text, seconds=seconds, always=validated in last[0])


def _span(rows: list[LogRow], metric: str) -> str:
    """Returns a metric of members as text, such as "0.25", or "0.25 to 0.99" of several."""
    values = [row[metric] for row in rows]
    ends = [min(values), max(values)] if len(values) > 1 else values
    return " to ".join(f"{value:.3f}" for value in ends)
