"""The largest sizes that fit a target: the longest context, and the most sequences at once."""

from collections.abc import Callable, Iterable, Mapping

from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement
from seqarch.costs.search import Largest, largest
from seqarch.costs.spec import Failed, Outcome, ProgramSpec

LONGEST = 2**24  # tokens; a context that still fits is said to be longer
MOST = 2**20  # sequences at once


def longest_context(
    cache: MeasurementCache, spec: Callable[[int], ProgramSpec], outcomes: Mapping[int, Outcome]
) -> Largest | None:
    """Returns the longest context whose program fits; None where none could be compiled.

    Args:
      cache: measures programs.
      spec: the program of a context.
      outcomes: by context, those that are measured already.
    """
    memory = memory_of(outcomes.values())
    if memory is None:
        return None
    known = {length: needed(outcome) for length, outcome in outcomes.items()}
    return largest(lambda length: needed(cache.measure(spec(length))), memory, known, LONGEST)


def most_sequences(
    cache: MeasurementCache, config: Config, target: str, length: int
) -> Largest | None:
    """Returns the largest batch of a decoding step that fits; None where the devices' own number of
    rows fails to compile.

    Only multiples of that number are tried, which leave whole rows to each device; where not even
    one a device fits, fewer are, which share the heads of their states if they can.
    """
    devices = place(target).count

    def outcome(rows: int) -> Outcome:
        return cache.measure(ProgramSpec(config, "decode", rows, length, target))

    def total(rows: int) -> int | None:
        return needed(outcome(rows))

    memory, empty = memory_of([outcome(devices)]), without_rows(outcome(devices))
    if memory is None:
        return None
    fit = largest(lambda n: total(n * devices), memory, empty, MOST)
    if fit.size or devices == 1:
        return Largest(fit.size * devices, fit.beyond and fit.beyond * devices)
    fit = largest(total, memory, empty, devices - 1)
    return Largest(fit.size, fit.beyond or devices)


def needed(outcome: Outcome) -> int | None:
    """Returns the bytes of a program, for `largest`; None where it failed."""
    return None if isinstance(outcome, Failed) else outcome.total


def without_rows(outcome: Outcome) -> dict[int, int]:
    """Returns the bytes of a program without any rows, for `largest`; none where it failed."""
    return {} if isinstance(outcome, Failed) else {0: outcome.parameters + outcome.optimizer}


def memory_of(outcomes: Iterable[Outcome]) -> int | None:
    """Returns what the device has for programs; None where all failed."""
    return next((outcome.memory for outcome in outcomes if isinstance(outcome, Measurement)), None)
