"""How many bytes of state a task needs: a figure, tables, and the page of a frontier's records.

The records are those of seqarch.evals.frontier, beside those of the runs that they are made from.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import figure
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from seqarch.config import flatten
from seqarch.evals import frontier
from seqarch.evals.frontier_runs import is_sweep, model_of, read_points, size_of
from seqarch.records import Results, Source
from seqarch.report import style
from seqarch.report.formats import format_bytes, show
from seqarch.report.labels import shown_name
from seqarch.report.pages import Page
from seqarch.report.style import Figure, Style
from seqarch.report.tables import Column, Row, Table
from seqarch.stats.frontier import Reported, choose_runs
from seqarch.stats.law import TERMS, Estimate

PANELS = 3  # beside each other
PANEL = (3.6, 3.1)  # inches
SETTING = ("length", "steps", "batch", "model.layers", "model.conv", "model.mlp", "model.vocab")
SETTING += ("model.dtype", "optim.warmup", "optim.weight_decay")
ALONE = "Learning rates were chosen by the runs that are shown, which flatters them."
FRESH = "Learning rates were chosen by runs of another seed."


def frontier_page(title: str, results: Sequence[Results]) -> Page:
    """Returns the page of a frontier's records.

    Args:
      title: the page's title.
      results: the frontiers of mixers, and the runs that they are made from.
    """
    found = [each for each in results if each.source.kind == frontier.NAME]
    made = show(results[0].source.revision, "revision")
    tables = [smallest_table(found), law_table(found), accuracy_table(results)]
    tables += [setting_table(found)]
    about = f"Made at revision {made}. One setting, one budget: evidence for these, not for others."
    return Page(title, [each for each in tables if each], [frontier_figure(results)], "", about)


def frontier_tables(results: Sequence[Results]) -> list[Table]:
    """Returns the smallest states and the accuracy at each state; none of runs of no sweep."""
    if not is_sweep(results):
        return []
    return [smallest_table(frontier.frontiers(results)), accuracy_table(results)]


def frontier_figures(results: Sequence[Results]) -> list[Figure]:
    """Returns the figure of a sweep over states; none of other runs."""
    return [frontier_figure(results)] if is_sweep(results) else []


def smallest_table(found: Sequence[Results]) -> Table:
    """Returns the smallest state that is enough, of each mixer and for each size of the task."""
    setting = _setting(found[0])
    name, reached = setting["size"], setting["reached"]
    sizes = sorted({size for each in found for size in _setting(each)["sizes"]})
    rows = []
    for each in found:
        states = [_smallest(each, {name: size}) for size in sizes]
        rows.append(Row((each.source.member, *states)))
    caption = (
        f"The smallest state with which the median accuracy reaches {show(reached, 'percent')}, in "
        f"bytes of one sequence, by {name}. >: not even the largest state that was tried is "
        f"enough within this budget. \N{LESS-THAN OR EQUAL TO}: no smaller one was tried. "
        f"{_choice(found)}"
    )
    columns = (Column("mixer"), *(Column(f"{name} {size:g}", "size") for size in sizes))
    return Table("The smallest state that recalls", caption, columns, tuple(rows))


def _smallest(results: Results, at: Mapping[str, float]) -> str | None:
    record = results.find(frontier.NAME, "smallest_state", **at)
    if record is None:
        return None
    sign = "> " if record.status == "over" else "\N{LESS-THAN OR EQUAL TO} " if record.note else ""
    return sign + format_bytes(record.value)


def law_table(found: Sequence[Results]) -> Table | None:
    """Returns the coefficients of each law with their intervals; None where there is none."""
    laws = {each.source.member: law for each in found if (law := frontier.read_law(each))}
    if not laws:
        return None
    setting = _setting(found[0])
    name, reached = setting["size"], setting["reached"]
    by_mixer = {each.source.member: _setting(each) for each in found}
    sizes = sorted({size for mixer in laws for size in by_mixer[mixer]["sizes"]})
    rows = []
    for mixer, law in laws.items():
        terms = (interval(law.coefficient(term), "ratio") for term in TERMS)
        needed = (interval(law.state(size, 1 - reached), "bytes") for size in sizes)
        rows.append(Row((mixer, by_mixer[mixer]["reported"], *terms, *needed)))
    terms = ("a", "b, state doubled", f"c, {name} doubled")
    columns = [Column("mixer"), Column("runs", "count"), *(Column(each, "size") for each in terms)]
    columns += [Column(f"state for {name} {size:g}", "size") for size in sizes]
    caption = (
        f"log(e / (1 - e)) = a + b log2(state) + c log2({name}), with e the share of wrong "
        "answers, fitted to all runs that count. In brackets: 95 % intervals from drawing runs "
        "with replacement. The last columns are the bytes at which the law reaches "
        f"{show(reached, 'percent')} right answers, an extrapolation where they lie outside the "
        "states that were tried."
    )
    return Table("The law of errors", caption, tuple(columns), tuple(rows))


def interval(estimate: Estimate | None, unit: str) -> str | None:
    """Returns "1.5 KiB [1.2 KiB, 2 KiB]"; None where there is no estimate."""
    if estimate is None:
        return None
    value, low, high = (_end(each, unit) for each in estimate)
    return f"{value} [{low}, {high}]"


def _end(value: float, unit: str) -> str:
    return show(value, unit) if math.isfinite(value) else "\N{INFINITY}"


def accuracy_table(results: Sequence[Results]) -> Table:
    """Returns the median accuracy of each model for each size of the task, by mixer and state."""
    cells: dict[tuple[str, int, str], dict[float, float]] = {}
    runs = {}
    for each in choose_runs(read_points(results)):
        first = each.points[0]
        key = first.mixer, first.state, first.model
        cells.setdefault(key, {})[first.size] = each.median
    for each in results:
        if each.source.kind == "run":
            config = flatten(dict(each.source.config))
            runs.setdefault(model_of(each), (config["model.mixer"], config["model.dim"]))
    sizes = sorted({size for found in cells.values() for size in found})
    rows = []
    for (_, state, model), found in sorted(cells.items()):
        values = (found.get(size) for size in sizes)
        shown = (each if each is None or math.isfinite(each) else 0.0 for each in values)
        rows.append(Row((*runs[model], state, *shown)))
    name = size_of(_first(results).config["task"])[0]
    columns = [Column("layers of"), Column("width", "count"), Column("state", "bytes")]
    columns += [Column(f"{name} {size:g}", "percent") for size in sizes]
    caption = (
        f"Median accuracy of the runs that count, by {name}; a diverged run counts as 0. State: "
        "bytes of one sequence at the length of the rows."
    )
    return Table("Accuracy at each state", caption, tuple(columns), tuple(rows))


def setting_table(found: Sequence[Results]) -> Table:
    """Returns what all runs share, and what was varied."""
    setting, config = _setting(found[0]), flatten(dict(found[0].source.config))
    rows = [("task", setting["task"]), (setting["size"], _list(setting["sizes"]))]
    rows += [(each, str(config[each])) for each in SETTING if each in config]
    for each in found:
        own = _setting(each)
        rows.append((f"{each.source.member}: layers of", "; ".join(own["patterns"])))
        rows.append((f"{each.source.member}: model.dim", _list(own["widths"])))
        rows.append((f"{each.source.member}: optim.lr", _list(own["learning_rates"])))
        rows.append((f"{each.source.member}: runs, and those that count", _runs(own)))
    columns = Column("field", "code"), Column("value")
    return Table("Setting", "What the numbers rest on.", columns, tuple(map(Row, rows)))


def _runs(setting: Mapping[str, Any]) -> str:
    return f"{setting['runs']}, {setting['reported']}"


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _setting(results: Results) -> Mapping[str, Any]:
    return results.source.facts[frontier.NAME]


def _choice(found: Sequence[Results]) -> str:
    return FRESH if all(_setting(each)["fresh"] for each in found) else ALONE


def frontier_figure(results: Sequence[Results]) -> Figure:
    """Returns a panel for each size of the task: accuracy against bytes of state, by mixer."""
    reported = choose_runs(read_points(results))
    name = size_of(_first(results).config["task"])[0]
    sizes = sorted({each.points[0].size for each in reported})
    looks = style.styles({each: each for each in {e.points[0].mixer: 0 for e in reported}})
    rows, across = -(-len(sizes) // PANELS), min(PANELS, len(sizes))
    with style.settings():
        size = across * PANEL[0], rows * PANEL[1] + LEGEND
        drawing = figure.Figure(figsize=size, layout="constrained")
        panels = drawing.subplots(rows, across, sharex=True, sharey=True, squeeze=False).flat
        for panel, value in zip(panels, sizes, strict=False):
            _draw(panel, [each for each in reported if each.points[0].size == value], looks)
            panel.set_title(f"{name} {value:g}", fontsize=10)
        _finish_panels(list(panels), len(sizes), looks)
        caption = (
            "Accuracy against the bytes of state of one sequence at the length of the rows. A "
            "point for each run that counts, and a line through the best median at each state. "
            f"Dashed: {show(frontier.REACHED, 'percent')}, from which on a state is large enough. "
            "A diverged run stands at 0."
        )
        title = "How many bytes of state does recall need?"
        return style.finish(drawing, "frontier", title, caption)


def _draw(axes: Axes, reported: Sequence[Reported], looks: Mapping[str, Style]) -> None:
    """Draws the runs of each mixer, and a line through the best median at each state."""
    for mixer, look in looks.items():
        own = [each for each in reported if each.points[0].mixer == mixer]
        best: dict[int, float] = {}
        for each in own:
            state = each.points[0].state
            best[state] = max(best.get(state, 0.0), each.median)
            for point in each.points:
                y = point.accuracy or 0.0
                axes.plot(state, y, look.marker, color=look.colour, markersize=5, alpha=0.6)
        axes.plot(*zip(*sorted(best.items()), strict=True) if best else ((), ()), color=look.colour)
    axes.axhline(frontier.REACHED, color=style.QUIET, linestyle="--", linewidth=1)


def _finish_panels(panels: Sequence[Axes], used: int, looks: Mapping[str, Style]) -> None:
    """Gives panels their axes and one legend, and removes those that are left over."""
    for panel in panels[used:]:
        panel.remove()
    for panel in panels[:used]:
        panel.set_ylim(-0.03, 1.03)
        style.log_axis(panel.xaxis, format_bytes, 2)
        style.linear_axis(panel.yaxis, "{:.4g}".format)
        panel.set_xlabel("state of one sequence")
    panels[0].set_ylabel("accuracy")
    drawing = panels[0].figure
    marks = [Line2D([], [], color=look.colour, marker=look.marker) for look in looks.values()]
    names = [shown_name(mixer) for mixer in looks]
    drawing.legend(marks, names, loc="outside lower center", ncols=len(names), frameon=False)


def _first(results: Sequence[Results]) -> Source:
    return next(each.source for each in results if each.source.kind == "run")
