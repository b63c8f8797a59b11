"""The probes of a comparison: which member gets which, and the records of all."""

from collections.abc import Sequence
from pathlib import Path

from seqarch.compare.deadline import Deadline
from seqarch.compare.entries import parse_entry
from seqarch.compare.probe_spec import Start
from seqarch.compare.probe_study import ProbeStudy
from seqarch.compare.spec import ComparisonSpec
from seqarch.errors import NoResult, unknown
from seqarch.evals.evaluate import choose
from seqarch.model import count_parameters
from seqarch.records import Results
from seqarch.runtime.progress import Progress
from seqarch.tasks import make_task


def probe_studies(
    spec: ComparisonSpec, workdir: Path, start: Start, deadline: Deadline = Deadline()
) -> list[ProbeStudy]:
    """Returns the study of each member on each probe that it gets.

    Args:
      spec: the comparison.
      workdir: the directory of its runs.
      start: returns the config of "task,layer pattern", as configs/probes.py gives it.
      deadline: the time until which runs are begun.

    Raises:
      UserError: for a probe or a member that cannot be, and for a directory that holds other runs.
    """
    found = []
    patterns = _patterns(spec)
    for probe in spec.probes:
        for name in probe.members:
            if name not in patterns:
                raise unknown(f"member of the probe {probe.title}", name, patterns)
        for name, pattern in patterns.items():
            if name in (probe.members or patterns):
                config = probe.config(pattern, spec.base, start)
                directory = workdir / name / "probes" / probe.title
                found.append(ProbeStudy(name, config, probe, directory, deadline))
    for study in found:
        make_task(study.config)
        choose(study.config)
        count_parameters(study.config.model)
        study.check()
    return found


def _patterns(spec: ComparisonSpec) -> dict[str, str]:
    """Returns the layer patterns of the members that get probes, by name."""
    members = {entry.title: entry.value for entry in map(parse_entry, spec.members)}
    if not spec.probe_members:
        return members
    chosen = {}
    for entry in map(parse_entry, spec.probe_members):
        chosen[entry.title] = members.get(entry.text, entry.value)
    return chosen


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
