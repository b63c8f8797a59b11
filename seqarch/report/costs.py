"""The report of measurements on targets and at contexts (seqarch.costs.measure)."""

from collections.abc import Sequence

from seqarch.costs.programs import PHASES
from seqarch.costs.results import EVALUATOR
from seqarch.records import Results
from seqarch.report import style
from seqarch.report.cost_tables import across_targets, target_tables
from seqarch.report.figures import scale_x, styles_of
from seqarch.report.formats import format_bytes, show
from seqarch.report.labels import Label, label_points
from seqarch.report.pages import Page
from seqarch.report.style import Figure

NOTICE = "Bytes of different definitions, as on CPUs and on accelerators, do not compare."


def costs_page(title: str, results: Sequence[Results]) -> Page:
    """Returns the page of measurements on targets.

    It has tables across targets, and for each target a table and a figure of each phase, the steps
    that ran, and how many sequences fit.
    """
    targets = dict.fromkeys(record.at["target"] for each in results for record in each.records)
    tables = across_targets(results, list(targets)) if len(targets) > 1 else []
    tables += [table for target in targets for table in target_tables(results, target)]
    tables = [table for table in tables if table.rows]
    figures = [_figure(results, target, phase) for target in targets for phase in PHASES]
    versions = ", ".join(results[0].source.provenance.get("versions", ()))
    revision = show(results[0].source.revision, "revision")
    about = f"Made at revision {revision} with {versions}. {_what(results)}"
    return Page(title, tables, [figure for figure in figures if figure], NOTICE, about)


def _what(results: Sequence[Results]) -> str:
    """Returns the fields of the model that all members share, the batch, and layer patterns.

    A pattern is told of a member that is not named after it.
    """
    models, same = [each.source.config["model"] for each in results], []
    for name in ("dim", "layers", "vocab", "dtype"):
        value = models[0].get(name)
        if all(model.get(name) == value for model in models):
            same.append(f"{name} {value}")
    named = {
        each.source.member: model.get("mixer") for each, model in zip(results, models, strict=True)
    }
    patterns = [f"{name} is {mixer}" for name, mixer in named.items() if mixer not in (None, name)]
    said = f"All members: {', '.join(same)}; one sequence" if same else "One sequence"
    layers = f" Layers: {'; '.join(patterns)}." if patterns else ""
    return f"{said} a device.{layers}"


def _figure(results: Sequence[Results], target: str, phase: str) -> Figure | None:
    """Returns a figure of the bytes of a phase against the context, one curve for each member."""
    curves = _curves(results, dict(target=target, phase=phase))
    if not curves:
        return None
    looks = styles_of({each.source.member: each.source.config for each in results})
    with style.settings():
        drawing, axes = style.one_panel("context, tokens", "bytes")
        for name, (x, y) in curves.items():
            axes.plot(x, y, markersize=5, **looks[name].plotted)
        scale_x(axes, "context")
        style.log_axis(axes.yaxis, format_bytes, 2)
        ends = {name: (x[-1], y[-1]) for name, (x, y) in curves.items()}
        labels = [Label(name, *end, looks[name].colour) for name, end in ends.items()]
        label_points(axes, labels)
        title = f"How does the memory of the {PHASES[phase]} grow on {target}?"
        caption = (
            f"Bytes of the compiled {PHASES[phase]} on a device of {target} against the "
            "context, both logarithmic."
        )
        return style.finish(drawing, f"{phase}-{target.replace(':', '-')}", title, caption)


def _curves(results: Sequence[Results], at: dict[str, str]) -> dict[str, tuple[tuple, tuple]]:
    """Returns contexts and bytes of each member that has any."""
    curves = {}
    for each in results:
        found = [record for record in each.all(EVALUATOR, "total_bytes", **at) if record.value]
        points = sorted((record.at["context"], record.value) for record in found)
        if points:
            curves[each.source.member] = tuple(zip(*points, strict=True))
    return curves
