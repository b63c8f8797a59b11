"""Results as records: numbers with what they were measured at, and whose they are.

    results = Results(source, (Record("memory", "state_bytes", 65536, {"context": 4096}),))
    write(run / "records.jsonl", [results])
    results.value("memory", "state_bytes", context=4096)

A records file holds one JSON object a line: each source, followed by its records. Tables, figures,
TensorBoard and CSV are rendered from records, at any time, without measuring again.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqarch.errors import UserError, unknown
from seqarch.files import has_shape, parse_json, write_text

VERSION = 1  # of the schema
STATUSES = ("ok", "over", "oom", "diverged", "failed", "not_run")
NAME = "records.jsonl"  # of the file in a run directory
UNMEASURED = ("log_every", "profile", "checkpoint")  # fields of a config that change no result

# Lines of a records file, beside its first.
SOURCE = {
    "id": str,
    "source": {
        **{name: str for name in ("member", "kind", "split")},
        **{name: dict for name in ("config", "provenance")},
        "step": int | None,
        "seeds": {"*": int},
        "facts": {"*": dict},
    },
}
RECORD = {
    **{name: str for name in ("run", "evaluator", "metric", "status?", "note?")},
    "value?": int | float | list | None,
    "at?": dict,
    "n?": int | None,
}

Scalar = float | int
Value = Scalar | list


@dataclasses.dataclass(frozen=True)
class Record:
    """One result of an evaluator.

    Attributes:
      evaluator: who measured it; it declares what the metric is.
      metric: what was measured.
      value: a number, or nested lists of numbers; None where there is none.
      at: what it was measured at, such as {"context": 4096}; for an array the names of its axes in
        order, with their coordinates.
      n: how many items the value is a mean of.
      status: "ok"; "over": the true value is at least this one; "oom": it exceeds the device's
        memory; "diverged", "failed" or "not_run": there is no value.
      note: one line.
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
        return isinstance(self.value, (int, float))

    @property
    def key(self) -> tuple:
        return _key(self.evaluator, self.metric, self.at)


class Fact(NamedTuple):
    """A text about a source that an evaluator found, such as the definition of its bytes."""

    evaluator: str
    name: str
    value: Any


@dataclasses.dataclass(frozen=True)
class Source:
    """Whose records they are.

    Attributes:
      member: its name in tables.
      kind: "run", "baseline", "search" (runs that chose a learning rate), "program" or "benchmark".
      config: of the run (`seqarch.config.to_dict`); empty where there is none.
      step: of the checkpoint that was measured.
      split: of the held-out data that scores are of.
      seeds: {"model": 0, "data": 0}.
      provenance: revision, dirty, versions, devices and command (`seqarch.provenance`).
      facts: by evaluator, the texts that it found.
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
        """A digest of what decides its values: member, config, step, split, revision and device."""
        made = {name: self.provenance.get(name) for name in ("revision", "devices")}
        decisive = [self.member, self.kind, self.config, self.step, self.split, self.seeds, made]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def revision(self) -> str:
        """The commit that measured it, and whether the tree differed from it."""
        dirty = " (modified)" if self.provenance.get("dirty") else ""
        return (self.provenance.get("revision") or "unknown") + dirty


class Results(NamedTuple):
    """The records of one source."""

    source: Source
    records: tuple[Record, ...]

    @property
    def evaluators(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(record.evaluator for record in self.records))

    def find(self, evaluator: str, metric: str, **at: Any) -> Record | None:
        """The record of just this; None where there is none."""
        key = _key(evaluator, metric, at)
        return next((record for record in self.records if record.key == key), None)

    def all(self, evaluator: str, metric: str) -> list[Record]:
        """The records of a metric, whatever they were measured at."""
        asked = evaluator, metric
        return [record for record in self.records if (record.evaluator, record.metric) == asked]

    def value(self, evaluator: str, metric: str, **at: Any) -> Value | None:
        """The value of just this; None where there is none."""
        record = self.find(evaluator, metric, **at)
        return record.value if record else None

    def fact(self, evaluator: str, name: str) -> Any:
        return self.source.facts.get(evaluator, {}).get(name)

    def with_found(self, found: Iterable[Record | Fact]) -> "Results":
        """These results with what an evaluator yields."""
        records = list(self.records)
        facts = {name: dict(each) for name, each in self.source.facts.items()}
        for each in found:
            if isinstance(each, Fact):
                facts.setdefault(each.evaluator, {})[each.name] = each.value
            else:
                records.append(each)
        return Results(dataclasses.replace(self.source, facts=facts), tuple(records))


def write(path: Path, results: Sequence[Results], about: Mapping[str, Any] | None = None) -> None:
    """Writes a records file, at once or not at all.

    about: what the sources have in common, such as the title and the notice of a comparison
    """
    lines = [dict(version=VERSION, about=dict(about or {}))]
    for source, records in results:
        lines.append(dict(source=dataclasses.asdict(source), id=source.id))
        lines += [dict(run=source.id) | _plain(record) for record in records]
    write_text(path, "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines))


class RecordsFile(NamedTuple):
    """What a records file holds."""

    about: dict[str, Any]
    results: list[Results]


def read(path: Path) -> RecordsFile:
    """Reads a records file.

    Raises:
      UserError: where there is no such file, it is of another version of the schema, or not what
        `write` wrote.
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
    for line in lines[1:]:
        if not has_shape(line, SOURCE if "source" in line else RECORD):
            raise ValueError("a line is neither a source nor a record")
        if "source" in line:
            sources[line["id"]] = Source(**line["source"])
            records[line["id"]] = []
        else:
            records[line.pop("run")].append(Record(**line))
    results = [Results(source, tuple(records[id])) for id, source in sources.items()]
    return RecordsFile(dict(lines[0]["about"]), results)


def answers(known: Source, asked: Source) -> bool:
    """Whether records of `known` are of what is asked: the same config, step and split."""
    same = (known.step, known.split) == (asked.step, asked.split)
    return same and _measured(known.config) == _measured(asked.config)


def fresh(known: Source, now: Source) -> bool:
    """Whether records of `known` may stand beside new ones: also of the same revision and versions.

    A tree that was changed by hand has no name, so nothing is fresh there.
    """
    if now.provenance.get("dirty") is not False or not answers(known, now):
        return False
    same = ("revision", "dirty", "versions")
    return all(known.provenance.get(name) == now.provenance[name] for name in same)


def tag(record: Record) -> str:
    """The name of a scalar where a flat one is wanted: "memory/state_bytes@4096"."""
    place = ",".join(
        str(value) if name == "context" else f"{name}={value}" for name, value in record.at.items()
    )
    return f"{record.evaluator}/{record.metric}" + (f"@{place}" if place else "")


def _measured(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config that change what is measured."""
    return {name: value for name, value in config.items() if name not in UNMEASURED}


def _key(evaluator: str, metric: str, at: Mapping[str, Any]) -> tuple:
    frozen = (
        (name, tuple(value) if isinstance(value, (list, tuple)) else value)
        for name, value in at.items()
    )
    return evaluator, metric, tuple(sorted(frozen))


def _plain(record: Record) -> dict[str, Any]:
    """The fields of a record that say something; what is not finite has no value."""
    given = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    if not _is_finite(record.value):
        given |= dict(value=None, status="diverged" if record.status == "ok" else record.status)
    needless = dict(value=None, at={}, n=None, status="ok", note="")
    return {
        name: value
        for name, value in given.items()
        if name not in needless or value != needless[name]
    }


def _is_finite(value: Value | None) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
