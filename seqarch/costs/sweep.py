"""What models cost on targets: memory against the context, the longest that fits, how many
sequences fit at once.

Every number is measured of a program (seqarch.costs.memory), or follows from several: exponents and
  searches.
"""

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from seqarch.config import Config, to_dict
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.compiler import PEAK
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement
from seqarch.costs.search import Largest, largest
from seqarch.costs.spec import Failed, Outcome, ProgramSpec, versions
from seqarch.errors import UserError
from seqarch.provenance import provenance
from seqarch.records import Record, Results, Source, tag
from seqarch.stats.fits import exponent

EVALUATOR = "costs"  # of the records
LONGEST = 2**24  # tokens; a context that still fits is said to be longer
MOST = 2**20  # sequences at once
SERVED = (4096, 32768, 131072, 1048576)  # contexts at which sequences are counted
SEQUENCES = "sequences"
SHARES = {
    "train": 5,
    "prefill": 1,
    "decode": 1,
    SEQUENCES: 1,
}  # parts of a sweep, and how much of the time each takes
CACHED_S = 1.0  # a part that returns faster came from the cache
ROOM = 0.5  # of the memory that a step which runs may take: compilers work beside it
PARTS = (
    "parameters",
    "gradients",
    "optimizer",
    "state",
    "arguments",
    "outputs",
    "aliased",
    "temporaries",
)
GROWS: dict[str, Callable[[Measurement], int]] = {  # the bytes that an exponent is fitted to
    "train": lambda measured: measured.working,
    "prefill": lambda measured: measured.working + measured.state,
    "decode": lambda measured: measured.state,
}


class Part(NamedTuple):
    """A unit of work: one phase, or SEQUENCES, of a member on a target."""

    target: str
    member: str
    name: str

    @property
    def share(self) -> int:
        return SHARES[self.name]


def run(
    cache: MeasurementCache,
    members: dict[str, Config],
    targets: Sequence[str],
    lengths: Sequence[int],
    *,
    workers: int = 2,
    run_local: bool = False,
    say: Callable[[str], None] = print,
) -> list[Results]:
    """Measures all members on all targets, several parts at once.

    Args:
      cache: measures programs, or has measured them before.
      members: configs by name.
      targets: devices, such as "tpu-v5e" or "local".
      lengths: tokens of context.
      workers: programs that the cache compiles at once.
      run_local: also run the training steps that fit a present target with room beside them;
        accelerators always do.
      say: takes lines of progress. If a target cannot compile a member, one line says so and the
        rest continues.

    Returns:
      The records of each member, over all targets that could compile it.

    Raises:
      UserError: the first one, where nothing could be measured.
    """
    parts = [Part(*each) for each in itertools.product(targets, members, SHARES)]
    progress, errors = Progress(sum(part.share for part in parts), say), {}

    def measure(part: Part) -> list[Record] | None:
        began = time.monotonic()
        try:
            found = list(_records(cache, part, members[part.member], lengths, run_local))
        except UserError as error:
            if errors.setdefault(str(error), error) is error:
                say(f"{part.member} on {part.target}: {error}")
            return None
        cached = time.monotonic() - began < CACHED_S
        progress.done(
            f"{part.member} on {part.target}: {part.name}", part.share, found_at_once=cached
        )
        return found

    found: dict[Part, list[Record] | None] = {}
    with futures.ThreadPoolExecutor(
        2 * workers
    ) as pool:  # twice, for a search waits for one program after the other
        try:
            for _, group in itertools.groupby(
                parts, key=lambda part: place(part.target).present
            ):  # a worker serves either kind
                found |= zip(group := list(group), pool.map(measure, group), strict=True)
        except KeyboardInterrupt:
            cache.end()
            raise
    results = _joined(members, targets, found)
    if not results:
        raise next(iter(errors.values()))
    for each in results:
        for record in each.records:
            if record.status == "failed":
                say(f"{each.source.member}, {tag(record)}: {record.note}")
    return results


def _joined(
    members: dict[str, Config], targets: Sequence[str], found: dict[Part, list[Record] | None]
) -> list[Results]:
    """The records of each member on those targets of which no part was refused; members without any
    are left out.
    """
    results = []
    for name, config in members.items():
        kept: list[Record] = []
        for target in targets:
            parts = [found[Part(target, name, part)] for part in SHARES]
            if None not in parts:
                kept += itertools.chain(*parts)
        if kept:
            source = Source(name, "program", to_dict(config), provenance=_provenance())
            results.append(Results(source, tuple(kept)))
    return results


@functools.cache
def _provenance() -> dict[str, Any]:
    made = provenance()
    return {name: made[name] for name in ("revision", "dirty", "command")} | dict(
        versions=versions()
    )


def _records(
    cache: MeasurementCache, part: Part, config: Config, lengths: Sequence[int], run: bool
) -> Iterator[Record]:
    if part.name == SEQUENCES:
        yield from _sequences(cache, config, part.target)
        return
    rows = place(part.target).count * config.optim.accumulate if part.name == "train" else 1
    spec = functools.partial(ProgramSpec, config, part.name, rows, target=part.target)
    specs = [spec(length) for length in lengths]
    outcomes = dict(zip(lengths, cache.measure_all(specs), strict=True))
    for each, outcome in zip(specs, outcomes.values(), strict=True):
        yield from program_records(each, outcome)
    yield from _exponent(part, outcomes)
    yield from _longest(cache, part, spec, outcomes)
    if part.name == "train" and place(part.target).present:
        yield from _actual(cache, part, spec, outcomes, run)


def program_records(spec: ProgramSpec, outcome: Outcome) -> Iterator[Record]:
    """What was measured of one program: its total, whose status says whether it fits, and the
    parts.
    """
    at = dict(target=spec.target, phase=spec.phase, context=spec.length, batch=spec.batch)
    if isinstance(outcome, Failed):
        yield Record(EVALUATOR, "total_bytes", at=at, status="failed", note=outcome.reason)
        return
    status = "ok" if outcome.fits else "oom"
    yield Record(
        EVALUATOR, "total_bytes", outcome.total, at, status=status, note=outcome.definition
    )
    yield Record(EVALUATOR, "device_bytes", outcome.memory, at)
    for part in PARTS:
        if (value := getattr(outcome, part)) is not None:
            yield Record(EVALUATOR, f"{part}_bytes", value, at)
    yield Record(EVALUATOR, "flops", outcome.flops, at)


def _exponent(part: Part, outcomes: dict[int, Outcome]) -> Iterator[Record]:
    """The exponent of what grows in a phase, and half the width of its interval."""
    measured = {length: each for length, each in outcomes.items() if isinstance(each, Measurement)}
    fit = exponent(list(measured), [GROWS[part.name](each) for each in measured.values()])
    at = dict(target=part.target, phase=part.name)
    if fit:
        yield Record(EVALUATOR, "exponent", fit.b, at, n=len(measured))
        yield Record(EVALUATOR, "exponent_half", fit.half, at, n=len(measured))


def _longest(
    cache: MeasurementCache,
    part: Part,
    spec: Callable[[int], ProgramSpec],
    outcomes: dict[int, Outcome],
) -> Iterator[Record]:
    """The longest context that fits the target."""
    memory = memory_of(outcomes.values())
    if not memory:
        return
    known = {length: needed(outcome) for length, outcome in outcomes.items()}
    fit = largest(lambda length: needed(cache.measure(spec(length))), memory, known, LONGEST)
    at = dict(target=part.target, phase=part.name)
    yield Record(EVALUATOR, "longest_context", fit.size, at, status="ok" if fit.beyond else "over")


def _sequences(cache: MeasurementCache, config: Config, target: str) -> Iterator[Record]:
    """How many are decoded at once at each context; none is said of one whose programs fail to
    compile.
    """
    for length in SERVED:
        if fit := most_sequences(cache, config, target, length):
            at = dict(target=target, context=length)
            yield Record(
                EVALUATOR, "sequences", fit.size, at, status="ok" if fit.beyond else "over"
            )


def _actual(
    cache: MeasurementCache,
    part: Part,
    spec: Callable[[int], ProgramSpec],
    outcomes: dict[int, Outcome],
    run: bool,
) -> Iterator[Record]:
    """Bytes of the steps that really ran, beside what was planned."""
    for length, planned in outcomes.items():
        wanted = isinstance(planned, Measurement) and (run or planned.definition == PEAK)
        if not wanted or planned.total > ROOM * planned.memory:
            continue
        at, actual = dict(target=part.target, context=length), cache.run(spec(length))
        if isinstance(actual, Failed):
            yield Record(EVALUATOR, "actual_bytes", at=at, status="failed", note=actual.reason)
        else:
            yield Record(EVALUATOR, "planned_bytes", actual.planned, at)
            yield Record(EVALUATOR, "actual_bytes", actual.peak, at)


def most_sequences(
    cache: MeasurementCache, config: Config, target: str, length: int
) -> Largest | None:
    """The largest batch of a decoding step that fits; None where the devices' own number of rows
    fails to compile.

    Only multiples of that number are tried, which leave whole rows to each device; where not even
    one a device fits, fewer are, which share the heads of their states if they can.
    """
    devices = place(target).count
    outcome = lambda rows: cache.measure(ProgramSpec(config, "decode", rows, length, target))
    total = lambda rows: needed(outcome(rows))
    memory, empty = memory_of([outcome(devices)]), without_rows(outcome(devices))
    if memory is None:
        return None
    fit = largest(lambda n: total(n * devices), memory, empty, MOST)
    if fit.size or devices == 1:
        return Largest(fit.size * devices, fit.beyond and fit.beyond * devices)
    fit = largest(total, memory, empty, devices - 1)
    return Largest(fit.size, fit.beyond or devices)


class Progress:
    """Lines that say how much is done and how long the rest will take at the pace so far; from
    several threads.

    What was found at once, being on disk, tells nothing of the pace.
    """

    def __init__(self, total: int, say: Callable[[str], None]):
        self._total, self._say, self._done, self._worked = total, say, 0, 0
        self._start, self._lock = time.monotonic(), threading.Lock()

    def done(self, what: str, share: int, found_at_once: bool = False) -> None:
        with self._lock:
            self._done += share
            self._worked += 0 if found_at_once else share
            left = ""
            if self._worked:
                seconds = (
                    (time.monotonic() - self._start) / self._worked * (self._total - self._done)
                )
                left = f", {seconds / 60:.1f} min left"
            self._say(f"[{self._done / self._total:.0%}{left}] {what}")


def needed(outcome: Outcome) -> int | None:
    """The bytes of a program, for `largest`; None where it failed."""
    return None if isinstance(outcome, Failed) else outcome.total


def without_rows(outcome: Outcome) -> dict[int, int]:
    """The bytes of a program without any rows, for `largest`; none where it failed."""
    return {} if isinstance(outcome, Failed) else {0: outcome.parameters + outcome.optimizer}


def memory_of(outcomes: Iterable[Outcome]) -> int | None:
    """What the device has for programs; None where all failed."""
    return next((outcome.memory for outcome in outcomes if isinstance(outcome, Measurement)), None)
