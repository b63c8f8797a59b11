"""The tables of measurements on targets and at contexts (seqarch.costs.measure)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from seqarch.costs.programs import PHASES
from seqarch.costs.results import EVALUATOR
from seqarch.records import Results
from seqarch.report.formats import format_bytes, format_exponent, format_found, needed
from seqarch.report.tables import Column, Row, Table
from seqarch.report.time_tables import time_table

GROWS = {"train": "working memory", "prefill": "working memory and state", "decode": "state"}
COUNTED = 131072  # tokens of context at which sequences are compared across targets


Cell = Callable[[Results], str | None]  # returns what a member's row shows


def across_targets(results: Sequence[Results], targets: Sequence[str]) -> list[Table]:
    """Returns tables with a column for each target.

    They show the exponent and the longest context of each phase, and the most sequences.
    """

    def cells(cell: Callable[..., str | None], **at: Any) -> dict[str, Cell]:
        return {target: partial(cell, at=at | dict(target=target)) for target in targets}

    made = []
    for phase, name in PHASES.items():
        title = f"{name.capitalize()}, exponent"
        caption = f"b of bytes ~ context^b for the {GROWS[phase]}."
        made.append(_table(title, caption, results, cells(_exponent, phase=phase)))
        title = f"{name.capitalize()}, longest context"
        caption = "Tokens of context of the longest that fits one device."
        made.append(_table(title, caption, results, cells(_longest, phase=phase)))
    title = f"Sequences of {COUNTED:,} tokens at once"
    caption = "Sequences whose decoding step fits one device, each with so many tokens of context."
    return [*made, _table(title, caption, results, cells(_sequences, context=COUNTED))]


def target_tables(results: Sequence[Results], target: str) -> list[Table]:
    """Returns the tables of one target.

    They show the memory of each phase, its time, steps that ran, and how many sequences fit.
    """
    made = [_phase_table(results, target, phase) for phase in PHASES]
    made += [time_table(results, target, phase) for phase in PHASES]
    return [*made, _actual_table(results, target), _sequences_table(results, target)]


def _phase_table(results: Sequence[Results], target: str, phase: str) -> Table:
    at = dict(target=target, phase=phase)
    cells = _by_context(_total, results, "total_bytes", at)
    cells |= {"exponent": partial(_exponent, at=at), "longest that fits": partial(_longest, at=at)}
    totals = [record for each in results for record in each.all(EVALUATOR, "total_bytes", **at)]
    definitions = sorted({record.note for record in totals if record.value})
    caption = (
        f"Bytes of each device, {' or '.join(definitions) or 'of which there are none'}, "
        f"by tokens of context. Exponent: b of bytes ~ context^b for the {GROWS[phase]}, over the "
        "longest four contexts; it takes three."
    )
    return _table(f"{PHASES[phase].capitalize()} on {target}", caption, results, cells)


def _actual_table(results: Sequence[Results], target: str) -> Table:
    cells = _by_context(_ran, results, "actual_bytes", dict(target=target))
    caption = (
        "Bytes of training steps that ran, and the compiler's plan in per cent of them. "
        f"{_overhead(results, target)}"
    )
    return _table(f"Planned and actual on {target}", caption.strip(), results, cells)


def _sequences_table(results: Sequence[Results], target: str) -> Table:
    cells = _by_context(_sequences, results, "sequences", dict(target=target))
    caption = (
        "Sequences whose decoding step fits at once, by the tokens of context that each may have."
    )
    return _table(f"Sequences at once on {target}", caption, results, cells)


def _table(
    title: str, caption: str, results: Sequence[Results], cells: Mapping[str, Cell]
) -> Table:
    """Returns a table of members with a column for each cell, without rows that show nothing."""
    columns = (Column("model"), *(Column(name, "size") for name in cells))
    rows = (Row((each.source.member, *(cell(each) for cell in cells.values()))) for each in results)
    return Table(title, caption, columns, tuple(row for row in rows if any(row.cells[1:])))


def _by_context(
    cell: Callable[..., str | None], results: Sequence[Results], metric: str, at: dict[str, Any]
) -> dict[str, Cell]:
    """Returns a cell for each context at which a metric was measured."""
    found = (record for each in results for record in each.all(EVALUATOR, metric, **at))
    contexts = sorted({record.at["context"] for record in found})
    return {f"{length:,}": partial(cell, at=at | dict(context=length)) for length in contexts}


def _total(results: Results, at: dict[str, Any]) -> str | None:
    """Returns "1.2 GiB", "needs 136 GiB of 15.8 GiB", or that the program failed."""
    for record in results.all(EVALUATOR, "total_bytes", **at):
        if record.status == "failed":
            return "failed"
        return needed(record.value, results.value(EVALUATOR, "device_bytes", **record.at))
    return None


def _exponent(results: Results, at: dict[str, Any]) -> str | None:
    b, half = (results.value(EVALUATOR, metric, **at) for metric in ("exponent", "exponent_half"))
    return None if b is None else format_exponent((b, half))


def _longest(results: Results, at: dict[str, Any]) -> str | None:
    found = results.find(EVALUATOR, "longest_context", **at)
    return format_found(found) if found else None


def _sequences(results: Results, at: dict[str, Any]) -> str | None:
    found = results.find(EVALUATOR, "sequences", **at)
    return format_found(found) if found else None


def _ran(results: Results, at: dict[str, Any]) -> str | None:
    record = results.find(EVALUATOR, "actual_bytes", **at)
    if record is None:
        return None
    if record.value is None:
        return f"not measured: {record.note}"
    planned = results.value(EVALUATOR, "planned_bytes", **at)
    return f"{format_bytes(record.value)}, planned {100 * planned / record.value:.0f} %"


def _overhead(results: Sequence[Results], target: str) -> str:
    """Returns the fit of actual = overhead + factor x planned, by least relative squares."""
    pairs = []
    for each in results:
        for record in each.all(EVALUATOR, "actual_bytes", target=target):
            if record.value is not None:
                pairs.append((each.value(EVALUATOR, "planned_bytes", **record.at), record.value))
    if len(pairs) < 3:
        return ""
    planned, actual = np.array(pairs, float).T
    system = np.stack([1 / actual, planned / actual], axis=1)
    (overhead, factor), *_ = np.linalg.lstsq(system, np.ones(len(pairs)), rcond=None)
    return f"Fitted: actual = {overhead / 2**20:.0f} MiB + {factor:.3f} x planned."
