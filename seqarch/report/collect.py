"""Collects finished runs as members of one comparison."""

import dataclasses
import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from seqarch import records
from seqarch.config import flatten
from seqarch.errors import UserError
from seqarch.records import Record, Results, Source
from seqarch.report import members
from seqarch.report.formats import show
from seqarch.report.members import Comparison
from seqarch.training import rundir

VARIED = ("seed", *records.UNMEASURED)  # fields of a config in which runs of one member may differ
AS_THEY_ARE = ("search", members.PROBE, members.PROBE_SEARCH)  # kinds that make no member
SEED = "seed-"  # prefix of a run's directory that does not name its member
SEEDS = r"(^|,)seed\.\w+=\d+"  # parts of the name of a sweep's run that do not either


def collect(paths: Sequence[Path], title: str = "") -> Comparison:
    """Returns the records of runs, of comparisons and of records files as one comparison.

    Runs of one model that differ in their seeds are one member. Notices and commands are those of
    the files, and so is the title if there is one file. A notice counts runs that diverged, and one
    warns of several revisions.

    Args:
      paths: directories of runs and of comparisons, and records files.
      title: of the report.

    Raises:
      UserError: where a path holds no records.
    """
    found = [members.read(_file(path)) for path in dict.fromkeys(paths)]
    results = [each for comparison in found for each in comparison.results]
    runs = _distinct(each for each in results if each.source.kind not in AS_THEY_ARE)
    groups = _groups(runs)
    names = _names(groups)
    named, by_model = [], {}
    for name, group in zip(names, groups, strict=True):
        named += [_renamed(each, name) for each in group]
        by_model[_model(group[0].source)] = name
    for each in results:
        if each.source.kind == "search" and _model(each.source) in by_model:
            named.append(_renamed(each, by_model[_model(each.source)]))
    notices = dict.fromkeys(each.notice for each in found if each.notice)
    commands = dict.fromkeys(each.command for each in found if each.command)
    title = title or (found[0].title if len(found) == 1 else "") or f"{len(groups)} members"
    notice = "; ".join([*notices, *_diverged(groups), *_mixed(groups)])
    probes = tuple(_distinct(filter(members.is_probe, results)))
    return Comparison(title, notice, "; ".join(commands), members.group(named), probes)


def read_runs(paths: Sequence[Path]) -> list[Results]:
    """Returns the results of trained runs, once each.

    Args:
      paths: directories of runs and of comparisons, and records files.

    Raises:
      UserError: where a path holds no records.
    """
    found = [members.read(_file(path)) for path in dict.fromkeys(paths)]
    results = (each for comparison in found for each in comparison.results)
    return _distinct(each for each in results if each.source.kind == "run")


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    if not (path / records.NAME).exists() and rundir.runs_below(path):
        raise UserError(
            f"{path} has no {records.NAME}: it holds several runs, and the command that made them "
            "has not ended. Run it again, or give the runs that are measured"
        )
    if not (path / records.NAME).exists():
        run = shlex.quote(str(path))
        raise UserError(
            f"{path} has no {records.NAME}; measure the run first: python eval.py --workdir={run}"
        )
    return path / records.NAME


def _distinct(results: Iterable[Results]) -> list[Results]:
    """Returns the results, once each where a run is given by itself and in a comparison."""
    found: list[Results] = []
    known: dict[tuple, list[tuple]] = {}
    for each in results:
        same_run = known.setdefault((*_run(each.source), each.source.revision), [])
        if each.records not in same_run:
            same_run.append(each.records)
            found.append(each)
    return found


def _groups(runs: Sequence[Results]) -> list[list[Results]]:
    """Returns the runs of each member: those of one model, measured alike, with different seeds."""
    groups: dict[tuple, list[Results]] = {}
    counts: Counter[tuple] = Counter()
    for each in runs:
        model, seeds, *measured = _run(each.source)
        again = counts[model, seeds, *measured]
        counts[model, seeds, *measured] += 1
        groups.setdefault((model, *measured, again), []).append(each)
    return list(groups.values())


def _run(source: Source) -> tuple:
    """Returns what identifies a run: model, seeds, step and split."""
    return _model(source), json.dumps(source.seeds, sort_keys=True), source.step, source.split


def _model(source: Source) -> str:
    """Returns what runs of one model have in common: the config, or the name of a baseline."""
    config = {name: value for name, value in source.config.items() if name not in VARIED}
    return json.dumps(config, sort_keys=True) if config else source.member


def _names(groups: Sequence[Sequence[Results]]) -> list[str]:
    """Returns a name for each member: that of a comparison or directory, or its layer pattern.

    The layer pattern is taken where a directory is that of a seed, or where members share a name.
    The name of a sweep's run is taken without its seeds.
    """
    given = [_given_name(group) for group in groups]
    names: list[str] = []
    for name, group in zip(given, groups, strict=True):
        if given.count(name) > 1 or not name or name.startswith(SEED):
            name = flatten(dict(group[0].source.config)).get("model.mixer", name)
        names.append(_unique(name, names))
    return names


def _given_name(group: Sequence[Results]) -> str:
    names = [re.sub(SEEDS, "", each.source.member) for each in group]
    return next((name for name in names if not name.startswith(SEED)), names[0])


def _unique(name: str, taken: Sequence[str]) -> str:
    numbered = (f"{name} #{number}" for number in range(2, len(taken) + 2))
    return next(each for each in (name, *numbered) if each not in taken)


def _renamed(results: Results, name: str) -> Results:
    return results._replace(source=dataclasses.replace(results.source, member=name))


def _diverged(groups: Sequence[Sequence[Results]]) -> list[str]:
    """Returns a line that counts the runs that diverged; none where none did."""
    runs = [each for group in groups for each in group if each.source.kind == "run"]
    found = [each for each in runs if any(map(_says_diverged, each.records))]
    if not found:
        return []
    return [f"{len(found)} of {len(runs)} runs diverged; fit rates count them, and means do not"]


def _says_diverged(record: Record) -> bool:
    """Returns whether a record says that its run diverged (seqarch.compare.execution.failure)."""
    return record.status == "diverged" and not record.at


def _mixed(groups: Sequence[Sequence[Results]]) -> list[str]:
    """Returns a line that warns of several revisions; none where there is one."""
    found = {show(each.source.revision, "revision") for group in groups for each in group}
    if len(found) < 2:
        return []
    return [f"Records of {len(found)} revisions: {', '.join(sorted(found))}"]
