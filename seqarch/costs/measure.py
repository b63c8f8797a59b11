"""Measures what members need on targets (seqarch.costs.curves), several parts at once."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.curves import phase_records, sequence_records
from seqarch.costs.devices import place
from seqarch.costs.results import program_source
from seqarch.errors import UserError
from seqarch.records import Record, Results, tag
from seqarch.runtime.progress import Progress, Say, print_line

SEQUENCES = "sequences"
SHARES = {"train": 5, "prefill": 1, "decode": 1, SEQUENCES: 1}  # of the time, by part
CACHED_S = 1.0  # seconds; a part that returns faster came from the cache


class WorkUnit(NamedTuple):
    """A unit of work: one phase of a member on a target, or its number of sequences.

    Attributes:
      target: the devices.
      member: the member's name.
      name: a phase, or SEQUENCES.
    """

    target: str
    member: str
    name: str


Measured = Mapping[WorkUnit, list[Record] | None]  # None where the target refused the part


def run(
    cache: MeasurementCache,
    members: Mapping[str, Config],
    targets: Sequence[str],
    lengths: Sequence[int],
    *,
    workers: int = 2,
    run_local: bool = False,
    timed: bool = False,
    price: float | None = None,
    say: Say = print_line,
) -> list[Results]:
    """Measures all members on all targets, several parts at once.

    Args:
      cache: measures programs, or has measured them before.
      members: configs by name.
      targets: devices, such as "tpu-v5e" or "local".
      lengths: tokens of context.
      workers: programs that the cache compiles at once.
      run_local: also run the training steps that fit well into a present target; accelerators
        always do.
      timed: also tell how long the programs take (`phase_records`).
      price: that of a chip for an hour.
      say: takes lines of progress. If a target cannot compile a member, one line says so and the
        rest continues.

    Returns:
      The records of each member, over all targets that could compile it.

    Raises:
      UserError: where nothing could be measured, for the first part that a target refused.
    """
    parts = [WorkUnit(*each) for each in itertools.product(targets, members, SHARES)]
    asked = dict(run=run_local, timed=timed, price=price)
    progress, errors = Progress(sum(SHARES[part.name] for part in parts), say=say), {}

    def measure(part: WorkUnit) -> list[Record] | None:
        began = time.monotonic()
        try:
            found = _part_records(cache, part, members[part.member], lengths, asked)
        except UserError as error:
            if errors.setdefault(str(error), error) is error:
                say(f"{part.member} on {part.target}: {error}")
            return None
        cached = time.monotonic() - began < CACHED_S
        done = f"{part.member} on {part.target}: {part.name}"
        progress.advance(SHARES[part.name], done, found=cached)
        return found

    with progress:
        measured = _measure_all(parts, measure, workers, cache)
    results = _joined(members, targets, measured)
    if not results:
        raise next(iter(errors.values()))
    _say_failures(results, say)
    return results


def _part_records(
    cache: MeasurementCache,
    part: WorkUnit,
    config: Config,
    lengths: Sequence[int],
    asked: Mapping[str, Any],
) -> list[Record]:
    if part.name == SEQUENCES:
        return list(sequence_records(cache, config, part.target))
    return list(phase_records(cache, config, part.target, part.name, lengths, **asked))


def _measure_all(
    parts: Sequence[WorkUnit],
    measure: Callable[[WorkUnit], list[Record] | None],
    workers: int,
    cache: MeasurementCache,
) -> Measured:
    """Returns what `measure` finds of each part.

    Parts of present targets and of absent ones are measured separately, since a worker serves one
    kind at a time.
    """
    found: dict[WorkUnit, list[Record] | None] = {}
    # There are twice as many threads as workers because a search waits for each program in turn.
    with futures.ThreadPoolExecutor(2 * workers) as pool:
        try:
            for _, group in itertools.groupby(parts, key=lambda part: place(part.target).present):
                group = list(group)
                found |= zip(group, pool.map(measure, group), strict=True)
        except KeyboardInterrupt:
            cache.end()
            raise
    return found


def _joined(
    members: Mapping[str, Config], targets: Sequence[str], found: Measured
) -> list[Results]:
    """Returns the records of each member on the targets that refused no part of it.

    Members without records are left out.
    """
    results = []
    for name, config in members.items():
        kept: list[Record] = []
        for target in targets:
            parts = [found[WorkUnit(target, name, part)] for part in SHARES]
            if None not in parts:
                kept += itertools.chain(*parts)
        if kept:
            results.append(Results(program_source(name, config), tuple(kept)))
    return results


def _say_failures(results: Sequence[Results], say: Say) -> None:
    for source, records in results:
        for record in records:
            if record.status == "failed":
                say(f"{source.member}, {tag(record)}: {record.note}")
