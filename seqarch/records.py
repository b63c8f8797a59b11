"""Records: numbers, what they were measured at, and the source that they belong to.

    results = Results(source, (Record("memory", "state_bytes", 65536, {"context": 4096}),))
    write(run / "records.jsonl", [results])
    results.value("memory", "state_bytes", context=4096)

A records file holds one JSON object a line: each source, followed by its records. Tables, figures,
TensorBoard and CSV are rendered from records, at any time, without measuring again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqarch.errors import UserError, unknown
from seqarch.files import has_shape, parse_json, write_text

VERSION = 1  # of the schema
STATUSES = ("ok", "over", "oom", "diverged", "failed", "not_run")
NAME = "records.jsonl"  # of the file in a run directory
LARGEST = 1e100  # absolute value of any number; figures overflow from 1e300 on
UNMEASURED = ("log_every", "profile", "checkpoint", "trackers")  # fields that change no result

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

Scalar = float | int
Value = Scalar | list


@dataclasses.dataclass(frozen=True)
class Record:
    """One result of an evaluator.

    Attributes:
      evaluator: the evaluator that measured it and that declares the metric.
      metric: what was measured.
      value: a number, or nested lists of numbers; None where there is none.
      at: what it was measured at, such as {"context": 4096}; for an array the names of its axes in
        order, with their coordinates.
      n: number of items that the value is a mean or median of.
      status: "ok"; "over": the true value is at least this one; "oom": it exceeds the device's
        memory; "diverged", "failed" or "not_run": there is no value.
      note: one line about the value.
    """

    evaluator: str
    metric: str
    value: Value | None = None
    at: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    n: int | None = None
    status: str = "ok"
    note: str = ""

    def __post_init__(self):
        if self.status not in STATUSES:
            raise unknown("status", self.status, STATUSES)

    @property
    def is_scalar(self) -> bool:
        """Whether the value is one number."""
        return isinstance(self.value, (int, float))

    @property
    def key(self) -> tuple:
        """What is measured and where; hashable."""
        return _key(self.evaluator, self.metric, self.at)


class Fact(NamedTuple):
    """A text about a source that an evaluator found, such as the definition of its bytes.

    Attributes:
      evaluator: the evaluator that found it.
      name: what it is about.
      value: a text, or another value that JSON has.
    """

    evaluator: str
    name: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Source:
    """What records belong to, such as a run.

    Attributes:
      member: its name in tables.
      kind: "run", "baseline", "search" (runs that chose a learning rate), "program" or "benchmark".
      config: that of the run (`seqarch.config.to_dict`); empty where there is none.
      step: that of the checkpoint that was measured.
      split: the held-out data that was scored.
      seeds: those of the run, such as {"model": 0, "data": 0}.
      provenance: revision, dirty, versions, devices and command (`seqarch.provenance`).
      facts: the values of facts, by evaluator and name.
    """

    member: str
    kind: str = "run"
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    step: int | None = None
    split: str = ""
    seeds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    facts: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def id(self) -> str:
        """A digest of what decides its values, such as config, seeds, step, split and revision."""
        made = {name: self.provenance.get(name) for name in ("revision", "devices")}
        decisive = [self.member, self.kind, self.config, self.step, self.split, self.seeds, made]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def revision(self) -> str:
        """The commit that measured it, and whether the tree differed from it."""
        dirty = " (modified)" if self.provenance.get("dirty") else ""
        return (self.provenance.get("revision") or "unknown") + dirty


class Results(NamedTuple):
    """The records of one source, with methods that find them."""

    source: Source
    records: tuple[Record, ...]

    @property
    def evaluators(self) -> tuple[str, ...]:
        """The evaluators that have records, in their order."""
        return tuple(dict.fromkeys(record.evaluator for record in self.records))

    def find(self, evaluator: str, metric: str, **at: Any) -> Record | None:
        """Returns the record of a metric that was measured at `at`; None where there is none."""
        key = _key(evaluator, metric, at)
        return next((record for record in self.records if record.key == key), None)

    def all(self, evaluator: str, metric: str, **at: Any) -> list[Record]:
        """Returns the records of a metric whose `at` includes the given one."""
        wanted = evaluator, metric
        found = (each for each in self.records if (each.evaluator, each.metric) == wanted)
        return [record for record in found if at.items() <= record.at.items()]

    def value(self, evaluator: str, metric: str, **at: Any) -> Value | None:
        """Returns the value of a metric that was measured at `at`; None where there is none."""
        record = self.find(evaluator, metric, **at)
        return record.value if record else None

    def fact(self, evaluator: str, name: str) -> Any:
        """Returns the value of a fact; None where there is none."""
        return self.source.facts.get(evaluator, {}).get(name)

    def with_found(self, found: Iterable[Record | Fact]) -> "Results":
        """Returns these results and, after them, what an evaluator yields."""
        records = list(self.records)
        facts = {name: dict(each) for name, each in self.source.facts.items()}
        for each in found:
            if isinstance(each, Fact):
                facts.setdefault(each.evaluator, {})[each.name] = each.value
            else:
                records.append(each)
        return Results(dataclasses.replace(self.source, facts=facts), tuple(records))


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
        raise UserError(f"there is no {path}; `python eval.py --workdir=RUN` writes it") from error
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


def answers(known: Source, wanted: Source) -> bool:
    """Returns whether `known` has the config, step and split of `wanted`, at any revision."""
    same = (known.step, known.split) == (wanted.step, wanted.split)
    return same and _measured(known.config) == _measured(wanted.config)


def fresh(known: Source, now: Source) -> bool:
    """Returns whether `known` also has the revision and the versions of `now`.

    Its records may then stand beside new ones. Nothing is fresh in a tree with uncommitted changes,
    which no revision identifies.
    """
    if now.provenance.get("dirty") is not False or not answers(known, now):
        return False
    same = ("revision", "dirty", "versions")
    return all(known.provenance.get(name) == now.provenance[name] for name in same)


def tag(record: Record) -> str:
    """Returns a flat name for a record's metric, such as "memory/state_bytes@4096"."""
    place = ",".join(
        str(value) if name == "context" else f"{name}={value}" for name, value in record.at.items()
    )
    return f"{record.evaluator}/{record.metric}" + (f"@{place}" if place else "")


def _measured(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a config that change results."""
    return {name: value for name, value in config.items() if name not in UNMEASURED}


def _key(evaluator: str, metric: str, at: Mapping[str, Any]) -> tuple:
    frozen = (
        (name, tuple(value) if isinstance(value, (list, tuple)) else value)
        for name, value in at.items()
    )
    return evaluator, metric, tuple(sorted(frozen))


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
