"""Times the cases of a list.

Each case is compiled and run once. Then the cases are timed in turn, A B C A B C ..., so that a
disturbance of the machine meets all of them. A time is the median of the rounds.
"""

import dataclasses
import resource
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax

from benchmarks.cases import Case, Ready
from seqarch.costs.clock import run_seconds
from seqarch.errors import first_line
from seqarch.records import Record

BENCH = "bench"  # the evaluator of these records
CPU = "cpu_seconds"  # the metric of the time of all cores together
LONG_S = 0.5  # a first run that takes longer counts as a round


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long a case is timed, and which cases are skipped.

    Attributes:
      rounds: the fewest and the most runs of a case.
      seconds: between these, a case is run until its runs have taken so long.
      call_seconds: a case is skipped where a unit of its work takes longer.
      call_bytes: a case is skipped where its temporaries are larger.
    """

    rounds: tuple[int, int] = (3, 25)
    seconds: float = 0.6
    call_seconds: float = 20.0
    call_bytes: float = 6e9


@dataclasses.dataclass(frozen=True)
class CaseTiming:
    """The measurements of one case.

    Attributes:
      group, form, shape, pass_: those of the case.
      seconds: the median of `rounds` runs, by unit of work, such as a decoded token.
      cpu_seconds: the same of the time of all cores, which other programs disturb less.
      low: seconds of the fastest run.
      high: seconds of the slowest run.
      rounds: how many runs were timed.
      temporaries: bytes of the compiled program's temporaries.
      total: bytes of the compiled program.
      start_seconds: what precedes the first run: compilation, arguments, a prefill.
      counts: of what it does, by metric.
      skipped: why there are no seconds; None where there are.
    """

    group: str
    form: str
    shape: str
    pass_: str
    seconds: float | None = None
    cpu_seconds: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    temporaries: int | None = None
    total: int | None = None
    start_seconds: float | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    skipped: str | None = None

    def records(self) -> Iterator[Record]:
        """Yields the measurements; a skipped case has its reason instead of seconds."""
        at = {"group": self.group, "form": self.form, "shape": self.shape, "pass": self.pass_}
        if self.skipped is not None:
            yield Record(BENCH, "seconds", at=at, status="not_run", note=self.skipped)
        elif self.seconds is not None:
            yield Record(BENCH, "seconds", self.seconds, at, n=self.rounds)
            yield Record(BENCH, CPU, self.cpu_seconds, at, n=self.rounds)
            yield Record(BENCH, "fastest_seconds", self.low, at)
            yield Record(BENCH, "slowest_seconds", self.high, at)
        for metric, value in (
            ("temporaries_bytes", self.temporaries),
            ("total_bytes", self.total),
            ("start_seconds", self.start_seconds),
            *self.counts.items(),
        ):
            if value is not None:
                yield Record(BENCH, metric, value, at)


def measure(together: list[Case], limits: Limits) -> list[CaseTiming]:
    """Times the cases of a list in turn and returns a timing for each."""
    timings, ready, times = {}, {}, {}
    for case in together:
        begun = time.perf_counter()
        try:
            ready[case] = case.start()
            timing = CaseTiming(
                *case[:4],
                temporaries=ready[case].temporaries,
                total=ready[case].total,
                counts=dict(ready[case].counts),
                start_seconds=time.perf_counter() - begun,
            )
            timings[case], times[case] = _warm_up(ready[case], timing, limits, case.calls)
        except jax.errors.JaxRuntimeError as error:  # the form needs more memory than there is
            timings[case] = CaseTiming(*case[:4], skipped=first_line(error)[:100])
    running = []
    for case in together:
        if timings[case].skipped is None and ready[case].run is not None:
            running.append(case)
    for _ in range(limits.rounds[1]):
        for case in running:
            spent = sum(run.wall for run in times[case])
            if len(times[case]) < limits.rounds[0] or spent < limits.seconds:
                times[case].append(_timed(ready[case]))
    for case in running:
        timings[case] = _with_seconds(timings[case], times[case], case.calls)
    return list(timings.values())


class RunSeconds(NamedTuple):
    """Seconds of a run: by the clock, and of all cores."""

    wall: float
    cpu: float


def _timed(ready: Ready) -> RunSeconds:
    given = ready.prepare()
    begun = _cpu_seconds()
    wall = run_seconds(ready.run, given)
    return RunSeconds(wall, _cpu_seconds() - begun)


def _cpu_seconds() -> float:
    """Seconds of all cores, by this process and by programs that it started and that ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def _with_seconds(timing: CaseTiming, runs: Sequence[RunSeconds], calls: int) -> CaseTiming:
    wall, cpu = ([seconds / calls for seconds in each] for each in zip(*runs))
    median = dict(seconds=statistics.median(wall), cpu_seconds=statistics.median(cpu))
    return dataclasses.replace(timing, **median, low=min(wall), high=max(wall), rounds=len(runs))


def _warm_up(
    ready: Ready, timing: CaseTiming, limits: Limits, calls: int
) -> tuple[CaseTiming, list[RunSeconds]]:
    """Runs a case once; returns its timing and the runs that count so far.

    The timing has the reason where the case is to be skipped.
    """
    if ready.run is None:
        return timing, []
    if (ready.temporaries or 0) > limits.call_bytes:
        reason = f"temporaries of {ready.temporaries / 1e9:.1f} GB"
        return dataclasses.replace(timing, skipped=reason), []
    first = _timed(ready)
    if first.wall > limits.call_seconds * calls:
        return dataclasses.replace(timing, skipped=f"one run takes {first.wall:.0f} s"), []
    return timing, [first] if first.wall > LONG_S else []
