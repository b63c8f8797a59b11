"""How many bytes of state a task needs: the figure of a frontier."""

from collections.abc import Mapping, Sequence

from matplotlib import figure
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from seqarch.evals.frontier_runs import is_sweep, read_points, size_name
from seqarch.records import Results
from seqarch.report import style
from seqarch.report.figures import styles_of
from seqarch.report.formats import format_bytes, show
from seqarch.report.labels import shown_name
from seqarch.report.style import Figure, Style
from seqarch.stats.frontier import REACHED, Reported, choose_runs

PANELS = 3  # beside each other
PANEL = (3.6, 3.1)  # inches
LEGEND = 0.5  # inches


def frontier_figures(results: Sequence[Results]) -> list[Figure]:
    """Returns the figure of a sweep over states; none of other runs."""
    return [frontier_figure(results)] if is_sweep(results) else []


def frontier_figure(results: Sequence[Results]) -> Figure:
    """Returns a panel for each size of the task: accuracy against bytes of state, by mixer."""
    reported = choose_runs(read_points(results))
    name = size_name(results)
    sizes = sorted({each.points[0].size for each in reported})
    looks = styles_of(dict.fromkeys((each.points[0].mixer for each in reported), {}))
    rows, across = -(-len(sizes) // PANELS), min(PANELS, len(sizes))
    with style.settings():
        size = across * PANEL[0], rows * PANEL[1] + LEGEND
        drawing = figure.Figure(figsize=size, layout="constrained")
        grid = drawing.subplots(rows, across, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)
        for panel, value in zip(panels, sizes, strict=False):
            _draw(panel, [each for each in reported if each.points[0].size == value], looks)
            panel.set_title(f"{name} {value:g}", fontsize=10)
        _finish_panels(panels, len(sizes), looks)
        caption = (
            "Accuracy against the bytes of state of one sequence at the length of the rows. A "
            "point for each run that counts, and a line through the best median at each state. "
            f"Dashed: {show(REACHED, 'percent')}, from which on a state is large enough. "
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
    axes.axhline(REACHED, color=style.QUIET, linestyle="--", linewidth=1)


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
