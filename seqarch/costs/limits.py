"""The largest sizes that fit a target: the longest context, and the most sequences at once."""

from collections.abc import Callable, Iterable, Mapping

from seqarch.config import Config
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement
from seqarch.costs.search import Largest, largest
from seqarch.costs.spec import Failed, Outcome, ProgramSpec

MAX_CONTEXT = 2**24  # tokens; the search ends there
MAX_SEQUENCES = 2**20  # at once; the search ends there


def longest_context(
    cache: MeasurementCache, spec: Callable[[int], ProgramSpec], outcomes: Mapping[int, Outcome]
) -> Largest | None:
    """Returns the longest context whose program fits; None where none could be compiled.

    Args:
      cache: measures programs.
      spec: returns the program of a context.
      outcomes: those that are measured already, by context.
    """
    memory = device_memory(outcomes.values())
    if memory is None:
        return None
    known = {length: total_bytes(outcome) for length, outcome in outcomes.items()}

    def total(length: int) -> int | None:
        return total_bytes(cache.measure(spec(length)))

    return largest(total, memory, known, MAX_CONTEXT)


def most_sequences(
    cache: MeasurementCache, config: Config, target: str, length: int
) -> Largest | None:
    """Returns the largest batch of a decoding loop that fits.

    Only multiples of the number of devices are tried, which leave whole rows to each device. Where
    not even one row on each device fits, fewer are tried, whose states share their heads if they
    can.

    Args:
      cache: measures programs.
      config: the run's config.
      target: the devices.
      length: tokens of context of each sequence.

    Returns:
      None where the loop of one row on each device fails to compile.
    """
    devices = place(target).count

    def outcome(rows: int) -> Outcome:
        return cache.measure(ProgramSpec(config, "decode", rows, length, target))

    def total(rows: int) -> int | None:
        return total_bytes(outcome(rows))

    memory, empty = device_memory([outcome(devices)]), bytes_without_rows(outcome(devices))
    if memory is None:
        return None
    fit = largest(lambda n: total(n * devices), memory, empty, MAX_SEQUENCES)
    if fit.size or devices == 1:
        return Largest(fit.size * devices, fit.beyond and fit.beyond * devices)
    fit = largest(total, memory, empty, devices - 1)
    return Largest(fit.size, fit.beyond or devices)


def total_bytes(outcome: Outcome) -> int | None:
    """Returns the bytes that a program needs; None where it failed."""
    return None if isinstance(outcome, Failed) else outcome.total


def bytes_without_rows(outcome: Outcome) -> dict[int, int]:
    """Returns the bytes that a program needs without any rows, by their number 0, for `largest`.

    The result is empty where the program failed.
    """
    return {} if isinstance(outcome, Failed) else {0: outcome.parameters + outcome.optimizer}


def device_memory(outcomes: Iterable[Outcome]) -> int | None:
    """Returns the bytes that a device has for programs; None where all programs failed."""
    return next((outcome.memory for outcome in outcomes if isinstance(outcome, Measurement)), None)
