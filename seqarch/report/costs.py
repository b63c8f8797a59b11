"""The report of a sweep over targets and contexts (seqarch.costs.sweep): what members need, and
what fits.
"""

from collections.abc import Sequence

from seqarch.records import Results
from seqarch.report import style
from seqarch.report.cost_tables import PHASES, across_targets, all_of, target_tables
from seqarch.report.figures import scale_x, styles_of
from seqarch.report.formats import format_bytes
from seqarch.report.pages import Page
from seqarch.report.style import Figure, Label

PLOTTED = ("total_bytes", "parameters_bytes", "optimizer_bytes", "state_bytes")
PLOTTED += ("temporaries_bytes", "flops")
NOTICE = "Bytes of different definitions, as on CPUs and on accelerators, do not compare."


def costs_page(title: str, results: Sequence[Results]) -> Page:
    """The page of a sweep: for each target a table of each phase, what really ran, and how many
    sequences fit.
    """
    targets = dict.fromkeys(record.at["target"] for each in results for record in each.records)
    tables = across_targets(results, list(targets)) if len(targets) > 1 else []
    tables += [table for target in targets for table in target_tables(results, target)]
    tables = [table for table in tables if table.rows]
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


def _figure(results: Sequence[Results], target: str, phase: str) -> Figure | None:
    """The bytes of a phase against the context, one curve a member."""
    at = dict(target=target, phase=phase)
    curves = {}
    for each in results:
        points = sorted(
            (r.at["context"], r.value) for r in all_of(each, "total_bytes", at) if r.value
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
        scale_x(axes, "context")
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
        for record in all_of(results, metric, dict(target=target)):
            if record.value is not None:
                made.setdefault(record.at["context"], {})[f"{record.at['phase']}/{metric}"] = (
                    record.value
                )
    return made
