"""Collects runs as members of one comparison."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from seqarch import records
from seqarch.config import flatten
from seqarch.errors import UserError
from seqarch.records import Results, Source
from seqarch.report import curves, members, run_files
from seqarch.report.lines import RATE, at_rate, lines, rate_of
from seqarch.report.members import Comparison, Member
from seqarch.training import rundir

AS_THEY_ARE = ("search", members.PROBE, members.PROBE_SEARCH)  # kinds that make no member
SEED = "seed-"  # prefix of a run's directory that does not name its member
FIELD = re.compile(r"(task|\w+(\.\w+)+)=(.*)")  # part of the name of a sweep's run


def collect(paths: Sequence[Path], title: str = "") -> Comparison:
    """Returns the records of runs, sweeps, comparisons and records files as one comparison.

    Runs of one model that differ in their seeds are one member. Learning rates of one model stand
    together, in rising order. Notices and commands are those of the files, and so is the title if
    there is one file. A run that was not measured has a record that says so.

    Args:
      paths: directories of runs, of sweeps and of comparisons, and records files.
      title: of the report.

    Raises:
      UserError: where a path holds no records, and where no run was measured.
    """
    expanded = list(run_files.expanded(paths))
    if all(map(run_files.is_unmeasured, expanded)):
        _file(expanded[0])
    found = [_read(path) for path in expanded]
    results = [each for comparison in found for each in comparison.results]
    runs = _distinct(each for each in results if each.source.kind not in AS_THEY_ARE)
    groups = _groups(runs)
    named, by_model = [], {}
    for name, group in _names(groups).items():
        named += [each.with_source(member=name) for each in group]
        by_model[_model(group[0].source)] = name
    for each in results:
        if each.source.kind == "search" and _model(each.source) in by_model:
            named.append(each.with_source(member=by_model[_model(each.source)]))
    notices = dict.fromkeys(each.notice for each in found if each.notice)
    commands = dict.fromkeys(each.command for each in found if each.command)
    title = title or (found[0].title if len(found) == 1 else "") or _title(members.group(named))
    texts = title, "; ".join(notices), "; ".join(commands)
    probes = tuple(_distinct(filter(members.is_probe, results)))
    return Comparison(*texts, members.group(named), probes)


def read_runs(paths: Sequence[Path]) -> list[Results]:
    """Returns the results of trained runs, once each.

    Args:
      paths: directories of runs, of sweeps and of comparisons, and records files.

    Raises:
      UserError: where a path holds no records.
    """
    found = [members.read(_file(path)) for path in run_files.expanded(paths)]
    results = (each for comparison in found for each in comparison.results)
    return _distinct(each for each in results if each.source.kind == "run")


def _title(found: Sequence[Member]) -> str:
    """Returns a title that counts the models, and the learning rates of a sweep."""
    models = lines([member for member in found if member.kind == "run"])
    rates = {rate for line in models for rate in line.rates}
    if all(len(line.rates) < 2 for line in models):
        return f"{len(found)} members"
    counted = f"{len(models)} models" if len(models) > 1 else models[0].name
    return f"{counted} at {len(rates)} learning rates"


def _read(path: Path) -> Comparison:
    if run_files.is_unmeasured(path):
        return run_files.unmeasured(path)
    return run_files.with_files(members.read(_file(path)), path)


def _file(path: Path) -> Path:
    if not path.exists():
        raise UserError(
            f"there is no {path}; give directories of runs, sweeps or comparisons, or records files"
        )
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
        measured = tuple(record for record in each.records if record.evaluator != curves.EVALUATOR)
        if measured not in same_run:
            same_run.append(measured)
            found.append(each)
    return found


def _groups(runs: Sequence[Results]) -> dict[tuple, list[Results]]:
    """Returns the runs of each member: those of one model, measured alike, with different seeds.

    They are found by their model, step, split, and how often there is such a run before them. A run
    that was not measured belongs to its model, however that was measured.
    """
    groups: dict[tuple, list[Results]] = {}
    counts: Counter[tuple] = Counter()
    for each in sorted(runs, key=_lacks_step):
        model, seeds, *measured = _run(each.source)
        same = (key for key in groups if _lacks_step(each) and key[0] == model)
        again = counts[model, seeds, *measured]
        counts[model, seeds, *measured] += 1
        groups.setdefault(next(same, (model, *measured, again)), []).append(each)
    return groups


def _lacks_step(results: Results) -> bool:
    """Returns whether results are those of a run that was not measured (run_files.unmeasured)."""
    return results.source.kind == "run" and results.source.step is None


def _run(source: Source) -> tuple:
    """Returns what identifies a run: model, seeds, step and split.

    The step does not count where each run ends at its own, when it has solved its task.
    """
    own = source.config.get("eval", {}).get("stop_when_solved")
    step = None if own else source.step
    return _model(source), json.dumps(source.seeds, sort_keys=True), step, source.split


def _model(source: Source, without: str = "") -> str:
    """Returns what runs of one model have in common: the config, or the name of a baseline.

    Args:
      source: that of a run.
      without: a field, by dotted name, in which they may differ too.
    """
    fields = flatten(records.measured_fields(source.config, ("seed",)))
    fields.pop(without, None)
    return json.dumps(fields, sort_keys=True) if source.config else source.member


def _names(groups: Mapping[tuple, list[Results]]) -> dict[str, list[Results]]:
    """Returns the groups by name; those of one model follow each other by learning rate.

    The name is that of a comparison or directory, or the layer pattern, where a directory is that
    of a seed or where models share a name. A model with several learning rates has them in its
    names.
    """
    by_model: dict[tuple, list[list[Results]]] = {}
    for (_, *measured), group in groups.items():
        by_model.setdefault((_model(group[0].source, RATE), *measured), []).append(group)
    given = [_given_name(line[0]) for line in by_model.values()]
    taken: list[str] = []
    names: dict[str, list[Results]] = {}
    for name, line in zip(given, by_model.values(), strict=True):
        if given.count(name) > 1 or not name or name.startswith(SEED):
            name = flatten(line[0][0].source.config).get("model.mixer", name)
        taken.append(_unique(name, taken))
        for group in sorted(line, key=_rate):
            name = at_rate(taken[-1], _rate(group)) if len(line) > 1 else taken[-1]
            names[_unique(name, names)] = group
    return names


def _rate(group: Sequence[Results]) -> float:
    return rate_of(group[0].source.config) or 0.0


def _given_name(group: Sequence[Results]) -> str:
    names = [_without_choices(each.source) for each in group]
    return next((name for name in names if not name.startswith(SEED)), names[0])


def _without_choices(source: Source) -> str:
    """Returns a run's name without its seeds and its learning rate, if a sweep gave it those."""
    fields = [FIELD.fullmatch(part) for part in source.member.split(",")]
    if not all(fields):
        rate = rate_of(source.config)
        return source.member.removesuffix("" if rate is None else at_rate("", rate))
    parts, pattern = [], flatten(source.config).get("model.mixer")
    for field in fields:
        if field[1] == "model.mixer":
            parts.append(pattern)
        elif field[1] != RATE and not field[1].startswith("seed."):
            parts.append(field[0])
    return ", ".join(parts)


def _unique(name: str, taken: Collection[str]) -> str:
    numbered = (f"{name} #{number}" for number in range(2, len(taken) + 2))
    return next(each for each in (name, *numbered) if each not in taken)
