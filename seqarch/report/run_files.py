"""What a report takes from the directories of runs beside their records.

These are the curves of training, the command that makes a run again, and that a run was not
measured.
"""

import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqarch import records, tasks
from seqarch.config import flatten
from seqarch.config.values import override
from seqarch.files import find_json, has_shape, read_json
from seqarch.records import Record, Results, Source
from seqarch.report.curves import EVALUATOR, curve_records
from seqarch.report.members import Comparison, group
from seqarch.training import rundir
from seqarch.training.divergence import is_diverged
from seqarch.training.logging import read_rows
from seqarch.training.solved import last_step

SWEPT = "sweep.json"  # in a run's directory: the fields that a sweep gave it, and its seconds
# Fields that follow from a task which a sweep sets (seqarch.config.values).
OF_TASK = ("length", "model.vocab", "evals.accuracy.lengths", "evals.accuracy.sizes")


def expanded(paths: Sequence[Path]) -> Iterator[Path]:
    """Yields the paths, with the runs of a sweep in place of the sweep's directory."""
    for path in dict.fromkeys(paths):
        runs = [each.parent for each in path.glob("*/config.json")]
        is_alone = (path / records.NAME).exists() or (path / "config.json").exists()
        yield from [path] if is_alone or not runs else sorted(runs, key=_natural)


def _natural(path: Path) -> list[Any]:
    """Returns what sorts names with their numbers by value."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def is_unmeasured(path: Path) -> bool:
    """Returns whether a path is the directory of a run without records."""
    return (path / "config.json").exists() and not (path / records.NAME).exists()


def unmeasured(path: Path) -> Comparison:
    """Returns a run without records as one whose score says what it lacks.

    Raises:
      UserError: where its config cannot be read.
    """
    config, rows = rundir.stored_config(path), read_rows(path)
    score = tasks.find(config.task).score
    diverged = bool(rows) and is_diverged(rows[-1], config.steps)
    at = rows[-1]["step"] if rows else 0
    done = at == last_step(path, config)
    trained = "trained" if done else f"trained to step {at} of {config.steps}"
    ended = dict(status="diverged") if diverged else dict(status="not_run", note=trained)
    seeds = dict(model=config.seed.model, data=config.seed.data)
    known = rundir.read_record(path) or {}
    made = {name: known[name] for each in records.PROVENANCE if (name := each.rstrip("?")) in known}
    given = read_json(path / "config.json")  # with the fields of its revision, as its records have
    source = Source(path.name, "run", given, seeds=seeds, provenance=made)
    found = Results(source, (Record(score.evaluator, score.metric, **ended),))
    return Comparison("", "", "", group([_with_files(found, path)]))


def with_files(comparison: Comparison, path: Path) -> Comparison:
    """Returns a comparison with the curves and commands of its runs, as far as they lie in `path`.

    Args:
      comparison: what the records in `path` say.
      path: the directory of one run, or of a comparison.
    """
    if (path / "config.json").exists():
        runs = [path]
    else:
        runs = rundir.runs_below(path) if path.is_dir() else []
    by_config = {
        _key(config): run for run in runs if (config := find_json(run / "config.json", dict))
    }

    def found(results: Results) -> Results:
        run = path if runs == [path] else by_config.get(_key(results.source.config))
        return _with_files(results, run) if run and results.source.kind == "run" else results

    members = []
    for member in comparison.members:
        members.append(member._replace(results=tuple(map(found, member.results))))
    return comparison._replace(members=tuple(members))


def _key(config: Mapping[str, Any]) -> str:
    """Returns what the config of a run's directory and that of its records have in common."""
    return json.dumps(records.measured_fields(config, ("evals",)), sort_keys=True)


def _with_files(results: Results, run: Path) -> Results:
    source, curves = results.source, []
    if EVALUATOR not in results.evaluators:
        score = tasks.find(source.config.get("task", "text")).score
        curves = curve_records(read_rows(run), source.config.get("steps", 1), score)
    made = dict(source.provenance)
    if not made.get("again") and (command := _command(results, run)):
        made["again"] = command
    results = results.with_source(provenance=made) if source.provenance else results
    return results._replace(records=(*results.records, *curves))


def _command(results: Results, run: Path) -> str:
    """Returns the command that trains and measures a run; "" where its files do not tell."""
    made, source = rundir.read_record(run) or {}, results.source
    trained, measured = made.get("command") or [], source.provenance.get("command") or []
    if not has_shape(trained, [str]):
        return ""
    if trained[1:2] != ["scripts/sweep.py"]:
        parts = [trained, *([measured] if measured != trained else [])]
        return " && ".join(shlex.join(part) for part in parts if part)
    if not (swept := find_json(run / SWEPT, {"fields": dict, "*": object})):
        return shlex.join(trained)
    overrides = _overrides(source.config, swept["fields"])
    train = ["python", "train.py", *_flags(trained, "config"), *overrides]
    measure = ["python", "eval.py", f"--workdir={run}", *_flags(measured, "split|only")]
    return f"{shlex.join([*train, f'--workdir={run}'])} && {shlex.join(measure)}"


def _flags(command: Sequence[str], names: str) -> list[str]:
    """Returns the flags with these names, and those of their fields, with their values."""
    found = []
    for index, argument in enumerate(command):
        if match := re.match(rf"--?(?:no)?(?:{names})(?:\.[^=]*)?(=|$)", argument):
            value = command[index + 1 : index + 2] if not match[1] else []
            found += [argument, *(each for each in value if not each.startswith("-"))]
    return found


def _overrides(config: Mapping[str, Any], fields: Collection[str]) -> Iterator[str]:
    """Yields a flag for each field that a sweep has given a value, or its task has."""
    values = flatten(config)
    for name in (*fields, *(OF_TASK if "task" in fields else ())):
        if name in values:
            yield override(name, values[name])
