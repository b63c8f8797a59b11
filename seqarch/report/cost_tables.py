"""The tables of measurements on targets and at contexts (seqarch.costs.measure)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from seqarch.costs.programs import PHASES
from seqarch.costs.results import EVALUATOR
from seqarch.records import Record, Results
from seqarch.report.formats import format_bytes, format_exponent, needed
from seqarch.report.tables import Column, Row, Table
from seqarch.report.time_tables import time_table

GROWS = {"train": "working memory", "prefill": "working memory and state", "decode": "state"}
COUNTED = 131072  # tokens of context at which sequences are compared across targets


def across_targets(results: Sequence[Results], targets: Sequence[str]) -> list[Table]:
    """Returns tables with a column for each target.

    They show the exponent and the longest context of each phase, and the most sequences.
    """
    made = []
    for phase, title in PHASES.items():
        exponents, longest = f"{title.capitalize()}, exponent", f"{title.capitalize()}, longest"
        at = dict(phase=phase)
        grows = f"b of bytes ~ context^b for the {GROWS[phase]}."
        made.append(_targets_table(exponents, grows, results, targets, _exponent, at))
        fits = "Tokens of context of the longest that fits one device."
        made.append(_targets_table(f"{longest} context", fits, results, targets, _longest, at))
    title = f"Sequences of {COUNTED:,} tokens at once"
    caption = "Sequences whose decoding step fits one device, each with so many tokens of context."
    at = dict(context=COUNTED)
    return [*made, _targets_table(title, caption, results, targets, _sequences, at)]


def _targets_table(
    title: str,
    caption: str,
    results: Sequence[Results],
    targets: Sequence[str],
    cell: Callable[[Results, dict[str, Any]], str | None],
    at: dict[str, Any],
) -> Table:
    """Returns a table of what `cell` says of each member on each target."""
    columns = [Column("model"), *(Column(target, "size") for target in targets)]
    rows = []
    for each in results:
        cells = (cell(each, at | dict(target=target)) for target in targets)
        rows.append(Row((each.source.member, *cells)))
    return _table(title, caption, columns, rows)


def target_tables(results: Sequence[Results], target: str) -> list[Table]:
    """Returns the tables of one target.

    They show the memory of each phase, its time, steps that ran, and how many sequences fit.
    """
    made = [_phase_table(results, target, phase) for phase in PHASES]
    made += [time_table(results, target, phase) for phase in PHASES]
    return [*made, _actual_table(results, target), _sequences_table(results, target)]


def _phase_table(results: Sequence[Results], target: str, phase: str) -> Table:
    at = dict(target=target, phase=phase)
    lengths = _contexts(results, "total_bytes", at)
    columns = _length_columns(lengths)
    columns += [Column("exponent", "size"), Column("longest that fits", "size")]
    rows = []
    for each in results:
        sizes = [_total(each, at, length) for length in lengths]
        rows.append(Row((each.source.member, *sizes, _exponent(each, at), _longest(each, at))))
    totals = [record for each in results for record in each.all(EVALUATOR, "total_bytes", **at)]
    definitions = sorted({record.note for record in totals if record.value})
    caption = (
        f"Bytes of each device, {' or '.join(definitions) or 'of which there are none'}, "
        f"by tokens of context. Exponent: b of bytes ~ context^b for the {GROWS[phase]}, over the "
        "longest four contexts; it takes three."
    )
    return _table(f"{PHASES[phase].capitalize()} on {target}", caption, columns, rows)


def _actual_table(results: Sequence[Results], target: str) -> Table:
    at = dict(target=target)
    lengths = _contexts(results, "actual_bytes", at)
    columns, rows = _length_columns(lengths), []
    for each in results:
        cells = (_ran(each, target, length) for length in lengths)
        rows.append(Row((each.source.member, *cells)))
    caption = (
        "Bytes of training steps that ran, and the compiler's plan in per cent of them. "
        f"{_overhead(results, target)}"
    )
    return _table(f"Planned and actual on {target}", caption.strip(), columns, rows)


def _sequences_table(results: Sequence[Results], target: str) -> Table:
    lengths = _contexts(results, "sequences", dict(target=target))
    columns, rows = _length_columns(lengths), []
    for each in results:
        cells = (_sequences(each, dict(target=target, context=length)) for length in lengths)
        rows.append(Row((each.source.member, *cells)))
    caption = (
        "Sequences whose decoding step fits at once, by the tokens of context that each may have."
    )
    return _table(f"Sequences at once on {target}", caption, columns, rows)


def _table(title: str, caption: str, columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    """Returns a table without the rows that have nothing to show."""
    return Table(title, caption, tuple(columns), tuple(row for row in rows if any(row.cells[1:])))


def _length_columns(lengths: Sequence[int]) -> list[Column]:
    return [Column("model"), *(Column(f"{length:,}", "size") for length in lengths)]


def _contexts(results: Sequence[Results], metric: str, at: dict[str, Any]) -> list[int]:
    return sorted(
        {record.at["context"] for each in results for record in each.all(EVALUATOR, metric, **at)}
    )


def _total(results: Results, at: dict[str, Any], length: int) -> str | None:
    """Returns "1.2 GiB", "needs 136 GiB of 15.8 GiB", or that the program failed."""
    for record in results.all(EVALUATOR, "total_bytes", context=length, **at):
        if record.status == "failed":
            return "failed"
        return needed(record.value, results.value(EVALUATOR, "device_bytes", **record.at))
    return None


def _exponent(results: Results, at: dict[str, Any]) -> str | None:
    b, half = (results.value(EVALUATOR, metric, **at) for metric in ("exponent", "exponent_half"))
    return None if b is None else format_exponent((b, half))


def _longest(results: Results, at: dict[str, Any]) -> str | None:
    return _bound(results.find(EVALUATOR, "longest_context", **at))


def _sequences(results: Results, at: dict[str, Any]) -> str | None:
    return _bound(results.find(EVALUATOR, "sequences", **at))


def _bound(record: Record | None) -> str | None:
    """Returns a size, with "at least" where the search ended there."""
    if record is None:
        return None
    return f"at least {record.value:,}" if record.status == "over" else f"{record.value:,}"


def _ran(results: Results, target: str, length: int) -> str | None:
    record = results.find(EVALUATOR, "actual_bytes", target=target, context=length)
    if record is None:
        return None
    if record.value is None:
        return f"not measured: {record.note}"
    planned = results.value(EVALUATOR, "planned_bytes", target=target, context=length)
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
