"""The look of all figures: a colour for each family of mixers, a marker for each variant, labels
beside their points.

Text and axes are drawn in INK, which pages replace by the colour of their text, so that one drawing
serves light and dark pages.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib import figure, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from seqarch.patterns import read_pattern

INK = "#010203"
QUIET = "#808080"
COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#8c6d31",
)  # Okabe and Ito, and a brown
MARKERS = "osD^vPX*hd"
SETTINGS = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.hashsalt": "seqarch",  # the same figure is the same file
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": QUIET,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    **{
        name: INK
        for name in (
            "text.color",
            "axes.edgecolor",
            "axes.labelcolor",
            "xtick.color",
            "ytick.color",
        )
    },
}
SIZE = (7.0, 4.2)  # inches of one panel
LABEL_POINTS = 11  # between two labels


class Figure(NamedTuple):
    """A drawing.

    name: of a file; title: the question that it answers; svg: one <svg> element without a header
    """

    name: str
    title: str
    caption: str
    svg: str


class Style(NamedTuple):
    colour: str
    marker: str


class Label(NamedTuple):
    """A name beside a point, in the coordinates of the data."""

    text: str
    x: float
    y: float
    colour: str


def styles(mixers: Mapping[str, str]) -> dict[str, Style]:
    """The style of each member; mixers: its layer pattern, by name."""
    families = {name: family(pattern) for name, pattern in mixers.items()}
    colours = dict(zip(dict.fromkeys(families.values()), COLOURS * len(families), strict=False))
    made, variants = {}, {}
    for name, each in families.items():
        variant = variants[each] = variants.get(each, -1) + 1
        made[name] = Style(colours[each], MARKERS[variant % len(MARKERS)])
    return made


def family(pattern: str) -> str:
    """The mixer of a layer pattern; "hybrid" where it has several."""
    names = {layer.mixer for layer in read_pattern(pattern)}
    return names.pop() if len(names) == 1 else "hybrid"


def settings() -> matplotlib.rc_context:
    return matplotlib.rc_context(SETTINGS)


def one_panel(xlabel: str, ylabel: str) -> tuple[figure.Figure, Axes]:
    drawing = figure.Figure(figsize=SIZE, layout="constrained")
    return drawing, drawing.add_subplot(xlabel=xlabel, ylabel=ylabel)


def log_axis(axis: Axis, format: Callable[[float], str], base: int) -> None:
    """Scales an axis and labels it; where it spans few powers of its base, between them too."""
    axis._set_axes_scale("log", base=base)
    low, high = sorted(axis.get_data_interval())
    powers = len(ticker.LogLocator(base).tick_values(low, high)) - 2
    if base == 10:
        axis.set_major_locator(ticker.LogLocator(10, subs=(1, 2, 5), numticks=8))
    elif powers < 3:
        axis.set_major_locator(ticker.MaxNLocator(4))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: format(value)))
    axis.set_minor_locator(ticker.NullLocator())


def label_points(axes: Axes, labels: Sequence[Label]) -> None:
    """Writes names to the right of the axes, spread so that none covers another, with a line to
    each point.
    """
    if not labels:
        return
    axes.figure.draw_without_rendering()
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [to_axes.transform((label.x, label.y)) for label in labels]
    order = sorted(range(len(labels)), key=lambda index: places[index][1])
    gap = LABEL_POINTS / height
    heights = within(spread([places[index][1] for index in order], gap), gap)
    for index, y in zip(order, heights, strict=True):
        label = labels[index]
        axes.annotate(
            label.text,
            places[index],
            xytext=(1.03, y),
            xycoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=label.colour,
            arrowprops=dict(
                arrowstyle="-", color=label.colour, alpha=0.35, linewidth=0.8, shrinkA=0, shrinkB=3
            ),
            annotation_clip=False,
        )


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Rising values moved apart to at least `gap`, each group about its mean."""
    groups = [[value] for value in values]
    index = 0
    while index + 1 < len(groups):
        lower, upper = groups[index], groups[index + 1]
        if _top(lower, gap) + gap > _bottom(upper, gap):
            groups[index : index + 2] = [lower + upper]
            index = max(index - 1, 0)
        else:
            index += 1
    return [_bottom(group, gap) + place * gap for group in groups for place in range(len(group))]


def within(heights: Sequence[float], gap: float) -> list[float]:
    """Rising heights moved into [0, 1], as far as there is room, without coming closer than
    `gap`.
    """
    moved = list(heights)
    for index in range(len(moved)):
        moved[index] = max(moved[index], index * gap)
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], max(1.0 - (len(moved) - 1 - index) * gap, index * gap))
    return moved


def _bottom(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - (len(group) - 1) * gap / 2


def _top(group: Sequence[float], gap: float) -> float:
    return _bottom(group, gap) + (len(group) - 1) * gap


def finish(drawing: figure.Figure, name: str, title: str, caption: str) -> Figure:
    text = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    drawing.savefig(text, format="svg", transparent=True, metadata=metadata)
    return Figure(name, title, caption, _tidy(text.getvalue()))


def _tidy(svg: str) -> str:
    """The element alone, without the ids that nothing refers to: several figures share one page."""
    svg = svg[svg.index("<svg") :]
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    return re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
