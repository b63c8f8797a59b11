"""The report of a sweep over targets and contexts (seqarch.costs.sweep): what members need, and
what fits.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from seqarch.records import Record, Results
from seqarch.report import style
from seqarch.report.figures import styles_of
from seqarch.report.formats import format_bytes, format_si
from seqarch.report.pages import Page
from seqarch.report.style import Figure, Label
from seqarch.report.tables import Column, Row, Table

COSTS = "costs"  # the evaluator of these records
PHASES = {"train": "training step", "prefill": "prefill", "decode": "decoding step"}
GROWS = {"train": "working memory", "prefill": "working memory and state", "decode": "state"}
PLOTTED = (
    "total_bytes",
    "parameters_bytes",
    "optimizer_bytes",
    "state_bytes",
    "temporaries_bytes",
    "flops",
)
NOTICE = "Bytes of different definitions, as on CPUs and on accelerators, do not compare."


def costs_page(title: str, results: Sequence[Results]) -> Page:
    """The page of a sweep: for each target a table of each phase, what really ran, and how many
    sequences fit.
    """
    targets = dict.fromkeys(record.at["target"] for each in results for record in each.records)
    tables = [table for target in targets for table in _tables(results, target) if table.rows]
    figures = [_figure(results, target, phase) for target in targets for phase in PHASES]
    made = results[0].source.provenance
    about = (
        f"Made at revision {results[0].source.revision} with "
        f"{', '.join(made.get('versions', ()))}. {_what(results)}"
    )
    return Page(title, tables, [figure for figure in figures if figure], NOTICE, about)


def _what(results: Sequence[Results]) -> str:
    """What the members share: width, depth, parameters and batch."""
    models = [each.source.config["model"] for each in results]
    shared = {name: models[0].get(name) for name in ("dim", "layers", "vocab", "dtype")}
    same = [
        f"{name} {value}"
        for name, value in shared.items()
        if all(model.get(name) == value for model in models)
    ]
    return (
        f"All members: {', '.join(same)}; one sequence a device."
        if same
        else "One sequence a device."
    )


def _tables(results: Sequence[Results], target: str) -> list[Table]:
    made = [_phase_table(results, target, phase) for phase in PHASES]
    return [*made, _actual_table(results, target), _sequences_table(results, target)]


def _phase_table(results: Sequence[Results], target: str, phase: str) -> Table:
    at = dict(target=target, phase=phase)
    lengths = _contexts(results, "total_bytes", at)
    columns = [Column("model"), *(Column(f"{length:,}", "size") for length in lengths)]
    columns += [Column("exponent", "size"), Column("longest that fits", "size")]
    rows = []
    for each in results:
        sizes = [_total(each, at, length) for length in lengths]
        rows.append(
            Row(
                (
                    each.source.member,
                    *sizes,
                    _exponent(each, at),
                    _bound(each.find(COSTS, "longest_context", **at)),
                )
            )
        )
    definitions = sorted(
        {
            record.note
            for each in results
            for record in _all(each, "total_bytes", at)
            if record.value
        }
    )
    caption = (
        f"Bytes of each device, {' or '.join(definitions) or 'of which there are none'}, "
        "by tokens of context. Exponent: "
    )
    caption += (
        f"b of bytes ~ context^b for the {GROWS[phase]}, over the longest four contexts; "
        "it takes three."
    )
    return _table(f"{PHASES[phase].capitalize()} on {target}", caption, columns, rows)


def _actual_table(results: Sequence[Results], target: str) -> Table:
    at = dict(target=target)
    lengths = _contexts(results, "actual_bytes", at)
    columns = [Column("model"), *(Column(f"{length:,}", "size") for length in lengths)]
    rows = [
        Row((each.source.member, *(_ran(each, target, length) for length in lengths)))
        for each in results
    ]
    caption = (
        "Bytes of training steps that ran, and the compiler's plan in per cent of them. "
        f"{_overhead(results, target)}"
    )
    return _table(f"Planned and actual on {target}", caption.strip(), columns, rows)


def _sequences_table(results: Sequence[Results], target: str) -> Table:
    lengths = _contexts(results, "sequences", dict(target=target))
    columns = [Column("model"), *(Column(f"{length:,}", "size") for length in lengths)]
    found = lambda each, length: _bound(
        each.find(COSTS, "sequences", target=target, context=length)
    )
    rows = [
        Row((each.source.member, *(found(each, length) for length in lengths))) for each in results
    ]
    caption = (
        "Sequences whose decoding step fits at once, by the tokens of context that each may have."
    )
    return _table(f"Sequences at once on {target}", caption, columns, rows)


def _table(title: str, caption: str, columns: Sequence[Column], rows: Iterable[Row]) -> Table:
    """Without rows that have nothing to show."""
    return Table(title, caption, tuple(columns), tuple(row for row in rows if any(row.cells[1:])))


def _all(results: Results, metric: str, at: dict[str, Any]) -> list[Record]:
    """The records of a metric whose `at` includes the given one."""
    return [record for record in results.all(COSTS, metric) if at.items() <= record.at.items()]


def _contexts(results: Sequence[Results], metric: str, at: dict[str, Any]) -> list[int]:
    return sorted({record.at["context"] for each in results for record in _all(each, metric, at)})


def _total(results: Results, at: dict[str, Any], length: int) -> str | None:
    """ "1.2 GiB", "needs 136 GiB of 15.8 GiB", or that it failed."""
    for record in _all(results, "total_bytes", at | dict(context=length)):
        if record.status == "failed":
            return "failed"
        if record.status == "oom":
            memory = results.value(COSTS, "device_bytes", **record.at)
            return f"needs {format_bytes(record.value)} of {format_bytes(memory)}"
        return format_bytes(record.value)
    return None


def _exponent(results: Results, at: dict[str, Any]) -> str | None:
    b, half = (results.value(COSTS, metric, **at) for metric in ("exponent", "exponent_half"))
    return None if b is None else f"{abs(b) if abs(b) < 0.005 else b:.2f} ± {half:.2f}"


def _bound(record: Record | None) -> str | None:
    """A size; "at least" where the search ended there."""
    if record is None:
        return None
    return f"at least {record.value:,}" if record.status == "over" else f"{record.value:,}"


def _ran(results: Results, target: str, length: int) -> str | None:
    record = results.find(COSTS, "actual_bytes", target=target, context=length)
    if record is None:
        return None
    if record.value is None:
        return f"not measured: {record.note}"
    planned = results.value(COSTS, "planned_bytes", target=target, context=length)
    return f"{format_bytes(record.value)}, planned {100 * planned / record.value:.0f} %"


def _overhead(results: Sequence[Results], target: str) -> str:
    """The fit of actual = overhead + factor x planned over all of them, by least relative
    squares.
    """
    pairs = []
    for each in results:
        for record in _all(each, "actual_bytes", dict(target=target)):
            if record.value is not None:
                pairs.append((each.value(COSTS, "planned_bytes", **record.at), record.value))
    if len(pairs) < 3:
        return ""
    planned, actual = np.array(pairs, float).T
    system = np.stack([1 / actual, planned / actual], axis=1)
    (overhead, factor), *_ = np.linalg.lstsq(system, np.ones(len(pairs)), rcond=None)
    return f"Fitted: actual = {overhead / 2**20:.0f} MiB + {factor:.3f} x planned."


def _figure(results: Sequence[Results], target: str, phase: str) -> Figure | None:
    """The bytes of a phase against the context, one curve a member."""
    at = dict(target=target, phase=phase)
    curves = {}
    for each in results:
        points = sorted(
            (r.at["context"], r.value) for r in _all(each, "total_bytes", at) if r.value
        )
        if points:
            curves[each.source.member] = tuple(zip(*points, strict=True))
    if not curves:
        return None
    looks = styles_of({each.source.member: each.source.config for each in results})
    with style.settings():
        drawing, axes = style.one_panel("context, tokens", "bytes")
        for name, (x, y) in curves.items():
            axes.plot(x, y, color=looks[name].colour, marker=looks[name].marker, markersize=5)
        style.log_axis(axes.xaxis, format_si, 2)
        style.log_axis(axes.yaxis, format_bytes, 2)
        style.label_points(
            axes, [Label(name, x[-1], y[-1], looks[name].colour) for name, (x, y) in curves.items()]
        )
        title = f"How does the memory of the {PHASES[phase]} grow on {target}?"
        caption = (
            f"Bytes of the compiled {PHASES[phase]} on a device of {target} against the "
            "context, both logarithmic."
        )
        return style.finish(drawing, f"{phase}-{target.replace(':', '-')}", title, caption)


def scalars(results: Results, target: str) -> dict[int, dict[str, float]]:
    """What TensorBoard plots of a member on a target, by context, such as "train/total_bytes"."""
    made: dict[int, dict[str, float]] = {}
    for metric in PLOTTED:
        for record in _all(results, metric, dict(target=target)):
            if record.value is not None:
                made.setdefault(record.at["context"], {})[f"{record.at['phase']}/{metric}"] = (
                    record.value
                )
    return made
