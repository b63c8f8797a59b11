"""Whether a run trains and serves on a target, with which changes, and how much fits.

    found = serving_capacity(cache, config, place("tpu-v5e:2x2"), 131072)
    results = Results(program_source("mamba", config), ()).with_found(found)
    results.value("costs", "sequences", target="tpu-v5e:2x2", context=131072)

Records are those of programs (seqarch.costs.results), and of what follows from them. Programs that
train are also told apart by the `change` of the config, such as "model.remat=True".
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.changes import Change, apply_changes, candidate_changes, change_text
from seqarch.costs.devices import Placement, place
from seqarch.costs.limits import (
    MAX_SEQUENCES,
    bytes_without_rows,
    device_memory,
    most_sequences,
    total_bytes,
)
from seqarch.costs.results import EVALUATOR, largest_record, place_of, program_records
from seqarch.costs.search import Largest, largest
from seqarch.costs.spec import Failed, Outcome, ProgramSpec
from seqarch.costs.speed import estimate_records, speed_bound
from seqarch.costs.time import has_estimates
from seqarch.errors import NoResult
from seqarch.model import count_parameters
from seqarch.records import Fact, Record

SPEED = "bound_tokens_per_s"


class MeasuredProgram(NamedTuple):
    """A program and what it needs.

    Attributes:
      spec: the program.
      outcome: what it needs.
      at: what its records are measured at.
    """

    spec: ProgramSpec
    outcome: Outcome
    at: dict[str, Any]

    @property
    def fits(self) -> bool:
        """Whether the program fits the target."""
        return self.outcome.fits

    def records(self) -> Iterator[Record]:
        """Yields the bytes of the program and its FLOPs."""
        return program_records(self.outcome, self.at)

    def speed(self) -> Record:
        """Returns the record of `speed_bound`, whose note says what limits the speed."""
        if bound := speed_bound(self.spec, self.outcome):
            return Record(EVALUATOR, SPEED, bound.tokens, self.at, note=f"limited by {bound.limit}")
        if isinstance(self.outcome, Failed):
            return Record(EVALUATOR, SPEED, at=self.at, status="failed", note=self.outcome.reason)
        lacking = "no data sheet of this device"
        return Record(EVALUATOR, SPEED, at=self.at, status="not_run", note=lacking)

    def estimates(self, cache: MeasurementCache) -> Iterator[Record]:
        """Yields the time of the program, where it fits and its compiler tells one."""
        if self.fits and has_estimates(place(self.spec.target)):
            (timing,) = cache.estimate_all([self.spec])
            yield from estimate_records(self.spec, self.outcome, timing, self.at)


def target_facts(config: Config, placement: Placement, context: int) -> Iterator[Record | Fact]:
    """Yields the number of parameters, the context, and facts about the target."""
    target = placement.target
    yield Record(EVALUATOR, "params", count_parameters(config.model))
    yield Fact(EVALUATOR, "context", context)
    yield Fact(EVALUATOR, "target", placement.name)
    yield Fact(EVALUATOR, "devices", placement.count)
    yield Fact(EVALUATOR, "data_sheet", target.source)
    offered = target.platform == "tpu"
    yield Fact(EVALUATOR, "memory_source", "libtpu" if offered else target.source)


def training_capacity(
    cache: MeasurementCache,
    config: Config,
    placement: Placement,
    context: int,
    *,
    timed: bool = False,
) -> Iterator[Record]:
    """Tries changes of a config until its batch fits, then finds the largest batch.

    Where the devices do not divide the config's batch, all attempts have the next one that they do.

    Args:
      cache: measures programs.
      config: the run's config.
      placement: the target.
      context: tokens of a row.
      timed: also tell the time of the step, where the compiler estimates it.

    Yields:
      The train steps of all attempts: from the cheapest change on, up to the first that fits, then
      those that leave out changes which it may not need. After them the largest batch of the
      attempt that fits with the fewest changes, or else of the last, and its speed if it fits.

    Raises:
      NoResult: where no program could be compiled, after the records that say so.
    """
    attempts, chosen = _attempts(cache, config, placement, context)
    for attempt in attempts:
        yield from attempt.records()
    memory = _memory(attempts)
    fit = _largest_batch(cache, chosen, placement.count, memory)
    change = chosen.at["change"]
    at = dict(target=placement.name, phase="train", context=context, change=change)
    yield largest_record("largest_batch", at, fit)
    if fit.beyond:
        yield Record(EVALUATOR, "batch_beyond", fit.beyond, at)
    if chosen.fits:
        yield chosen.speed()
        if timed:
            yield from chosen.estimates(cache)


def _attempts(
    cache: MeasurementCache, config: Config, placement: Placement, context: int
) -> tuple[list[MeasuredProgram], MeasuredProgram]:
    """Returns the train steps of all attempts, and the chosen one."""
    attempts: list[MeasuredProgram] = []
    unit = placement.count * config.optim.accumulate
    config = dataclasses.replace(config, batch=-(-config.batch // unit) * unit)

    def fits(changes: Sequence[Change]) -> bool:
        changed = apply_changes(config, changes)
        spec = ProgramSpec(changed, "train", config.batch, context, placement.name)
        at = place_of(spec) | dict(change=change_text(changes))
        attempts.append(MeasuredProgram(spec, cache.measure(spec), at))
        return attempts[-1].fits

    candidates = candidate_changes(config, placement.count)
    changes = next((changes for changes in candidates if fits(changes)), ())
    chosen = attempts[-1]
    for change in changes[:-1]:
        if fits(fewer := [each for each in changes if each is not change]):
            changes, chosen = fewer, attempts[-1]
    return attempts, chosen


def _largest_batch(
    cache: MeasurementCache, chosen: MeasuredProgram, devices: int, memory: int
) -> Largest:
    """Returns the largest batch that leaves whole rows to each device and micro-batch."""
    spec, outcome = chosen.spec, chosen.outcome
    unit = devices * spec.config.optim.accumulate
    known = bytes_without_rows(outcome) | {spec.batch // unit: total_bytes(outcome)}

    def total(units: int) -> int | None:
        return total_bytes(cache.measure(spec._replace(batch=units * unit)))

    units = largest(total, memory, known, MAX_SEQUENCES)
    return Largest(units.size * unit, units.beyond and units.beyond * unit)


def serving_capacity(
    cache: MeasurementCache,
    config: Config,
    placement: Placement,
    context: int,
    *,
    timed: bool = False,
) -> Iterator[Record]:
    """Finds how many sequences are served at once, and the speeds of one and of all.

    Args:
      cache: measures programs.
      config: the run's config.
      placement: the target.
      context: tokens of a sequence.
      timed: also tell the times of both, where the compiler estimates them.

    Yields:
      Decoding and a segment of prefill of one sequence, and how many sequences fit at once, 0 where
      one of the two does not. Then, for one sequence and for all: prefill with states for half of
      the context, the average over a prompt, decoding, and the speeds of both.

    Raises:
      NoResult: where the decoding loop could not be compiled, after the records that say so.
    """

    def measure(phase: str, rows: int, length: int) -> MeasuredProgram:
        spec = ProgramSpec(config, phase, rows, length, placement.name)
        return MeasuredProgram(spec, cache.measure(spec), place_of(spec))

    first = measure("decode", 1, context), measure("prefill", 1, context)
    for each in first:
        yield from each.records()
    _memory(first[:1])
    fits = all(each.fits for each in first)
    most = Largest(0, 1)
    if fits:
        most = most_sequences(cache, config, placement.name, context) or Largest(1, None)
    yield largest_record("sequences", dict(target=placement.name, context=context), most)
    half = max(context // 2, 1)
    for rows in dict.fromkeys((1, most.size) if fits else ()):
        prefill, decode = measure("prefill", rows, half), measure("decode", rows, context)
        for each in (prefill, decode):
            if each not in first:
                yield from each.records()
        yield prefill.speed()
        yield decode.speed()
        if timed:
            yield from prefill.estimates(cache)
            yield from decode.estimates(cache)


def _memory(programs: Sequence[MeasuredProgram]) -> int:
    """Returns the device's memory; raises NoResult where all programs failed."""
    memory = device_memory([each.outcome for each in programs])
    if memory is None:
        raise NoResult(f"nothing could be compiled: {programs[0].outcome.reason}")
    return memory
