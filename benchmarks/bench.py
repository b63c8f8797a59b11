"""Times the cases of `benchmarks.cases` and `benchmarks.programs`, and yields them as records.

All run in one process. Each case is compiled and run once. Then the cases of a list are timed in
turn, A B C A B C ..., so that a disturbance of the machine meets all of them. A time is the median
of the rounds.
"""

import dataclasses
import gc
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from benchmarks.cases import Case, Ready, Sizes
from benchmarks.peers import installed, missing, versions
from benchmarks.programs import GROUPS
from seqarch import records
from seqarch.costs.clock import run_seconds
from seqarch.errors import UserError, first_line, unknown
from seqarch.provenance import provenance
from seqarch.records import Record, Results, Source
from seqarch.runtime.progress import Say

BENCH = "bench"  # the evaluator of these records
KIND = "benchmark"  # of their file
LONG_S = 0.5  # a first run that takes longer counts as a round


@dataclasses.dataclass(frozen=True)
class Limits:
    """How long a case is timed, and which cases are skipped.

    Attributes:
      rounds: the fewest and the most runs of a case.
      seconds: between these, a case is run until its runs have taken so long.
      call_seconds: a case is skipped where one run takes longer.
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
            yield Record(BENCH, "cpu_seconds", self.cpu_seconds, at, n=self.rounds)
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


def run(
    only: Sequence[str] = (),
    sizes: Sizes = Sizes(),
    limits: Limits = Limits(),
    say: Say = print,
    peers: bool = False,
) -> Iterator[Results]:
    """Measures groups of cases; yields all results so far after each list of cases.

    Args:
      only: names of groups; all but the peers where there are none.
      sizes: shapes of the cases.
      limits: how long a case is timed, and which cases are skipped.
      say: takes a line before each list of cases.
      peers: whether to measure the peers too.

    Raises:
      UserError: for an unknown group, and where nothing is left to measure.
    """
    groups = _groups(only, peers)
    begun, timings = time.perf_counter(), []
    made = provenance()  # now: the tree may change meanwhile
    if "peers" in groups:
        made["versions"] |= versions()
        _report_missing(groups, say)
    for group in groups:
        for together in GROUPS[group](sizes):
            elapsed = f"{time.perf_counter() - begun:.0f} s"
            say(f"{elapsed}: {group}, {together[0].shape}, {len(together)} cases")
            timings += measure(together, limits)
            gc.collect()
            about = dict(sizes=dataclasses.asdict(sizes), limits=dataclasses.asdict(limits))
            about |= dict(seconds=time.perf_counter() - begun)
            source = Source("seqarch", KIND, provenance=made, facts={BENCH: about})
            yield Results(source, tuple(each for timing in timings for each in timing.records()))


def read(path: Path, flag: str) -> Results:
    """Returns the results of a benchmark; raises UserError where the file of a flag holds none."""
    about, results = records.read(path)
    if about.get("kind") != KIND or not results:
        raise UserError(
            f"--{flag}={path} is no benchmark; give a file that scripts/bench.py --out wrote"
        )
    return results[0]


def _groups(only: Sequence[str], peers: bool) -> list[str]:
    """The names of the groups to measure; raises UserError for an unknown one."""
    groups = list(only) or [name for name in GROUPS if name != "peers"]
    if peers and "peers" not in groups:
        groups.append("peers")
    for name in groups:
        if name not in GROUPS:
            raise unknown("group", name, GROUPS)
    return groups


def _report_missing(groups: Sequence[str], say: Say) -> None:
    """Says which peers are not installed; raises UserError where nothing else was asked for."""
    if line := missing():
        if groups == ["peers"] and not installed():
            raise UserError(line)
        say(line)


def measure(together: list[Case], limits: Limits) -> list[CaseTiming]:
    """Times the cases of a list in turn and returns a timing for each."""
    timings, ready, times = {}, {}, {}
    for case in together:
        begun = time.perf_counter()
        try:
            ready[case] = case.start()
            about = {
                each: getattr(ready[case], each) for each in ("temporaries", "total", "counts")
            }
            timing = CaseTiming(*case[:4], **about, start_seconds=time.perf_counter() - begun)
            timings[case], times[case] = _warm_up(ready[case], timing, limits)
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
    begun = time.process_time()
    wall = run_seconds(ready.run, given)
    return RunSeconds(wall, time.process_time() - begun)


def _with_seconds(timing: CaseTiming, runs: Sequence[RunSeconds], calls: int) -> CaseTiming:
    wall, cpu = ([seconds / calls for seconds in each] for each in zip(*runs))
    median = dict(seconds=statistics.median(wall), cpu_seconds=statistics.median(cpu))
    return dataclasses.replace(timing, **median, low=min(wall), high=max(wall), rounds=len(runs))


def _warm_up(
    ready: Ready, timing: CaseTiming, limits: Limits
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
    if first.wall > limits.call_seconds:
        return dataclasses.replace(timing, skipped=f"one run takes {first.wall:.0f} s"), []
    return timing, [first] if first.wall > LONG_S else []
