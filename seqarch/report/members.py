"""Members of a comparison, each with the results of its runs."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seqarch import records
from seqarch.errors import UserError
from seqarch.evals import evaluator
from seqarch.files import has_shape
from seqarch.records import Record, Results, Value

LADDER = "ladder"  # has the facts "member" and "size" of a run, where members have several sizes
PROBE, PROBE_SEARCH = "probe", "probe_search"  # kinds of sources, beside "run" and "search"


class Member(NamedTuple):
    """A model or a baseline, with its results.

    Attributes:
      name: its name in tables.
      kind: "run" or "baseline".
      results: those of its runs, one for each seed.
      search: those of the runs that chose its learning rate.
      mark: what stands behind its name in tables where members are of several revisions.
    """

    name: str
    kind: str
    results: tuple[Results, ...]
    search: Results | None = None
    mark: str = ""

    @property
    def config(self) -> Mapping[str, Any]:
        """The config of its first run."""
        return self.results[0].source.config

    def value(self, name: str, metric: str, **at: Any) -> Value | None:
        """Returns the value of a metric: the mean over seeds, or the first, as declared."""
        found = [record for each in self.results if (record := each.find(name, metric, **at))]
        values = [record.value for record in found if record.value is not None]
        if not values:
            return None
        return mean(values) if evaluator.find(name).over_seeds else values[0]

    def fact(self, name: str, key: str) -> Any:
        """Returns the value of a fact that any of its runs has; None where none has."""
        facts = (each.fact(name, key) for each in self.results)
        return next((fact for fact in facts if fact is not None), None)


class Comparison(NamedTuple):
    """Members that are compared.

    Attributes:
      title: that of the report.
      notice: what a reader must know before believing a number.
      command: what made the records.
      members: models and baselines.
      probes: results of runs on probes, and of the searches for their learning rates, whose sources
        have the kinds PROBE and PROBE_SEARCH (seqarch.report.abilities).
    """

    title: str
    notice: str
    command: str
    members: tuple[Member, ...]
    probes: tuple[Results, ...] = ()

    @property
    def results(self) -> list[Results]:
        """The results of all members, the searches for their learning rates, and the probes."""
        searches = [member.search for member in self.members if member.search]
        return [*results_of(self.members), *searches, *self.probes]

    @property
    def models(self) -> tuple[Member, ...]:
        """The members that are trained models."""
        return tuple(member for member in self.members if member.kind == "run")

    @property
    def baselines(self) -> tuple[Member, ...]:
        """The members that are baselines."""
        return tuple(member for member in self.members if member.kind == "baseline")


def results_of(members: Iterable[Member]) -> list[Results]:
    """Returns the results of members, one after the other."""
    return [each for member in members for each in member.results]


def places(members: Sequence[Member], name: str, metric: str) -> list[Mapping[str, Any]]:
    """Returns what a metric was measured at in any of the members, in rising order."""
    measured = (record for each in results_of(members) for record in each.all(name, metric))
    found = {record.key: record.at for record in measured}
    return sorted(found.values(), key=_numbers)


def _numbers(at: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(value if isinstance(value, (int, float)) else 0 for value in at.values())


def longest(members: Sequence[Member], name: str, metric: str) -> Mapping[str, Any] | None:
    """Returns the last of `places`; None where there is none."""
    return next(reversed(places(members, name, metric)), None)


def mean(values: Sequence[Value]) -> Value:
    """Returns the mean of numbers, or of arrays entry by entry.

    A value that is the same for all is returned as it is.
    """
    if all(value == values[0] for value in values):
        return values[0]
    return np.mean(np.array(values, float), axis=0).tolist()


def group(results: Iterable[Results]) -> tuple[Member, ...]:
    """Returns members in the order in which they first appear.

    Neither searches nor probes make one.
    """
    runs: dict[str, list[Results]] = {}
    searches: dict[str, Results] = {}
    for each in results:
        if each.source.kind == "search":
            searches[each.source.member] = each
        elif not is_probe(each):
            runs.setdefault(each.source.member, []).append(each)
    known = revisions(each for found in runs.values() for each in found)
    return tuple(
        Member(name, found[0].source.kind, tuple(found), searches.get(name), mark(found, known))
        for name, found in runs.items()
    )


def is_probe(results: Results) -> bool:
    """Returns whether results are those of a probe beside a comparison's text."""
    return results.source.kind in (PROBE, PROBE_SEARCH)


def revisions(results: Iterable[Results]) -> list[str]:
    """Returns the revisions that measured results, in the order in which they first appear."""
    measured = (each.source for each in results if each.source.provenance)
    return list(dict.fromkeys(source.revision for source in measured))


def mark(found: Sequence[Results], known: Sequence[str]) -> str:
    """Returns "[r1]" for results of the first revision of several; "" where there is one."""
    numbers = [f"r{1 + known.index(each)}" for each in revisions(found)]
    return f"[{', '.join(numbers)}]" if len(known) > 1 and numbers else ""


def write(path: Path, comparison: Comparison) -> None:
    """Writes the records of a comparison as one file, from which it can be rendered anew."""
    about = dict(title=comparison.title, notice=comparison.notice, command=comparison.command)
    records.write(path, comparison.results, about)


def read(path: Path) -> Comparison:
    """Reads what `write` wrote, or the records of one run.

    Raises:
      UserError: where there are no such records, and where one is not what its metric declares.
    """
    about, results = records.read(path)
    if kind := about.get("kind"):
        raise UserError(
            f"{path} has records of the kind {kind!r}, which a report of runs does not show; give "
            "what eval.py or scripts/compare.py wrote"
        )
    found, probes = group(results), tuple(filter(is_probe, results))
    if not (found or probes):
        raise UserError(f"{path} has no results; measure a run with `python eval.py --workdir=RUN`")
    if wrong := next((each for _, found in results for each in found if not _fits(each)), None):
        raise UserError(
            f"{path} is damaged ({wrong.evaluator}/{wrong.metric} has other coordinates than the "
            "metric declares); move it away and measure again"
        )
    known = {name: str(about.get(name, "")) for name in ("title", "notice", "command")}
    return Comparison(**known, members=found, probes=probes)


def _fits(record: Record) -> bool:
    """Returns whether a record was measured where its evaluator measures it."""
    if record.evaluator == "search":
        return has_shape(record.at, {"lr": int | float, "seed?": int})
    if record.evaluator not in evaluator.EVALUATORS:
        return True
    metrics = evaluator.find(record.evaluator).metrics
    return all(each.covers(record.at) for each in metrics if each.name == record.metric)


def evaluators(members: Sequence[Member]) -> list[str]:
    """Returns the evaluators that have measured any of the members, in the registry's order."""
    found = {name for each in results_of(members) for name in each.evaluators}
    return [name for name in evaluator.EVALUATORS if name in found]
