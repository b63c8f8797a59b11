"""What members can do against the bytes that they keep, with a panel for each probe."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import figure
from matplotlib.axes import Axes

from seqarch.records import Results
from seqarch.report import style
from seqarch.report.abilities import probe_comparisons, reported_length
from seqarch.report.figures import styles_of
from seqarch.report.formats import format_bytes
from seqarch.report.labels import Label, label_points
from seqarch.report.members import Comparison, Member, longest, results_of
from seqarch.report.probes import EVALUATOR
from seqarch.report.style import Figure, Style
from seqarch.stats.fit_rate import median_score

COLUMNS = 2  # panels beside each other
PANEL = (5.5, 3.4)  # inches
ALONE = (7.5, 3.4)  # of a panel without another beside it
SEEDS = (
    "A point for each seed: higher and further to the left is better. A line leads from each name "
    "to the median. Dashed: the accuracy from which on the task counts as solved; dotted: chance. "
    "Diverged runs have no point."
)


class Panel(NamedTuple):
    """A probe's part of a figure.

    Attributes:
      models: the members that got the probe.
      points: of each member that has one, its state in bytes, and the accuracy of each run.
      xlabel: the label of the axis of states.
    """

    models: Sequence[Member]
    points: dict[str, tuple[float, list[float]]]
    xlabel: str = "state of one sequence"


def ability_figure(comparison: Comparison) -> Figure | None:
    """Returns a figure of accuracy against state, with a panel for each probe.

    The state is that of one sequence at the length at which the probe is reported.
    """
    probes = probe_comparisons(comparison)
    panels = {probe.title: Panel(probe.models, _points(probe.models)) for probe in probes}
    title, caption = "What can each do with the bytes that it keeps?", SEEDS
    return _figure("ability-against-state", title, caption, panels)


def far_figure(comparison: Comparison) -> Figure | None:
    """Returns a figure of the first probe's accuracy against the state at the longest context.

    There is none where the state was measured at no context beyond that of the probe.
    """
    for probe in probe_comparisons(comparison)[:1]:
        models = probe.models
        context = (longest(models, "memory", "state_bytes") or {}).get("context", 0)
        if context > max(reported_length(each) or 0 for each in results_of(models)):
            panel = Panel(models, _points(models, context), f"state after {context:,} tokens")
            asked = f"What does each keep after {context:,} tokens, and what can it do?"
            caption = f"The accuracy on {probe.title}, which is scored on short rows. {SEEDS}"
            return _figure("ability-against-long-state", asked, caption, {probe.title: panel})
    return None


def _figure(name: str, title: str, caption: str, panels: dict[str, Panel]) -> Figure | None:
    panels = {probe: panel for probe, panel in panels.items() if panel.points}
    if not panels:
        return None
    configs = {each.name: each.config for panel in panels.values() for each in panel.models}
    rows, columns = -(-len(panels) // COLUMNS), min(len(panels), COLUMNS)
    with style.settings():
        size = (PANEL[0] * columns, PANEL[1] * rows) if columns > 1 else ALONE
        drawing = figure.Figure(figsize=size, layout="constrained")
        for place, (probe, panel) in enumerate(panels.items(), 1):
            axes = drawing.add_subplot(rows, columns, place, ylabel="accuracy", title=probe)
            axes.set_xlabel(panel.xlabel)
            _draw(axes, panel.points, styles_of(configs))
            _draw_levels(axes, panel.models)
        return style.finish(drawing, name, title, caption)


def _points(
    models: Sequence[Member], context: int | None = None
) -> dict[str, tuple[float, list[float]]]:
    """Returns the state of each model in bytes, and the accuracy of each of its runs.

    Args:
      models: the members that got a probe.
      context: tokens after which the state is taken; default: those at which the probe reports.
    """
    points = {}
    for model in models:
        found = (each.value(EVALUATOR, "accuracy") for each in model.results)
        accuracies = [value for value in found if value is not None]
        states = [state for each in model.results if (state := _state(each, context))]
        if states and accuracies:
            points[model.name] = states[0], accuracies
    return points


def _state(results: Results, context: int | None) -> float | None:
    context = context or reported_length(results)
    return results.value("memory", "state_bytes", context=context)


def _draw(
    axes: Axes, points: dict[str, tuple[float, list[float]]], looks: dict[str, Style]
) -> None:
    labels = []
    for name, (state, accuracies) in points.items():
        look = looks[name]
        marks = dict(color=look.colour, marker=look.marker, linestyle="none", markersize=6)
        axes.plot([state] * len(accuracies), accuracies, alpha=0.7, clip_on=False, **marks)
        labels.append(Label(name, state, median_score(accuracies), look.colour))
    axes.set_ylim(-0.02, 1.05)
    axes.margins(x=0.1)
    style.log_axis(axes.xaxis, format_bytes, 2)
    style.linear_axis(axes.yaxis, "{:.4g}".format)
    label_points(axes, labels)


def _draw_levels(axes: Axes, models: Sequence[Member]) -> None:
    """Draws the threshold and chance where they are known."""
    for metric, line in (("solved", "--"), ("chance", ":")):
        levels = {value for each in models if (value := each.value(EVALUATOR, metric))}
        for level in levels:
            axes.axhline(level, color=style.QUIET, linestyle=line, linewidth=1)
