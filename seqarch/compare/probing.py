"""The probes of a comparison: which member gets which, and the records of all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqarch.compare.deadline import Deadline
from seqarch.compare.entries import Entry, parse_entry
from seqarch.compare.known import Known
from seqarch.compare.probe_spec import Start
from seqarch.compare.probe_study import ProbeStudy
from seqarch.compare.spec import ComparisonSpec
from seqarch.config import ModelConfig
from seqarch.errors import NoResult, UserError, naming, unknown
from seqarch.evals.evaluate import choose
from seqarch.model import count_parameters
from seqarch.records import Results
from seqarch.runtime.progress import Progress
from seqarch.tasks import make_task

KIND = ("kind", "encoder", "source")  # fields of `model` that members keep on probes


def probe_studies(
    spec: ComparisonSpec,
    workdir: Path,
    start: Start,
    deadline: Deadline = Deadline(),
    known: Known = Known(),
) -> list[ProbeStudy]:
    """Returns the study of each member on each probe that it gets.

    Args:
      spec: the comparison.
      workdir: the directory of its runs.
      start: returns the config of "task,layer pattern", as configs/probes.py gives it.
      deadline: the time until which runs are begun.
      known: runs that were finished elsewhere.

    Raises:
      UserError: for a probe or a member that cannot be, and for a directory that holds other runs.
    """
    found = []
    members = _members(spec)
    for probe in spec.probes:
        for name in probe.members:
            if name not in members:
                raise unknown(f"member of the probe {probe.title}", name, members)
        for name, entry in members.items():
            if name in (probe.members or members):
                kind = _kind(spec.base.model, entry)
                config = probe.config(entry.value, spec.base, start, kind)
                directory = workdir / name / "probes" / probe.title
                found.append(ProbeStudy(name, config, probe, directory, deadline, known))
    for study in found:
        with naming(f"{study.member!r} on the probe {study.probe.title!r}"):
            make_task(study.config)
        choose(study.config)
        count_parameters(study.config.model)
        study.check()
    return found


def _members(spec: ComparisonSpec) -> dict[str, Entry]:
    """Returns the members that get probes, by name."""
    members = {entry.title: entry for entry in map(parse_entry, spec.members)}
    if not spec.probe_members:
        return members
    found: dict[str, Entry] = {}
    for entry in map(parse_entry, spec.probe_members):
        if not entry.name:
            entry = members.get(entry.text, entry)
        same = found.get(entry.title) or members.get(entry.title, entry)
        if _model(spec.base.model, entry) != _model(spec.base.model, same):
            raise UserError(
                f"config.probe_members has {entry.title!r} for {entry.text!r}, which is "
                f"{same.text!r} elsewhere; give one of them another name"
            )
        found[entry.title] = entry
    return found


def _model(base: ModelConfig, entry: Entry) -> tuple[str, dict[str, Any]]:
    """Returns what a probe takes of a member: its layer pattern and its kind."""
    return entry.value, _kind(base, entry)


def _kind(base: ModelConfig, entry: Entry) -> dict[str, Any]:
    """Returns the fields that make a member an encoder-decoder; none of a language model."""
    given = {field: entry.settings.get(field, getattr(base, field)) for field in KIND}
    if given["kind"] == "lm":
        return {}
    return {f"model.{field}": value for field, value in given.items()}


def score_probes(studies: Sequence[ProbeStudy]) -> tuple[Results, ...]:
    """Returns the records of all studies; what is not trained yet is trained first.

    A study that is not finished at the deadline has the records of its finished runs.
    """
    found = []
    with Progress(sum(study.left() for study in studies)) as progress:
        for study in studies:
            try:
                study.train(progress)
            except NoResult as error:
                progress.say(f"{study.name}: {error}")
            found += study.results()
    return tuple(found)
