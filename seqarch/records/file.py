"""The file of records: how it is written, and the shapes of its lines."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqarch.errors import UserError
from seqarch.files import has_shape, parse_json, write_text
from seqarch.records.record import Record, Results, Source

VERSION = 1  # of the schema
NAME = "records.jsonl"  # of the file in a run directory
LARGEST = 1e100  # absolute value of any number; figures overflow from 1e300 on

# The shapes of all lines of a records file but the first.
CONFIG = {
    **{f"{name}?": dict for name in ("data", "optim", "seed", "mesh", "eval", "checkpoint")},
    "model?": {"mixer?": str} | {f"{name}?": int for name in ("layers", "dim", "mlp", "conv")},
    "task?": str,
}
PROVENANCE = {
    "revision?": str | None,
    "dirty?": bool | None,
    "versions?": dict | list,
    "command?": [str],
    "again?": str,
    "host?": dict,
    "devices?": {"platform": str, "kind": str, "count": int},
}
SOURCE = {
    "id": str,
    "source": {
        **{name: str for name in ("member", "kind", "split")},
        "config": CONFIG,
        "provenance": PROVENANCE,
        "step": int | None,
        "seeds": {"*": int},
        "facts": {"*": dict},
    },
}
RECORD = {
    **{name: str for name in ("run", "evaluator", "metric", "status?", "note?")},
    "value?": int | float | list | None,
    "at?": {"*": int | float | str | list},
    "n?": int | None,
}


def write(path: Path, results: Sequence[Results], about: Mapping[str, Any] | None = None) -> None:
    """Writes a records file, completely or not at all.

    Args:
      path: the file.
      results: sources with their records.
      about: what the sources have in common, such as the title and the notice of a comparison.
    """
    lines = [dict(version=VERSION, about=dict(about or {}))]
    for source, records in results:
        lines.append(dict(source=dataclasses.asdict(source), id=source.id))
        lines += [dict(run=source.id) | _plain(record) for record in records]
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


class RecordsFile(NamedTuple):
    """What a records file holds.

    Attributes:
      about: what its sources have in common.
      results: sources with their records.
    """

    about: dict[str, Any]
    results: list[Results]


def replace(
    path: Path, found: Sequence[Results], about: Mapping[str, Any], key: Callable[[Results], Any]
) -> None:
    """Writes results into a file, in place of those with the same keys; other ones stay.

    Args:
      path: the file, which need not exist.
      found: the results.
      about: the file.
      key: of a result, by which the file is sorted.
    """
    known = read(path).results if path.exists() else []
    new = set(map(key, found))
    kept = [each for each in known if key(each) not in new]
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, sorted([*kept, *found], key=key), about)


def read(path: Path) -> RecordsFile:
    """Reads a records file.

    Raises:
      UserError: where there is no such file, where it has another version of the schema, and where
        `write` did not write it.
    """
    try:
        lines = [parse_json(line) for line in path.read_text("utf-8").splitlines()]
        version = lines[0]["version"]
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {path}; give the {NAME} of a run, which eval.py writes, or of a report"
        ) from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} holds no records; move it away and measure again") from error
    if version != VERSION:
        raise UserError(
            f"{path} has records of version {version}; this revision reads version {VERSION}: "
            "measure again"
        )
    try:
        return _parse(lines)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, UserError) as error:
        raise UserError(f"{path} is damaged ({error}); move it away and measure again") from error


def _parse(lines: Sequence[dict[str, Any]]) -> RecordsFile:
    sources: dict[str, Source] = {}
    records: dict[str, list[Record]] = {}
    for number, line in enumerate(lines[1:], 2):
        is_source = "source" in line
        if not _is_finite(line) or not (has_shape(line, SOURCE) if is_source else _is_record(line)):
            raise ValueError(f"line {number} is neither a source nor a record")
        if is_source:
            sources[line["id"]] = Source(**line["source"])
            records[line["id"]] = []
        else:
            records[line.pop("run")].append(Record(**line))
    results = [Results(source, tuple(records[id])) for id, source in sources.items()]
    return RecordsFile(dict(lines[0]["about"]), results)


def _is_record(line: Any) -> bool:
    """Returns whether a line is a record whose value has the shape of its axes."""
    if not has_shape(line, RECORD):
        return False
    axes = [each for each in line.get("at", {}).values() if isinstance(each, list)]
    is_placed = all(has_shape(each, [int | float | str]) for each in axes)
    return is_placed and (line.get("value") is None or _spans(line["value"], axes))


def _spans(value: Any, axes: Sequence[list]) -> bool:
    """Returns whether a value is a number, or nested lists of numbers along `axes`."""
    if not axes:
        return has_shape(value, int | float)
    is_long = isinstance(value, list) and 0 < len(value) == len(axes[0])
    return is_long and all(_spans(each, axes[1:]) for each in value)


def _plain(record: Record) -> dict[str, Any]:
    """Returns the fields of a record that differ from their defaults.

    A value that is not finite is left out, and its status is then "diverged".
    """
    given = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    if not _is_finite(record.value):
        given |= dict(value=None, status="diverged" if record.status == "ok" else record.status)
    defaults = dict(value=None, at={}, n=None, status="ok", note="")
    differs = (name for name in given if name not in defaults or given[name] != defaults[name])
    return {name: given[name] for name in differs}


def _is_finite(value: Any) -> bool:
    """Returns whether all numbers within are finite, and no larger than LARGEST."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, (int, float)) or abs(value) <= LARGEST
