"""The records of one member on one target.

They are the bytes of each phase against the context, the exponent of what grows, the longest
context that fits, and how many sequences fit at once. Every number is measured of a program
(seqarch.costs.memory), or follows from several.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.compiler import PEAK
from seqarch.costs.devices import place
from seqarch.costs.limits import longest_context, most_sequences
from seqarch.costs.memory import Measurement
from seqarch.costs.results import EVALUATOR, largest_record, place_of, program_records
from seqarch.costs.schedule import Seconds
from seqarch.costs.spec import Failed, Outcome, ProgramSpec
from seqarch.costs.speed import speed_records, with_costs
from seqarch.costs.time import has_estimates
from seqarch.records import Record
from seqarch.stats.exponents import exponent

SERVED = (4096, 32768, 131072, 1048576)  # tokens of context at which sequences are counted
RUN_SHARE = 0.5  # of the memory that a step may need to be run; compilers need the rest
GROWS: dict[str, Callable[[Measurement], int]] = {  # the bytes that an exponent is fitted to
    "train": lambda measured: measured.working,
    "prefill": lambda measured: measured.working + measured.state,
    "decode": lambda measured: measured.state,
}


def phase_records(
    cache: MeasurementCache,
    config: Config,
    target: str,
    phase: str,
    lengths: Sequence[int],
    *,
    run: bool,
    timed: bool = False,
    price: float | None = None,
) -> Iterator[Record]:
    """Yields what a phase needs at each length, its exponent and the longest context that fits.

    Args:
      cache: measures programs.
      config: the member's config.
      target: the devices.
      phase: "train", "prefill" or "decode".
      lengths: tokens of context.
      run: also run the programs that fit a present target; accelerators always do.
      timed: also tell how long programs that fit take (seqarch.costs.speed); those that are run
        are timed.
      price: that of a chip for an hour, for the costs of tokens.
    """
    rows = place(target).count * config.optim.accumulate if phase == "train" else 1
    spec = functools.partial(ProgramSpec, config, phase, rows, target=target)
    specs = [spec(length) for length in lengths]
    outcomes = dict(zip(lengths, cache.measure_all(specs), strict=True))
    for each, outcome in zip(specs, outcomes.values(), strict=True):
        yield from program_records(outcome, place_of(each))
    if timed:
        pairs = list(zip(specs, outcomes.values(), strict=True))
        yield from _speeds(cache, pairs, price, run)
    at = dict(target=target, phase=phase)
    yield from _exponent(at, outcomes)
    if fit := longest_context(cache, spec, outcomes):
        yield largest_record("longest_context", at, fit)
    if phase == "train":
        yield from _actual(cache, spec, outcomes, run)


def sequence_records(cache: MeasurementCache, config: Config, target: str) -> Iterator[Record]:
    """Yields how many sequences are decoded at once, at each of the contexts SERVED.

    A context whose programs fail to compile has no record.
    """
    for length in SERVED:
        if fit := most_sequences(cache, config, target, length):
            yield largest_record("sequences", dict(target=target, context=length), fit)


def _speeds(
    cache: MeasurementCache,
    outcomes: Sequence[tuple[ProgramSpec, Outcome]],
    price: float | None,
    run: bool,
) -> Iterator[Record]:
    """Yields rooflines, estimated and measured times of the programs of a target that fit."""
    fitting = [(spec, outcome) for spec, outcome in outcomes if outcome.fits]
    if not fitting:
        return
    sheet = cache.sheet(fitting[0][0].target)
    timings: list[Seconds | Failed | None] = [None] * len(fitting)
    if has_estimates(place(sheet)):
        timings = cache.estimate_all(spec._replace(target=sheet) for spec, _ in fitting)
    for (spec, outcome), timing in zip(fitting, timings, strict=True):
        ran = cache.clock(spec) if _is_run(spec, outcome, run) else None
        found = speed_records(spec, outcome, timing, ran, sheet)
        yield from with_costs(found, place(sheet), price)


def _is_run(spec: ProgramSpec, planned: Outcome, run: bool) -> bool:
    """Returns whether a program is run: where the target is present and has ample room for it.

    `run`: also on a CPU.
    """
    if isinstance(planned, Failed) or not place(spec.target).present:
        return False
    wanted = run or planned.definition == PEAK
    return wanted and planned.total <= RUN_SHARE * planned.memory


def _exponent(at: Mapping[str, str], outcomes: Mapping[int, Outcome]) -> Iterator[Record]:
    """Yields the exponent of what grows in a phase, and half the width of its interval."""
    measured = {length: each for length, each in outcomes.items() if isinstance(each, Measurement)}
    grows = GROWS[at["phase"]]
    if fit := exponent(list(measured), [grows(each) for each in measured.values()]):
        yield Record(EVALUATOR, "exponent", fit.b, at, n=len(measured))
        yield Record(EVALUATOR, "exponent_half", fit.half, at, n=len(measured))


def _actual(
    cache: MeasurementCache,
    spec: Callable[[int], ProgramSpec],
    outcomes: Mapping[int, Outcome],
    run: bool,
) -> Iterator[Record]:
    """Yields the bytes of training steps that ran, and those that were planned."""
    for length, planned in outcomes.items():
        if not _is_run(spec(length), planned, run):
            continue
        at, actual = dict(target=spec(length).target, context=length), cache.run(spec(length))
        if isinstance(actual, Failed):
            yield Record(EVALUATOR, "actual_bytes", at=at, status="failed", note=actual.reason)
        else:
            yield Record(EVALUATOR, "planned_bytes", actual.planned, at)
            yield Record(EVALUATOR, "actual_bytes", actual.peak, at)
