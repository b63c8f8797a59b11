"""Whether a run trains and serves on a target, with which changes, and how much fits."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import Placement
from seqarch.costs.limits import (
    MAX_SEQUENCES,
    bytes_without_rows,
    device_memory,
    most_sequences,
    total_bytes,
)
from seqarch.costs.memory import Measurement
from seqarch.costs.search import Largest, largest
from seqarch.costs.spec import Failed, Outcome, ProgramSpec
from seqarch.errors import NoResult

Change = dict[str, int]  # fields of a config that change together, by their dotted names
PARTS = ("parameters", "optimizer", "state", "working")


class Attempt(NamedTuple):
    """A changed config, and what its train step needs.

    Attributes:
      change: the changes, in words.
      config: the config with them.
      outcome: the train step of the config's batch.
    """

    change: str
    config: Config
    outcome: Outcome

    @property
    def fits(self) -> bool:
        """Whether the train step fits the target."""
        return isinstance(self.outcome, Measurement) and self.outcome.fits


class TrainingCapacity(NamedTuple):
    """How a run trains on a target.

    Where the devices do not divide the config's batch, all attempts have the next one that they do.

    Attributes:
      attempts: from the cheapest change on, up to the first that fits; then those that leave out
        changes which it may not need.
      chosen: the attempt that fits with the fewest changes, or else the last.
      batch: the largest batch of the chosen attempt.
    """

    attempts: list[Attempt]
    chosen: Attempt
    batch: Largest


class ServingCapacity(NamedTuple):
    """How a run serves on a target.

    Attributes:
      sequences: that fit at once; 0 where decoding or prefill of a single one does not.
      capped: whether the search for more sequences ended there.
      decode: the decoding loop of one sequence.
      decode_all: the decoding loop of all of them.
      prefill: a segment of the prompt of one sequence.
      half_prefill: a segment with states for half of the context, the average over a prompt.
      half_prefill_all: that for all sequences.
    """

    sequences: int
    capped: bool
    decode: Outcome
    decode_all: Outcome
    prefill: Outcome
    half_prefill: Outcome
    half_prefill_all: Outcome


def training_capacity(
    cache: MeasurementCache, config: Config, placement: Placement, context: int
) -> TrainingCapacity:
    """Tries changes of a config until its batch fits, then finds the largest batch.

    Args:
      cache: measures programs.
      config: the run's config.
      placement: the target.
      context: tokens of a row.

    Raises:
      NoResult: where no program could be compiled.
    """
    attempts: list[Attempt] = []
    unit = placement.count * config.optim.accumulate
    config = dataclasses.replace(config, batch=-(-config.batch // unit) * unit)

    def measure(config: Config, batch: int) -> Outcome:
        return cache.measure(ProgramSpec(config, "train", batch, context, placement.name))

    def fits(changes: Sequence[Change]) -> bool:
        changed = _changed(config, changes)
        attempts.append(Attempt(_words(changes), changed, measure(changed, changed.batch)))
        return attempts[-1].fits

    changes = next((changes for changes in _changes(config, placement.count) if fits(changes)), ())
    chosen = attempts[-1]
    for change in changes[:-1]:
        if fits(fewer := [each for each in changes if each is not change]):
            changes, chosen = fewer, attempts[-1]
    unit = placement.count * chosen.config.optim.accumulate
    memory = _memory([each.outcome for each in attempts])
    known = bytes_without_rows(chosen.outcome)
    known |= {chosen.config.batch // unit: total_bytes(chosen.outcome)}
    units = largest(
        lambda n: total_bytes(measure(chosen.config, n * unit)), memory, known, MAX_SEQUENCES
    )
    batch = Largest(units.size * unit, units.beyond and units.beyond * unit)
    return TrainingCapacity(attempts, chosen, batch)


def _words(changes: Sequence[Change]) -> str:
    pairs = [f"{name}={value}" for change in changes for name, value in change.items()]
    return ", ".join(pairs) or "as configured"


def _changes(config: Config, devices: int) -> Iterator[list[Change]]:
    """Yields no change, then ever more: rematerialisation, sharded parameters, accumulation.

    Parameters are split over all devices. Accumulation ends at one row on each device.
    """
    changes: list[Change] = []
    yield changes
    if not config.model.remat:
        yield (changes := [*changes, {"model.remat": True}])
    sharded = ((1, -1), (1, devices), (-1, devices))
    if devices > 1 and (config.mesh.data, config.mesh.fsdp) not in sharded:
        yield (changes := [*changes, {"mesh.data": 1, "mesh.fsdp": -1}])
    count = config.optim.accumulate
    counts = [
        n
        for n in range(count + 1, config.batch + 1)
        if config.batch % n == 0 and (config.batch // n) % devices == 0
    ]
    while counts:  # twice as many, or the next number that divides the batch
        count = next((n for n in counts if n >= 2 * count), counts[-1])
        yield [*changes, {"optim.accumulate": count}]
        counts = [n for n in counts if n > count]


def _changed(config: Config, changes: Sequence[Change]) -> Config:
    for name, value in [pair for change in changes for pair in change.items()]:
        group, field = name.split(".")
        changed = dataclasses.replace(getattr(config, group), **{field: value})
        config = dataclasses.replace(config, **{group: changed})
    return config


def serving_capacity(
    cache: MeasurementCache, config: Config, placement: Placement, context: int
) -> ServingCapacity:
    """Finds how many sequences are served at once, and measures their programs.

    Args:
      cache: measures programs.
      config: the run's config.
      placement: the target.
      context: tokens of a sequence.

    Raises:
      NoResult: where the decoding loop could not be compiled.
    """

    def measure(phase: str, rows: int, length: int) -> Outcome:
        return cache.measure(ProgramSpec(config, phase, rows, length, placement.name))

    decode, prefill = measure("decode", 1, context), measure("prefill", 1, context)
    _memory([decode])
    served = all(isinstance(each, Measurement) and each.fits for each in (decode, prefill))
    most = most_sequences(cache, config, placement.name, context) if served else None
    sequences, half = max(most.size if most else 0, int(served)), max(context // 2, 1)
    rows = max(sequences, 1)
    decode_all = measure("decode", rows, context)
    halves = measure("prefill", 1, half), measure("prefill", rows, half)
    capped = most is not None and most.beyond is None
    return ServingCapacity(sequences, capped, decode, decode_all, prefill, *halves)


def largest_part(outcome: Outcome) -> str:
    """Returns what needs most of the memory, in words; why it failed, where it did."""
    if isinstance(outcome, Failed):
        return outcome.reason
    part = max(PARTS, key=lambda name: getattr(outcome, name))
    names = {
        "state": "the state",
        "working": "activations, gradients and other temporaries",
        "optimizer": "the optimizer",
    }
    return names.get(part, part)


def _memory(outcomes: list[Outcome]) -> int:
    """Returns the device's memory; raises NoResult where all programs failed."""
    memory = device_memory(outcomes)
    if memory is None:
        raise NoResult(f"nothing could be compiled: {outcomes[0].reason}")
    return memory
