"""The records of claims: what is measured, and how it is read again."""

import math
from collections.abc import Mapping
from typing import Any

from seqarch.errors import UserError
from seqarch.files import has_shape
from seqarch.records import Record, Results, Value, tag
from seqarch.stats.exponents import Exponent, exponent

EVALUATOR = "claims"  # of the records
LOCAL = "local"
WORKING, STATE = "working_bytes", "state_bytes"
TOLD_APART, TURNS = "told_apart", "turns_per_layer"  # which may be 0, and others may not


def record(metric: str, value: Value, **at: Any) -> Record:
    """Returns the record of a value that was measured at `at`."""
    return Record(EVALUATOR, metric, value, at)


def unmeasured(metric: str, status: str, note: str, **at: Any) -> Record:
    """Returns the record of a value that could not be measured, with the reason."""
    return Record(EVALUATOR, metric, at=at, status=status, note=note)


def value(found: Results, metric: str, **at: Any) -> Value:
    """Returns the value that was measured at `at`.

    Raises:
      UserError: where there is none, and for a value that cannot have been measured.
    """
    each = found.find(EVALUATOR, metric, **at) or Record(EVALUATOR, metric, at=at)
    if each.value is None:
        raise _missing(each)
    _check(each)
    return each.value


def places(found: Results, metric: str, shape: Mapping[str, type], **at: Any) -> list[Record]:
    """Returns the records of a metric, of all places that `at` is part of.

    Raises:
      UserError: where a place has not the names of `shape` (`seqarch.files.has_shape`), and for a
        value that cannot have been measured.
    """
    records = found.all(EVALUATOR, metric, **at)
    for each in records:
        _check(each)
    if lacking := [each for each in records if not has_shape(each.at, shape)]:
        raise UserError(
            f"the record {tag(lacking[0])} is damaged: it lacks {', '.join(shape)}; measure again"
        )
    return records


def curve(found: Results, metric: str, **at: Any) -> dict[int, Value]:
    """Returns the values of a metric by context, of all places that `at` is part of.

    Raises:
      UserError: where there is none.
    """
    records = places(found, metric, {"context": int}, **at)
    values = {each.at["context"]: each.value for each in records if each.value is not None}
    if not values:
        raise _missing(records[0] if records else Record(EVALUATOR, metric, at=at))
    return values


def common(*curves: Mapping[int, Value]) -> list[dict[int, Value]]:
    """Returns curves at the contexts that all of them have.

    Raises:
      UserError: where there is none.
    """
    contexts = [n for n in curves[0] if all(n in each for each in curves)]
    if not contexts:
        raise UserError("no length has all that is compared; measure again")
    return [{n: each[n] for n in contexts} for each in curves]


def _check(each: Record) -> None:
    """Raises UserError for a value that cannot have been measured, such as 0 bytes."""
    least = 0 if each.metric in (TOLD_APART, TURNS) else math.ulp(0)
    if each.value is not None and not (each.is_scalar and each.value >= least):
        raise UserError(f"the record {tag(each)} is damaged: it is {each.value}; measure again")


def _missing(each: Record) -> UserError:
    reason = f": {each.note}" if each.note else ""
    return UserError(f"{tag(each)} was not measured{reason}")


def fitted(values: Mapping[int, Value]) -> Exponent | None:
    """Returns the exponent of a curve; None where it has too few points."""
    return exponent(list(values), list(values.values()))
