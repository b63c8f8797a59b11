"""Curves of training: their records, and figures with a line for each seed and their median."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import figure
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from seqarch import tasks
from seqarch.records import Record, Results
from seqarch.report import style
from seqarch.report.figures import POSITIVE, styles_of
from seqarch.report.formats import BOUNDS, format_si
from seqarch.report.labels import shown_name
from seqarch.report.lines import Line, lines
from seqarch.report.members import Member
from seqarch.report.missing import has_diverged
from seqarch.report.style import Figure
from seqarch.tasks.base import ACCURACY, BITS_PER_BYTE, Score
from seqarch.types import Float

EVALUATOR = "training"  # of the records; no entry of EVALUATORS, since nothing is evaluated
METRICS = {  # in metrics.jsonl, by the metric that the task is scored by
    "accuracy": ("loss", "accuracy"),
    "loss": ("loss",),
    "bits_per_byte": ("bits_per_byte",),
}
AXES = {"loss": "nats per token", "accuracy": "accuracy", "bits_per_byte": "bits per byte"}
POINTS = 60  # of a curve; each is the mean of the steps since the one before
DIGITS = 5  # of a point
COLUMNS = 3  # panels beside each other
PANEL = (3.7, 2.7)  # inches


def curve_records(
    rows: Sequence[Mapping[str, Any]], steps: int, score: Score = BITS_PER_BYTE
) -> list[Record]:
    """Returns the curves of a run as records, arrays over the step.

    Args:
      rows: of metrics.jsonl; a number that was not finite is None.
      steps: those of the config, on which the width of a point depends.
      score: that of the task.
    """
    width, found = max(1, math.ceil(steps / POINTS)), []
    for metric in METRICS[score.metric]:
        bins: dict[int, list[float]] = {}
        for row in rows:
            if row.get(metric) is not None and row["step"] > 0:
                end = min(steps, width * math.ceil(row["step"] / width))
                bins.setdefault(end, []).append(row[metric])
        if bins:
            values = [float(f"{np.mean(each):.{DIGITS}g}") for each in bins.values()]
            found.append(Record(EVALUATOR, metric, values, {"step": list(bins)}))
    return found


class Curve(NamedTuple):
    """The curve of a run.

    Attributes:
      values: by step.
      diverged: whether training diverged at its end.
    """

    values: Mapping[int, float]
    diverged: bool = False


def curve_of(results: Results, metric: str) -> Curve | None:
    """Returns the curve of a run; None where it has none."""
    found = results.all(EVALUATOR, metric)
    if not found:
        return None
    values = dict(zip(found[0].at["step"], found[0].value, strict=True))
    return Curve(values, has_diverged(results))


def median_curve(curves: Sequence[Curve], lower: bool) -> tuple[list[int], Float[np.ndarray, "n"]]:
    """Returns the steps and the median of several curves.

    After its end a run that diverged counts as the worst, and another one, such as one that had
    solved its task, keeps its last value. The median ends where it is that of a diverged run. The
    worst is the highest where `lower` is better.
    """
    steps = sorted({step for each in curves for step in each.values})
    worst = math.inf if lower else -math.inf
    values = []
    for each in curves:
        last = each.values[max(each.values)]
        ended, end = worst if each.diverged else last, max(each.values)
        # A run that ends between two points of others has none at the next of these.
        values.append([each.values.get(at, ended if at > end else math.nan) for at in steps])
    middle = np.nanmedian(np.array(values), axis=0)
    kept = np.isfinite(middle)
    return [step for step, keep in zip(steps, kept, strict=True) if keep], middle[kept]


def curve_figures(models: Sequence[Member]) -> list[Figure]:
    """Returns figures of the loss and of the score in training, for each task with such curves."""
    found, made = lines(models), []
    for task in dict.fromkeys(line.task for line in found):
        of_task = [line for line in found if line.task == task]
        for metric in METRICS[tasks.find(task).score.metric]:
            shown = [line for line in of_task if _curves(line, metric)]
            if shown:
                made.append(_figure(task, metric, shown, lower=metric != ACCURACY.metric))
    return made


def _curves(line: Line, metric: str) -> list[Curve]:
    runs = (each for member in line.rates.values() for each in member.results)
    return [found for each in runs if (found := curve_of(each, metric))]


def _figure(task: str, metric: str, found: Sequence[Line], lower: bool) -> Figure:
    """Returns a figure with a panel for each model."""
    columns = min(COLUMNS, len(found))
    down = -(-len(found) // columns)
    colours = _colours(found)
    with style.settings():
        size = (max(style.SIZE[0], PANEL[0] * columns), PANEL[1] * down + 0.6)
        drawing = figure.Figure(figsize=size, layout="constrained")
        first = None
        for place, line in enumerate(found, 1):
            axes = drawing.add_subplot(down, columns, place, sharex=first, sharey=first)
            first = first or axes
            _draw(axes, line, metric, lower, colours)
            axes.set_title(shown_name(line.name), fontsize=10, parse_math=False)
            if place + columns > len(found):
                axes.set_xlabel("step")
        style.linear_axis(first.xaxis, format_si, POSITIVE)
        bounds = BOUNDS["percent"] if metric == ACCURACY.metric else POSITIVE
        style.linear_axis(first.yaxis, "{:.4g}".format, bounds)
        drawing.supylabel(AXES[metric], fontsize=10)
        if colours:
            _draw_key(drawing, colours)
        width = _width(found, metric)
        caption = (
            f"The {AXES[metric]} of training batches on {task}: a thin line for each seed, and a "
            "thick one for their median. A cross: training diverged there, which counts as the "
            "worst; other runs that ended early keep their last value."
            f"{f' A point is the mean of {width} steps.' if width > 1 else ''}"
        )
        asked = "How does the loss fall" if metric == "loss" else "How fast is it learned"
        name = f"training-{metric.replace('_', '-')}-{style.file_name(task)}"
        return style.finish(drawing, name, f"{asked}: {task}?", caption)


def _draw_key(drawing: figure.Figure, colours: Mapping[float, tuple[float, ...]]) -> None:
    """Names the learning rates below the panels."""
    handles = [Line2D([], [], color=each, label=f"{rate:g}") for rate, each in colours.items()]
    small = dict(fontsize=8, title_fontsize=9, frameon=False, handlelength=1.2, columnspacing=1.2)
    place = dict(loc="outside lower center", ncols=min(len(handles), 8))
    drawing.legend(handles=handles, title="learning rate", **place, **small)


def _colours(found: Sequence[Line]) -> dict[float, tuple[float, ...]]:
    """Returns a colour for each learning rate; none where each model has one alone."""
    if all(len(line.rates) < 2 for line in found):
        return {}
    rates = sorted({rate for line in found for rate in line.rates})
    return dict(zip(rates, style.line_shades(len(rates)), strict=True))


def _width(found: Sequence[Line], metric: str) -> int:
    """Returns the number of steps of which a point is the mean."""
    return max(min(each.values) for line in found for each in _curves(line, metric))


def _draw(
    axes: Axes, line: Line, metric: str, lower: bool, colours: Mapping[float, tuple[float, ...]]
) -> None:
    for rate, member in line.rates.items():
        look = styles_of({member.name: member.config})[member.name]
        colour = colours.get(rate, look.colour)
        found = [each for run in member.results if (each := curve_of(run, metric))]
        for values, diverged in found:
            axes.plot(*zip(*values.items(), strict=True), color=colour, linewidth=0.7, alpha=0.45)
            if diverged:
                end = max(values)
                axes.plot([end], [values[end]], marker="x", color=colour, linestyle="none")
        if found:
            axes.plot(*median_curve(found, lower), color=colour)
