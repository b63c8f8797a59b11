"""Tables of the time of compiled programs on a target (seqarch.costs.speed)."""

from collections.abc import Collection, Sequence
from typing import Any

from seqarch.costs.programs import PHASES
from seqarch.costs.results import EVALUATOR
from seqarch.costs.time import ESTIMATED
from seqarch.records import Record, Results
from seqarch.report.tables import Column, Row, Table

CALLS = {"train": "One step", "prefill": "One segment", "decode": "One token of each sequence"}
COLUMNS = {  # metric of each column, its title and unit
    "measured_s": ("measured: time", "duration"),
    "measured_tokens_per_s": ("measured: tokens/s", "rate"),
    "measured_mfu": ("measured: MFU", "percent"),
    "measured_cost": ("measured: cost of 10^6 tokens", "price"),
    "estimated_s": ("estimated: time", "duration"),
    "estimated_tokens_per_s": ("estimated: tokens/s", "rate"),
    "estimated_mfu": ("estimated: MFU", "percent"),
    "estimated_cost": ("estimated: cost of 10^6 tokens", "price"),
    "bound_s": ("roofline: time", "duration"),
    "bound_tokens_per_s": ("roofline: tokens/s", "rate"),
    "million_tokens_cost": ("roofline: cost of 10^6 tokens", "price"),
}
LABELS = {"measured_s": "measured", "estimated_s": ESTIMATED}
NOTES = {  # metric whose note has a column, and its title
    "estimated_s": "estimated: spent on",
    "bound_s": "roofline: limited by",
}


def time_table(results: Sequence[Results], target: str, phase: str) -> Table:
    """Returns the table of a phase, with a row for each member and context; it may be empty."""
    at = dict(target=target, phase=phase)
    records = {name: found for name in COLUMNS if (found := _found(results, name, at))}
    columns, rows = [Column("model"), Column("context", "count")], []
    columns += [Column(*COLUMNS[name]) for name in records]
    noted = {name: title for name, title in NOTES.items() if name in records}
    columns += [Column(title) for title in noted.values()]
    for place in dict.fromkeys(each for found in records.values() for each in found):
        found = {name: each.get(place) for name, each in records.items()}
        values = (each.value if each else None for each in found.values())
        rows.append(Row((*place, *values, *(_note(found[name]) for name in noted))))
    labels = [label for name, label in LABELS.items() if name in records]
    label = f"time {', and '.join(labels)}" if labels else "roofline only"
    title = f"{PHASES[phase].capitalize()} on {target}: {label}"
    return Table(title, _caption(phase, records), tuple(columns), tuple(rows))


def _found(results: Sequence[Results], metric: str, at: dict[str, Any]) -> dict[tuple, Record]:
    """Returns the records of a metric by member and context."""
    found = {}
    for each in results:
        for record in each.all(EVALUATOR, metric, **at):
            found[each.source.member, record.at["context"]] = record
    return found


def _note(record: Record | None) -> str:
    if record is None:
        return ""
    if record.status == "failed":
        return f"no estimate: {record.note}"
    return record.note.removeprefix("limited by ")


def _caption(phase: str, shown: Collection[str]) -> str:
    """Returns what a table shows, by the metrics of its columns."""
    share = "model FLOPs" if phase == "train" else "FLOPs of the program"
    lines = [f"{CALLS[phase]}."]
    if {"measured_mfu", "estimated_mfu"} & set(shown):
        lines = [f"{CALLS[phase]}. MFU: {share} as a share of the peak."]
    if "measured_s" in shown:
        lines += ["Measured: the median of several runs."]
    if "estimated_s" in shown:
        lines += [
            f"What is {ESTIMATED} adds up the cycles of its instructions, loops once a trip, and "
            "bounds of those that it leaves out. A program with a part that cannot be counted has "
            "no estimate."
        ]
    elif "bound_s" in shown:
        lines += ["The compiler of this target tells no times."]
    if "bound_s" in shown:
        lines += [
            "The roofline is a floor of the time: the FLOPs at the data sheet's rate, or the bytes "
            "of parameters and state at its bandwidth."
        ]
    return " ".join(lines)
