"""How long a sweep still takes, by the runs of it that are finished."""

import statistics
from collections.abc import Iterable

from seqarch.runtime.progress import duration
from seqarch.sweep.plan import PlannedRun

UNKNOWN = "unknown until the first run ends"


class TimeEstimate:
    """Estimates the time of runs by the mean of finished ones.

    These are the ones with the same program, or all of them where there are none.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}

    def add(self, run: PlannedRun, seconds: float | None) -> None:
        """Adds a finished run; `seconds` is None where its time is unknown."""
        if seconds is not None:
            self._seconds.setdefault(run.program, []).append(seconds)

    def left(self, runs: Iterable[PlannedRun], workers: int) -> float | None:
        """Returns the seconds that runs take, `workers` at once; None where it is unknown."""
        known = [seconds for each in self._seconds.values() for seconds in each]
        if not known:
            return None
        times = [statistics.fmean(self._seconds.get(run.program, known)) for run in runs]
        return max(sum(times) / workers, max(times, default=0))

    def text(self, runs: Iterable[PlannedRun], workers: int) -> str:
        """Returns `left` as text, such as "about 12.5 min"."""
        left = self.left(runs, workers)
        return UNKNOWN if left is None else f"about {duration(left)}"
