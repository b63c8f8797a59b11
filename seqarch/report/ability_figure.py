"""What members can do against the bytes that they keep, with a panel for each probe."""

from collections.abc import Sequence

from matplotlib import figure
from matplotlib.axes import Axes

from seqarch.records import Results
from seqarch.report import style
from seqarch.report.abilities import probe_comparison, probe_titles, reported_length
from seqarch.report.figures import styles_of
from seqarch.report.formats import format_bytes
from seqarch.report.labels import Label, label_points
from seqarch.report.members import Comparison, Member
from seqarch.report.probes import EVALUATOR
from seqarch.report.style import Figure, Style
from seqarch.stats.fit_rate import median_score

COLUMNS = 2  # panels beside each other
PANEL = (5.5, 3.4)  # inches


def ability_figure(comparison: Comparison) -> Figure | None:
    """Returns a figure of accuracy against state, with a point for each seed of each member.

    The state is that of one sequence at the length at which the probe is reported.
    """
    probes, configs = {}, {}
    for title in probe_titles(comparison):
        models = probe_comparison(comparison, title).members
        if points := {each.name: found for each in models if (found := _points(each))}:
            probes[title] = models, points
            configs |= {each.name: each.config for each in models}
    if not probes:
        return None
    rows, columns = -(-len(probes) // COLUMNS), min(len(probes), COLUMNS)
    with style.settings():
        size = (PANEL[0] * columns, PANEL[1] * rows)
        drawing = figure.Figure(figsize=size, layout="constrained")
        for place, (title, (models, points)) in enumerate(probes.items(), 1):
            axes = drawing.add_subplot(rows, columns, place, ylabel="accuracy", title=title)
            axes.set_xlabel("state of one sequence")
            _draw(axes, points, styles_of(configs))
            _draw_levels(axes, models)
        caption = (
            "A point for each seed: higher and further to the left is better. A line leads from "
            "each name to the median. Dashed: the accuracy from which on the task counts as "
            "solved; dotted: chance. Diverged runs have no point."
        )
        title = "What can each do with the bytes that it keeps?"
        return style.finish(drawing, "ability-against-state", title, caption)


def _points(member: Member) -> tuple[float, list[float]] | None:
    """Returns the bytes of state, and the accuracy of each run that has one."""
    found = (each.value(EVALUATOR, "accuracy") for each in member.results)
    accuracies = [value for value in found if value is not None]
    states = [state for each in member.results if (state := _state(each))]
    return (states[0], accuracies) if states and accuracies else None


def _state(results: Results) -> float | None:
    length = reported_length(results)
    return results.value("memory", "state_bytes", context=length)


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
