"""Times the cases of `bench_cases` and `bench_programs` in one process, interleaved, and collects
them with what they depend on.

Each case is compiled, run once, then timed in turn with those beside it, A B C A B C ...: what the
machine does meanwhile happens to all of them alike. A figure is the median of the rounds.
"""

import dataclasses
import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from benchmarks.cases import Case, Ready, Sizes
from benchmarks.peers import installed, missing, versions
from benchmarks.programs import GROUPS
from seqarch.errors import UserError, first_line, unknown
from seqarch.evals.speed import run_seconds
from seqarch.provenance import provenance

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
class Figure:
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


def run(
    only: Sequence[str] = (),
    sizes: Sizes = Sizes(),
    limits: Limits = Limits(),
    say: Callable[[str], None] = print,
    peers: bool = False,
) -> Iterator[dict[str, Any]]:
    """Measures the groups `only` (default: all of our own); yields what is known, a JSON-ready
    dict, after each list of cases.

    peers: those too; a group of that name is only there where it is asked for
    Raises UserError for an unknown group, and where nothing is left to measure.
    """
    only = list(only) or [name for name in GROUPS if name != "peers"]
    only += ["peers"] * (peers and "peers" not in only)
    for name in only:
        if name not in GROUPS:
            raise unknown("group", name, GROUPS)
    begun, figures = time.perf_counter(), []
    source = provenance()  # now: the tree may change meanwhile
    source |= dict(cpu=source["host"]["cpu"])
    if "peers" in only:
        source["versions"] |= versions()
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
            figures += measure(together, limits)
            gc.collect()
            about = dict(sizes=dataclasses.asdict(sizes), limits=dataclasses.asdict(limits))
            found = dict(
                seconds=time.perf_counter() - begun,
                figures=[dataclasses.asdict(f) for f in figures],
            )
            yield source | about | found


def measure(together: list[Case], limits: Limits) -> list[Figure]:
    """A figure for each case; the cases are timed in turn."""
    figures, ready, times = {}, {}, {}
    for case in together:
        begun = time.perf_counter()
        try:
            ready[case] = case.start()
            bytes_ = dict(temporaries=ready[case].temporaries, total=ready[case].total)
            figure = Figure(*case[:4], **bytes_, start_seconds=time.perf_counter() - begun)
            figures[case], times[case] = _warm_up(ready[case], figure, limits)
        except (
            jax.errors.JaxRuntimeError
        ) as error:  # of a form that needs more memory than there is
            figures[case] = Figure(*case[:4], skipped=first_line(error)[:100])
    running = [
        case for case in together if figures[case].skipped is None and ready[case].run is not None
    ]
    for _ in range(limits.rounds[1]):
        for case in running:
            if len(times[case]) < limits.rounds[0] or sum(times[case]) < limits.seconds:
                times[case].append(run_seconds(ready[case].run, ready[case].prepare()))
    for case in running:
        taken = sorted(t / case.calls for t in times[case])
        about = dict(low=taken[0], high=taken[-1], rounds=len(taken))
        figures[case] = dataclasses.replace(
            figures[case], seconds=statistics.median(taken), **about
        )
    return list(figures.values())


def _warm_up(ready: Ready, figure: Figure, limits: Limits) -> tuple[Figure, list[float]]:
    """`figure`, with the reason if it is to be skipped, and the first run's time where that is long
    enough to count.
    """
    if ready.run is None:
        return figure, []
    if (ready.temporaries or 0) > limits.call_bytes:
        return dataclasses.replace(
            figure, skipped=f"temporaries of {ready.temporaries / 1e9:.1f} GB"
        ), []
    first = run_seconds(ready.run, ready.prepare())
    if first > limits.call_seconds:
        return dataclasses.replace(figure, skipped=f"one run takes {first:.0f} s"), []
    return figure, [first] if first > COUNTS else []
