"""How often each member solves its probe: columns, a table, and a figure of every seed."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from seqarch.records import Results
from seqarch.report import style
from seqarch.report.figures import styles_of
from seqarch.report.formats import BOUNDS
from seqarch.report.labels import shown_name
from seqarch.report.lines import has_rates
from seqarch.report.members import Comparison, Member
from seqarch.report.style import Figure, Style
from seqarch.report.tables import NAME, Cells, Table, found_cell, member_table
from seqarch.stats.fit_rate import VERDICT_SEEDS, FitRate, fisher_exact, fit_rate, median_score
from seqarch.stats.letters import corrected_letters

EVALUATOR = "accuracy"
INTERVAL = "Intervals are Wilson's of 95 % and unadjusted for the number of models."
LETTERS = (
    f"Models with {VERDICT_SEEDS} or more seeds that share a letter were not told apart by "
    "Fisher's exact test, with Holm's correction over all pairs of models."
)


class MemberOutcome(NamedTuple):
    """What the runs of a member came to.

    Attributes:
      scores: the accuracy of each run on all scored positions; None where it diverged.
      median: their median, below which half of them are; None where that is a diverged run.
      rate: the share of runs that solved the task.
      letters: those that it shares with the members from which it does not differ; "" without a
        verdict.
    """

    scores: tuple[float | None, ...]
    median: float | None
    rate: FitRate
    letters: str = ""


def outcomes(models: Sequence[Member]) -> dict[str, MemberOutcome]:
    """Returns the outcomes of members with accuracies, by name; none where none has two runs.

    Letters are those of members with seeds enough for a verdict. The family of Holm's correction
    is all pairs of members. Where their tasks differ there are no letters, and none in a sweep,
    whose learning rates are no models to be compared.
    """
    found = {member.name: made for member in models if (made := outcome_of(member))}
    if max((len(each.scores) for each in found.values()), default=0) < 2:
        return {}
    if len({member.config.get("task") for member in models}) > 1 or has_rates(models):
        return found
    shared = _letters({name: each.rate for name, each in found.items()}, _order(found))
    return {
        name: each._replace(letters=shared[name]) if each.rate.has_verdict else each
        for name, each in found.items()
    }


def outcome_of(member: Member) -> MemberOutcome | None:
    """Returns what the runs of a member came to, without letters; None where none has a score."""
    records = [each.find(EVALUATOR, "accuracy") for each in member.results]
    scores = tuple(each.value for each in records if each and each.status in ("ok", "diverged"))
    if not scores:
        return None
    middle = median_score(scores)
    median = middle if math.isfinite(middle) else None
    return MemberOutcome(scores, median, fit_rate(scores, solved_from(member.results)))


def solved_from(results: Sequence[Results]) -> float:
    """Returns the accuracy from which on the task counts as solved; infinity where none is told.

    It is so where every run diverged, none of which fits.
    """
    found = (each.value(EVALUATOR, "solved") for each in results)
    return next((each for each in found if each is not None), math.inf)


def _order(found: Mapping[str, MemberOutcome]) -> list[str]:
    """Returns the members from the best on: by fit rate, then by median."""

    def rank(name: str) -> tuple[float, float]:
        return found[name].rate.rate, median_score(found[name].scores)

    return sorted(found, key=rank, reverse=True)


def _letters(rates: Mapping[str, FitRate], order: Sequence[str]) -> dict[str, str]:
    """Returns letters by Fisher's test; a pair without seeds for a verdict is not told apart."""
    p_values = {}
    for one, other in itertools.combinations(order, 2):
        enough = rates[one].has_verdict and rates[other].has_verdict
        p_values[frozenset((one, other))] = fisher_exact(rates[one], rates[other]) if enough else 1
    return corrected_letters(order, p_values)


def verdict(rate: FitRate) -> str:
    """Returns what a fit rate says: that a rate is compatible, never that a model cannot."""
    counted = f"{rate.fits} of {rate.n} solved it"
    if not rate.has_verdict:
        return f"{counted}; a verdict needs {VERDICT_SEEDS} seeds"
    if rate.fits == 0:
        return f"{counted}, so a rate of up to {rate.high:.2f} is compatible"
    if rate.fits == rate.n:
        return f"{counted}, so a rate of {rate.low:.2f} or more is compatible"
    return f"{counted}, so rates from {rate.low:.2f} to {rate.high:.2f} are compatible"


def outcome_cells(found: Mapping[str, MemberOutcome]) -> list[Cells]:
    """Returns the columns of a summary: n, median, fit rate with its interval, any letters."""
    cells = [
        found_cell("n", "count", found, lambda each: each.rate.n),
        found_cell("median accuracy", "percent", found, lambda each: each.median),
        found_cell("fit rate", "fit_rate", found, lambda each: each.rate),
    ]
    if _has_letters(found):
        cells.append(found_cell("not told apart", "text", found, lambda each: each.letters))
    return cells


def _has_letters(found: Mapping[str, MemberOutcome]) -> bool:
    return any(each.letters for each in found.values())


def fit_table(comparison: Comparison, found: Mapping[str, MemberOutcome]) -> Table | None:
    """Returns the fit rates with what they say; None without outcomes."""
    if not found:
        return None
    return member_table(
        "Fit rates",
        "A run fits where its accuracy reaches the task's threshold; a diverged run does not. "
        f"{INTERVAL}{f' {LETTERS}' if _has_letters(found) else ''}",
        comparison.models,
        (
            NAME,
            *outcome_cells(found),
            found_cell("lowest", "percent", found, lambda each: min(_finite(each), default=None)),
            found_cell("highest", "percent", found, lambda each: max(_finite(each), default=None)),
            found_cell("diverged", "count", found, lambda each: each.scores.count(None)),
            found_cell("verdict", "text", found, lambda each: verdict(each.rate)),
        ),
    )


def _finite(outcome: MemberOutcome) -> list[float]:
    return [each for each in outcome.scores if each is not None]


def fit_figure(comparison: Comparison, found: Mapping[str, MemberOutcome]) -> Figure | None:
    """Returns a figure with a point for each seed of each member; None without outcomes."""
    models = [member for member in comparison.models if member.name in found]
    if not models:
        return None
    looks = styles_of({member.name: member.config for member in models})
    with style.settings():
        drawing, axes = style.one_panel("accuracy", "")
        drawing.set_figheight(max(style.SIZE[1] / 2, 1 + 0.55 * len(models)))
        for row, member in enumerate(models):
            _draw_strip(axes, row, found[member.name], looks[member.name])
        _draw_levels(axes, models)
        names = [shown_name(member.name) for member in models]
        axes.set_yticks(range(len(models)), names, parse_math=False)
        axes.set_ylim(len(models) - 0.5, -0.5)
        style.linear_axis(axes.xaxis, "{:.4g}".format, BOUNDS["percent"])
        caption = (
            "A point for each seed, and a line at the median. Dashed: the accuracy from which on "
            "the task counts as solved; dash-dotted: the best trivial rule; dotted: chance. A "
            "cross at the left edge: a diverged run."
        )
        return style.finish(drawing, "fit-rate", "How often is the task solved?", caption)


def _draw_strip(axes: Axes, row: int, outcome: MemberOutcome, look: Style) -> None:
    """Draws the runs of a member in a row, one below the other in the order of seeds."""
    heights = row + np.linspace(-0.35, 0.35, len(outcome.scores) + 2)[1:-1]
    reached = [(x, y) for x, y in zip(outcome.scores, heights, strict=True) if x is not None]
    marks = dict(color=look.colour, linestyle="none", clip_on=False, zorder=3)
    if reached:
        axes.plot(*zip(*reached, strict=True), marker=look.marker, markersize=4, alpha=0.7, **marks)
    diverged = [y for x, y in zip(outcome.scores, heights, strict=True) if x is None]
    edge = axes.get_yaxis_transform()
    axes.plot([0] * len(diverged), diverged, marker="x", transform=edge, **marks)
    if outcome.median is not None:
        axes.vlines(outcome.median, row - 0.4, row + 0.4, color=style.INK, linewidth=1.4)


def _draw_levels(axes: Axes, models: Sequence[Member]) -> None:
    """Draws the threshold, the best trivial rule and chance where all members share them."""
    for metric, line in (("solved", "--"), ("trivial_accuracy", "-."), ("chance", ":")):
        levels = {member.value(EVALUATOR, metric) for member in models} - {None}
        if len(levels) == 1:
            axes.axvline(levels.pop(), color=style.QUIET, linestyle=line, linewidth=1)
