"""The records of claims: what is measured, and how it is read again."""

from collections.abc import Mapping
from typing import Any

from seqarch.errors import UserError
from seqarch.records import Record, Results, Value, tag
from seqarch.stats.fits import Exponent, exponent

EVALUATOR = "claims"  # of the records
LOCAL = "local"
WORKING, STATE = "working_bytes", "state_bytes"


def record(metric: str, value: Value, **at: Any) -> Record:
    """Returns the record of a value that was measured at `at`."""
    return Record(EVALUATOR, metric, value, at)


def unmeasured(metric: str, status: str, note: str, **at: Any) -> Record:
    """Returns the record of a value that could not be measured, with the reason."""
    return Record(EVALUATOR, metric, at=at, status=status, note=note)


def value(found: Results, metric: str, **at: Any) -> Value:
    """Returns the value that was measured at `at`.

    Raises:
      UserError: where there is none.
    """
    each = found.find(EVALUATOR, metric, **at) or Record(EVALUATOR, metric, at=at)
    if each.value is None:
        raise _missing(each)
    return each.value


def curve(found: Results, metric: str, **at: Any) -> dict[int, Value]:
    """Returns the values of a metric by context, of all places that `at` is part of.

    Raises:
      UserError: where there is none.
    """
    records = found.all(EVALUATOR, metric, **at)
    values = {each.at["context"]: each.value for each in records if each.value is not None}
    if not values:
        raise _missing(records[0] if records else Record(EVALUATOR, metric, at=at))
    return values


def _missing(each: Record) -> UserError:
    reason = f": {each.note}" if each.note else ""
    return UserError(f"{tag(each)} was not measured{reason}")


def fitted(values: Mapping[int, Value]) -> Exponent | None:
    """Returns the exponent of a curve; None where it has too few points."""
    return exponent(list(values), list(values.values()))
