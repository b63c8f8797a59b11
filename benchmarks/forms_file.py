"""The committed estimates of forms on a TPU, the choice that follows from them, and their page."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.cases import PASSES
from benchmarks.estimates import KIND
from benchmarks.goals import GOALS
from benchmarks.tune import SIZES, best
from seqarch import records
from seqarch.config import Config, to_dict
from seqarch.costs.time import ESTIMATED
from seqarch.mixers import resolve_mixer
from seqarch.provenance import provenance, version
from seqarch.records import Record, Results, Source
from seqarch.report.pages import Page
from seqarch.report.tables import Column, Row, Table
from seqarch.tuning import Choices


def results_of(name: str, config: Config | None, found: Sequence[Record]) -> Results:
    """Returns the estimates of an op, or of a mixer in a config's shapes, with their source."""
    made = {key: value for key, value in provenance().items() if key not in ("host", "devices")}
    made["versions"] |= {"libtpu": version("libtpu")}
    given = {} if name in GOALS else to_dict(config)
    return Results(Source(name, KIND, given, provenance=made), tuple(found))


def update(path: Path, target: str, found: Results) -> None:
    """Writes the estimates of an op or a mixer into a file; those of others stay."""
    about = dict(kind=KIND, target=target)
    records.replace(path, [found], about, lambda results: results.source.member)


def choices(found: Iterable[Results], platform: str) -> Choices:
    """Returns the options of the form of each mixer whose training pass is estimated shortest.

    Those of the platform's default form stay where it is about as fast.
    """
    chosen = {}
    for results in found:
        if seconds := seconds_by_options(results):
            forms = resolve_mixer(results.source.member).forms
            chosen[results.source.member] = dict(best(seconds, forms.auto(platform)))
    return chosen


def seconds_by_options(results: Results) -> dict[tuple, float | None]:
    """Returns the seconds of a mixer's training pass by its options; {} where they are an op's."""
    if results.source.member in GOALS:
        return {}
    return {
        tuple(item for item in record.at.items() if item[0] != "pass"): record.value
        for record in results.records
        if record.at["pass"] == "train"
    }


def forms_page(about: dict[str, Any], found: Sequence[Results]) -> Page:
    """Returns the page of a file: ops with their goals, and every form of every mixer."""
    of_ops = [each for each in found if each.source.member in GOALS]
    of_mixers = [each for each in found if each.source.member not in GOALS]
    tables = [_goal_table(of_ops), _form_table(of_ops, "op"), _form_table(of_mixers, "mixer")]
    title = f"Forms on {about['target']}, {ESTIMATED}"
    return Page(title, [table for table in tables if table.rows])


def _goal_table(found: Sequence[Results]) -> Table:
    columns = [Column("op"), Column("form")]
    for name in PASSES:
        columns += [Column(f"{name} ms", "size"), Column("at most"), Column("met")]
    rows = []
    for results in found:
        goal, cells, times = GOALS[results.source.member], [], {}
        for record in results.records:
            times.setdefault(record.at["method"], {})[record.at["pass"]] = record.value
        form = min(times, key=lambda form: times[form].get("train") or math.inf)
        for name in PASSES:
            seconds, most = times[form].get(name), getattr(goal, name)
            cells += [_milliseconds(seconds), f"{1e3 * most:g}", _verdict(seconds, most)]
        rows.append(Row((results.source.member, form, *cells)))
    caption = (
        "The fastest form of each op, at 8 rows of 2,048 tokens in bfloat16; train is forward and "
        "backward."
    )
    return Table("Ops and their goals", caption, tuple(columns), tuple(rows))


def _verdict(seconds: float | None, most: float) -> str:
    return "" if seconds is None else "yes" if seconds <= most else "no"


def _form_table(found: Sequence[Results], kind: str) -> Table:
    columns = Column(kind), Column("form"), *(Column(f"{each} ms", "size") for each in PASSES)
    rows = []
    for results in found:
        by_form: dict[str, dict[str, Record]] = {}
        for record in results.records:
            words = [f"{name} {value}" for name, value in record.at.items() if name in SIZES]
            form = ", ".join([record.at["method"], *words])
            by_form.setdefault(form, {})[record.at["pass"]] = record
        for form, passes in by_form.items():
            shown = [_shown(passes.get(name)) for name in PASSES]
            rows.append(Row((results.source.member, form, *shown)))
    caption = "Milliseconds, or why the compiler's estimate does not tell them."
    return Table(f"Forms of {kind}s", caption, columns, tuple(rows))


def _shown(record: Record | None) -> str | None:
    if record is None:
        return None
    return record.note if record.value is None else _milliseconds(record.value)


def _milliseconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{1e3 * seconds:.3g}"
