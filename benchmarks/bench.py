"""Times the cases of `benchmarks.cases` and `benchmarks.programs` in one process, interleaved, as
records.

Each case is compiled, run once, then timed in turn with those beside it, A B C A B C ...: what the
machine does meanwhile happens to all of them alike. What is reported is the median of the rounds.
"""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import jax

from benchmarks.cases import Case, Ready, Sizes
from benchmarks.peers import installed, missing, versions
from benchmarks.programs import GROUPS
from seqarch.errors import UserError, first_line, unknown
from seqarch.evals.speed import run_seconds
from seqarch.provenance import provenance
from seqarch.records import Record, Results, Source

BENCH = "bench"  # the evaluator of these records
COUNTS = 0.5  # seconds of a first run that is no mere warm-up


@dataclasses.dataclass(frozen=True)
class Limits:
    """rounds: at most and at least, between which a case goes on until it has taken `seconds`.

    call_seconds, call_bytes: a case of which one run takes longer, or whose temporaries are larger,
      is skipped
    """

    rounds: tuple[int, int] = (3, 25)
    seconds: float = 0.6
    call_seconds: float = 20.0
    call_bytes: float = 6e9


@dataclasses.dataclass(frozen=True)
class Timing:
    """What was measured of a case.

    seconds: median of `rounds` runs, a unit of work (a token when decoding); low, high: the fastest
      and slowest of them
    start_seconds: compilation with what else precedes the first run: arguments, a prefill; skipped:
      why there are no seconds
    """

    group: str
    form: str
    shape: str
    pass_: str
    seconds: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    temporaries: int | None = None
    total: int | None = None
    start_seconds: float | None = None
    skipped: str | None = None

    def records(self) -> Iterator[Record]:
        """What was measured; a case that was skipped has the reason in place of its seconds."""
        at = {"group": self.group, "form": self.form, "shape": self.shape, "pass": self.pass_}
        if self.skipped is not None:
            yield Record(BENCH, "seconds", at=at, status="not_run", note=self.skipped)
        elif self.seconds is not None:
            yield Record(BENCH, "seconds", self.seconds, at, n=self.rounds)
            yield Record(BENCH, "fastest_seconds", self.low, at)
            yield Record(BENCH, "slowest_seconds", self.high, at)
        for metric, value in (
            ("temporaries_bytes", self.temporaries),
            ("total_bytes", self.total),
            ("start_seconds", self.start_seconds),
        ):
            if value is not None:
                yield Record(BENCH, metric, value, at)


def run(
    only: Sequence[str] = (),
    sizes: Sizes = Sizes(),
    limits: Limits = Limits(),
    say: Callable[[str], None] = print,
    peers: bool = False,
) -> Iterator[Results]:
    """Measures the groups `only` (default: all of our own); yields what is known after each list of
    cases.

    peers: those too; a group of that name is only there where it is asked for
    Raises UserError for an unknown group, and where nothing is left to measure.
    """
    only = list(only) or [name for name in GROUPS if name != "peers"]
    only += ["peers"] * (peers and "peers" not in only)
    for name in only:
        if name not in GROUPS:
            raise unknown("group", name, GROUPS)
    begun, timings = time.perf_counter(), []
    made = provenance()  # now: the tree may change meanwhile
    if "peers" in only:
        made["versions"] |= versions()
        if line := missing():
            if only == ["peers"] and not installed():
                raise UserError(line)
            say(line)
    for group in only:
        for together in GROUPS[group](sizes):
            say(
                f"{time.perf_counter() - begun:.0f} s: {group}, {together[0].shape}, "
                f"{len(together)} cases"
            )
            timings += measure(together, limits)
            gc.collect()
            about = dict(sizes=dataclasses.asdict(sizes), limits=dataclasses.asdict(limits))
            about |= dict(seconds=time.perf_counter() - begun)
            source = Source("seqarch", "benchmark", provenance=made, facts={BENCH: about})
            yield Results(source, tuple(each for timing in timings for each in timing.records()))


def measure(together: list[Case], limits: Limits) -> list[Timing]:
    """A timing for each case; the cases are timed in turn."""
    timings, ready, times = {}, {}, {}
    for case in together:
        begun = time.perf_counter()
        try:
            ready[case] = case.start()
            bytes_ = dict(temporaries=ready[case].temporaries, total=ready[case].total)
            timing = Timing(*case[:4], **bytes_, start_seconds=time.perf_counter() - begun)
            timings[case], times[case] = _warm_up(ready[case], timing, limits)
        except (
            jax.errors.JaxRuntimeError
        ) as error:  # of a form that needs more memory than there is
            timings[case] = Timing(*case[:4], skipped=first_line(error)[:100])
    running = [
        case for case in together if timings[case].skipped is None and ready[case].run is not None
    ]
    for _ in range(limits.rounds[1]):
        for case in running:
            if len(times[case]) < limits.rounds[0] or sum(times[case]) < limits.seconds:
                times[case].append(run_seconds(ready[case].run, ready[case].prepare()))
    for case in running:
        taken = sorted(t / case.calls for t in times[case])
        about = dict(low=taken[0], high=taken[-1], rounds=len(taken))
        timings[case] = dataclasses.replace(
            timings[case], seconds=statistics.median(taken), **about
        )
    return list(timings.values())


def _warm_up(ready: Ready, timing: Timing, limits: Limits) -> tuple[Timing, list[float]]:
    """`timing`, with the reason if it is to be skipped, and the first run's time where that is long
    enough to count.
    """
    if ready.run is None:
        return timing, []
    if (ready.temporaries or 0) > limits.call_bytes:
        return dataclasses.replace(
            timing, skipped=f"temporaries of {ready.temporaries / 1e9:.1f} GB"
        ), []
    first = run_seconds(ready.run, ready.prepare())
    if first > limits.call_seconds:
        return dataclasses.replace(timing, skipped=f"one run takes {first:.0f} s"), []
    return timing, [first] if first > COUNTS else []
