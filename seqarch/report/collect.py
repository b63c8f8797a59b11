"""Finished runs as members: runs of one model that differ in their seeds are one member."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from seqarch import records
from seqarch.config import flatten
from seqarch.errors import UserError
from seqarch.records import Results
from seqarch.report import members
from seqarch.report.members import Comparison

APART = ("seed", *records.UNMEASURED)  # fields of a config in which runs of one member may differ


def collect(paths: Sequence[Path], title: str = "") -> Comparison:
    """Reads the records of runs, of comparisons and of records files.

    The title, the notices and the command are those of the files, where `title` is not given.

    Raises:
      UserError: where a path holds no records, or no run is there.
    """
    found = [members.read(_file(path)) for path in dict.fromkeys(paths)]
    results = [
        each for comparison in found for member in comparison.members for each in member.results
    ]
    searches = [
        member.search for comparison in found for member in comparison.members if member.search
    ]
    notices = dict.fromkeys(each.notice for each in found if each.notice)
    named = [*_named(results), *searches]
    titles = [each.title for each in found if each.title]
    commands = dict.fromkeys(each.command for each in found if each.command)
    shown = title or (titles[0] if len(found) == 1 and titles else f"{len(results)} runs")
    return Comparison(
        shown, "; ".join([*notices, *_mixed(results)]), "; ".join(commands), members.group(named)
    )


def _file(path: Path) -> Path:
    if path.is_dir() and not (path / records.NAME).exists():
        raise UserError(
            f"{path} has no {records.NAME}; measure the run first: python eval.py --workdir={path}"
        )
    return path / records.NAME if path.is_dir() else path


def _named(results: Sequence[Results]) -> list[Results]:
    """Results under names that tell members apart: a run's own is its directory's, which may be
    "seed-0".
    """
    names: dict[str, str] = {}
    made = []
    for each in results:
        source = each.source
        decisive = {name: value for name, value in source.config.items() if name not in APART}
        key = json.dumps(
            [decisive, source.kind, source.member if not decisive else ""], sort_keys=True
        )
        names.setdefault(key, _unique(_name(each, results), names.values()))
        made.append(each._replace(source=dataclasses.replace(source, member=names[key])))
    return made


def _name(results: Results, others: Sequence[Results]) -> str:
    """The member's name; where several models have it, the layer pattern."""
    configs = {
        json.dumps({n: v for n, v in each.source.config.items() if n not in APART}, sort_keys=True)
        for each in others
        if each.source.member == results.source.member
    }
    alone = len(configs) == 1 and not results.source.member.startswith("seed-")
    return results.source.member if alone else flatten(dict(results.source.config))["model.mixer"]


def _unique(name: str, taken: Sequence[str]) -> str:
    count = sum(each == name or each.startswith(f"{name} #") for each in taken)
    return f"{name} #{count + 1}" if count else name


def _mixed(results: Sequence[Results]) -> list[str]:
    """A line where results of several revisions stand beside each other."""
    revisions = sorted({each.source.revision[:10] for each in results})
    return (
        [f"Records of {len(revisions)} revisions: {', '.join(revisions)}"]
        if len(revisions) > 1
        else []
    )
