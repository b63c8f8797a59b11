"""Tables of the time of compiled programs on a target (seqarch.costs.speed)."""

from collections.abc import Sequence
from typing import Any

from seqarch.costs.programs import PHASES
from seqarch.costs.results import EVALUATOR
from seqarch.costs.time import ESTIMATED
from seqarch.records import Record, Results
from seqarch.report.tables import Column, Row, Table

CALLS = {"train": "One step", "prefill": "One segment", "decode": "One token of each sequence"}
COLUMNS = {  # metric of each column, its title, unit, and whether it is an estimate
    "estimated_s": ("time", "duration", True),
    "estimated_tokens_per_s": ("tokens/s", "rate", True),
    "estimated_mfu": ("MFU", "percent", True),
    "estimated_cost": ("cost of 10^6 tokens", "price", True),
    "bound_s": ("roofline: time", "duration", False),
    "bound_tokens_per_s": ("roofline: tokens/s", "rate", False),
    "million_tokens_cost": ("roofline: cost", "price", False),
}


def time_table(results: Sequence[Results], target: str, phase: str) -> Table:
    """Returns the table of a phase, with a row for each member and context; it may be empty."""
    at = dict(target=target, phase=phase)
    records = {name: _found(results, name, at) for name in COLUMNS}
    shown = [name for name, found in records.items() if found]
    columns, rows = [Column("model"), Column("context", "count")], []
    columns += [Column(*COLUMNS[name][:2]) for name in shown]
    estimated = any(COLUMNS[name][2] for name in shown)
    columns += [Column("spent on")] * estimated + [Column("roofline: limited by")]
    for place in dict.fromkeys(each for found in records.values() for each in found):
        found = {name: records[name].get(place) for name in shown}
        notes = [_note(found.get("estimated_s"))] * estimated
        limit = _note(found.get("bound_s")).removeprefix("limited by ")
        values = (each.value if each else None for each in found.values())
        rows.append(Row((*place, *values, *notes, limit)))
    label = f"time {ESTIMATED}" if estimated else "roofline only"
    title = f"{PHASES[phase].capitalize()} on {target}: {label}"
    return Table(title, _caption(phase, estimated), tuple(columns), tuple(rows))


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
    return f"no estimate: {record.note}" if record.status == "failed" else record.note


def _caption(phase: str, estimated: bool) -> str:
    floor = (
        "The roofline is a floor of the time: the FLOPs at the data sheet's rate, or the bytes of "
        "parameters and state at its bandwidth."
    )
    if not estimated:
        return f"{CALLS[phase]}. The compiler of this target tells no times. {floor}"
    share = "model FLOPs" if phase == "train" else "FLOPs of the program"
    return (
        f"{CALLS[phase]}; nothing here was run. Time, tokens/s, MFU ({share} as a share of the "
        f"peak) and cost are {ESTIMATED}: the cycles of its instructions, loops once a trip, and "
        "bounds of those that it leaves out. A program with a part that cannot be counted has no "
        f"estimate. {floor}"
    )
