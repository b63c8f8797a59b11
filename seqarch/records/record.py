"""The classes of records, and whether known ones answer for a run."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from seqarch.errors import unknown

STATUSES = ("ok", "over", "oom", "diverged", "failed", "not_run")
UNMEASURED = ("log_every", "profile", "checkpoint", "trackers")  # fields that change no result

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

    def with_source(self, **fields: Any) -> "Results":
        """Returns these results with other fields of their source."""
        return self._replace(source=dataclasses.replace(self.source, **fields))

    def with_found(self, found: Iterable[Record | Fact]) -> "Results":
        """Returns these results and, after them, what an evaluator yields."""
        records = list(self.records)
        facts = {name: dict(each) for name, each in self.source.facts.items()}
        for each in found:
            if isinstance(each, Fact):
                facts.setdefault(each.evaluator, {})[each.name] = each.value
            else:
                records.append(each)
        return self._replace(records=tuple(records)).with_source(facts=facts)


def answers(known: Source, wanted: Source) -> bool:
    """Returns whether `known` has the config, step and split of `wanted`, at any revision."""
    same = (known.step, known.split) == (wanted.step, wanted.split)
    return same and measured_fields(known.config) == measured_fields(wanted.config)


def fresh(known: Source, now: Source) -> bool:
    """Returns whether `known` also has the revision and the versions of `now`.

    Its records may then stand beside new ones. Nothing is fresh in a tree with uncommitted changes,
    which no revision identifies.
    """
    if now.provenance.get("dirty") is not False or not answers(known, now):
        return False
    same = ("revision", "dirty", "versions")
    return all(known.provenance.get(name) == now.provenance[name] for name in same)


def measured_fields(config: Mapping[str, Any], but: Collection[str] = ()) -> dict[str, Any]:
    """Returns the fields of a config that change results, without those in `but`."""
    return {name: config[name] for name in config if name not in (*UNMEASURED, *but)}


def tag(record: Record) -> str:
    """Returns a flat name for a record's metric, such as "memory/state_bytes@4096"."""
    place = ",".join(
        str(value) if name == "context" else f"{name}={value}" for name, value in record.at.items()
    )
    return f"{record.evaluator}/{record.metric}" + (f"@{place}" if place else "")


def _key(evaluator: str, metric: str, at: Mapping[str, Any]) -> tuple:
    frozen = (
        (name, tuple(value) if isinstance(value, (list, tuple)) else value)
        for name, value in at.items()
    )
    return evaluator, metric, tuple(sorted(frozen))
