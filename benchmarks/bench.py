"""Measures groups of the cases of `benchmarks.programs`, and yields them as records."""

import dataclasses
import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.cases import Sizes
from benchmarks.measure import BENCH, CaseTiming, Limits, measure
from benchmarks.peers import installed, missing, versions
from benchmarks.programs import GROUPS
from seqarch import records
from seqarch.errors import UserError, unknown
from seqarch.provenance import provenance
from seqarch.records import Results, Source
from seqarch.runtime.progress import Say
from seqarch.runtime.workers import side_by_side

KIND = "benchmark"  # of a file of records
APART = ("peers",)  # groups of which each list has a process of its own
NAMED = ("peers", "sweep")  # groups that are measured only where they are named


class ListedCases(NamedTuple):
    """One of the lists of cases of a group, for another process: cases cannot be pickled."""

    group: str
    index: int
    sizes: Sizes
    limits: Limits


def run(
    only: Sequence[str] = (),
    sizes: Sizes = Sizes(),
    limits: Limits = Limits(),
    say: Say = print,
    peers: bool = False,
) -> Iterator[Results]:
    """Measures groups of cases; yields all results so far after each list of cases.

    Args:
      only: names of groups; all but NAMED where there are none.
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
        for index, together in enumerate(GROUPS[group](sizes)):
            elapsed = f"{time.perf_counter() - begun:.0f} s"
            say(f"{elapsed}: {group}, {together[0].shape}, {len(together)} cases")
            listed = ListedCases(group, index, sizes, limits)
            timings += measure_apart(listed) if group in APART else measure(together, limits)
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
    groups = list(only) or [name for name in GROUPS if name not in NAMED]
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


def measure_apart(listed: ListedCases) -> list[CaseTiming]:
    """Returns the timings of a list of cases, which are measured in a process of their own."""
    found: list[CaseTiming] = []
    side_by_side(
        {listed.group: listed}, _measure_listed, 1, lambda _, timings, left: found.extend(timings)
    )
    return found


def _measure_listed(listed: ListedCases) -> list[CaseTiming]:
    lists = GROUPS[listed.group](listed.sizes)
    return measure(next(itertools.islice(lists, listed.index, None)), listed.limits)
