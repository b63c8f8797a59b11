"""Sweeps over learning rates: which learning rates work for which model."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from seqarch import tasks
from seqarch.report import style
from seqarch.report.formats import show, window_cells
from seqarch.report.labels import shown_name
from seqarch.report.lines import Line, lines
from seqarch.report.members import Member
from seqarch.report.probe_rates import grid_text
from seqarch.report.probes import outcome_of, solved_from
from seqarch.report.style import Figure
from seqarch.report.tables import Column, Row, Table
from seqarch.stats.fit_rate import median_score
from seqarch.stats.learning_rates import WINDOW_SEEDS, is_half_octave_grid, learning_rate_window
from seqarch.tasks.base import ACCURACY, Score

CHOSEN = (
    "A learning rate that is chosen from these scores wants fresh seeds before it is reported: the "
    "best of many is flattered."
)


class Square(NamedTuple):
    """A square of a heat map.

    Attributes:
      value: decides its colour; NaN where no run has a score.
      text: what is written in it.
    """

    value: float
    text: str


def heat_maps(models: Sequence[Member]) -> list[Figure]:
    """Returns a heat map of learning rates and success for each task that has several rates."""
    found = lines(models)
    swept = dict.fromkeys(line.task for line in found if len(line.rates) > 1)
    return [_heat_map(task, [line for line in found if line.task == task]) for task in swept]


def _heat_map(task: str, found: Sequence[Line]) -> Figure:
    """Returns the heat map of a task: a row for each model, a column for each learning rate."""
    score = tasks.find(task).score
    rates = sorted({rate for line in found for rate in line.rates})
    squares = [[square(line.rates.get(rate), score) for rate in rates] for line in found]
    with style.settings():
        drawing, axes = style.one_panel("learning rate", "")
        drawing.set_size_inches(max(style.SIZE[0], 2 + 0.75 * len(rates)), 1.2 + 0.5 * len(found))
        _draw_squares(axes, squares, score)
        axes.set_xticks(0.5 + np.arange(len(rates)), [f"{rate:g}" for rate in rates])
        names = [shown_name(line.name) for line in found]
        axes.set_yticks(0.5 + np.arange(len(found)), names, parse_math=False)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        shown = (
            "Runs that solved the task, of all with this learning rate; brighter is more often. A "
            "diverged run did not."
            if score == ACCURACY
            else f"Median {score.title} of the seeds; brighter is better."
        )
        caption = f"{shown} Empty: not run. {CHOSEN}"
        title = f"Which learning rates work on {task}?"
        name = f"learning-rates-{style.file_name(task)}"
        return style.finish(drawing, name, title, caption)


def square(member: Member | None, score: Score) -> Square:
    """Returns what a heat map shows of a member: how many of its runs fit, or its median score."""
    if member is None:
        return Square(math.nan, "")
    if score == ACCURACY:
        if (found := outcome_of(member)) is None:
            return Square(math.nan, "no score")
        diverged, rate = found.scores.count(None), found.rate
        text = f"{rate.fits}/{rate.n}" + (f"\n{diverged} diverged" if diverged else "")
        return Square(rate.rate, text)
    records = [each.find(score.evaluator, score.metric) for each in member.results]
    sign = -1 if score.lower else 1
    values = [sign * each.value if each and each.value is not None else None for each in records]
    middle = sign * median_score(values)
    shown = show(middle, score.unit) if math.isfinite(middle) else "no score"
    return Square(middle if math.isfinite(middle) else math.nan, shown)


def _draw_squares(axes: Axes, squares: Sequence[Sequence[Square]], score: Score) -> None:
    values = np.array([[each.value for each in row] for row in squares])
    known = values[np.isfinite(values)]
    low, high = (0.0, 1.0) if score == ACCURACY or not known.size else (known.min(), known.max())
    high = high if high > low else low + 1
    colours = matplotlib.colormaps[style.SHADES + ("_r" if score.lower else "")]
    shades, shown = colours((values - low) / (high - low)), np.ma.masked_invalid(values)
    axes.pcolormesh(shown, cmap=colours, vmin=low, vmax=high, edgecolors="white", linewidth=2)
    axes.set_xlim(0, values.shape[1])
    axes.set_ylim(values.shape[0], 0)
    for (row, column), value in np.ndenumerate(values):
        bright = np.dot(shades[row, column, :3], (0.299, 0.587, 0.114)) > 0.5
        ink = style.QUIET if math.isnan(value) else "black" if bright else "white"
        place = (column + 0.5, row + 0.5)
        axes.annotate(squares[row][column].text, place, ha="center", va="center", color=ink)


def window_table(models: Sequence[Member]) -> Table | None:
    """Returns the window of learning rates of each model on a half-octave grid; None of no such."""
    rows = []
    for line in lines(models):
        if is_half_octave_grid(list(line.rates)) and (found := _scores(line)):
            solved = min(solved_from(member.results) for member in line.rates.values())
            window = learning_rate_window(found, solved)
            seeds = min(map(len, found.values()))
            rows.append(Row((line.name, line.task, grid_text(found), seeds, *window_cells(window))))
    columns = ("model", "task", "learning rates", "seeds each", "from", "to", "octaves")
    caption = (
        "The widest stretch of a half-octave grid in which at least half of the seeds solve the "
        f"task, of {WINDOW_SEEDS} or more at each learning rate. Where it meets the end of the "
        "grid, it may be wider: at most (≤) or at least (≥) is then written."
    )
    titles = tuple(Column(title, "count" if title == "seeds each" else "text") for title in columns)
    return Table("Windows of learning rates", caption, titles, tuple(rows)) if rows else None


def _scores(line: Line) -> dict[float, tuple[float | None, ...]] | None:
    """Returns the accuracies at each rate; None where any has fewer than WINDOW_SEEDS."""
    found = {rate: outcome_of(member) for rate, member in line.rates.items()}
    if any(each is None or len(each.scores) < WINDOW_SEEDS for each in found.values()):
        return None
    return {rate: each.scores for rate, each in found.items()}
