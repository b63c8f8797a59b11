"""The look of all figures: a colour for each family of mixers, a marker for each variant, labels
beside their points.

Text and axes are drawn in INK, which pages replace by the colour of their text, so that one drawing
serves light and dark pages.
"""

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import matplotlib
from matplotlib import figure, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from seqarch.errors import UserError
from seqarch.patterns import read_pattern
from seqarch.report.formats import printable

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
LABEL_WIDTH = 40  # characters of a label, beyond which a name is shortened
LEAST_TICKS, MOST_TICKS = 3, 9  # of an axis


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
    """The mixer of a layer pattern; "hybrid" where it has several; itself where it is none."""
    try:
        names = {layer.mixer for layer in read_pattern(pattern)}
    except UserError:
        return pattern
    return names.pop() if len(names) == 1 else "hybrid"


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """The style of this module; names may be in any script, for which a reader's page has fonts."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def shown_name(name: str) -> str:
    """A name in a figure; its text must not be parsed as mathematics, which dollars would make."""
    text = printable(name)
    return text if len(text) <= LABEL_WIDTH else f"{text[: LABEL_WIDTH - 1]}…"


def one_panel(xlabel: str, ylabel: str) -> tuple[figure.Figure, Axes]:
    drawing = figure.Figure(figsize=SIZE, layout="constrained")
    return drawing, drawing.add_subplot(xlabel=xlabel, ylabel=ylabel)


def log_axis(axis: Axis, format: Callable[[float], str], base: int) -> None:
    """Makes an axis of positive values logarithmic, with LEAST_TICKS to MOST_TICKS ticks.

    They are powers of the base where these are enough, else simple multiples of them, or, on an
    axis that spans less than these, evenly spaced.
    """
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log", base=base)
    axis.axes.autoscale_view()
    set_ticks(axis, log_ticks(*sorted(axis.get_view_interval()), base), format)


def linear_axis(axis: Axis, format: Callable[[float], str]) -> None:
    """Gives a linear axis at least LEAST_TICKS ticks."""
    axis.set_major_locator(ticker.MaxNLocator(MOST_TICKS - 3, min_n_ticks=LEAST_TICKS))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: format(value)))


def set_ticks(axis: Axis, values: Sequence[float], format: Callable[[float], str]) -> None:
    """Puts the ticks of an axis at these values, and at no others."""
    axis.set_major_locator(ticker.FixedLocator(values))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: format(value)))
    axis.set_minor_locator(ticker.NullLocator())


def log_ticks(low: float, high: float, base: int) -> list[float]:
    """Values between `low` and `high` at which a logarithmic axis has its ticks."""
    parts = (1, 1.25, 1.5, 1.75) if base == 2 else (1, 2, 5)  # of a power, as readers expect
    locators = (
        ticker.LogLocator(base, numticks=MOST_TICKS),
        ticker.LogLocator(base, subs=parts, numticks=MOST_TICKS),
        ticker.MaxNLocator(MOST_TICKS - 4, min_n_ticks=LEAST_TICKS),
    )
    for locator in locators:
        found = [float(each) for each in locator.tick_values(low, high) if low <= each <= high]
        if LEAST_TICKS <= len(found) <= MOST_TICKS:
            return found
    return found


def label_points(axes: Axes, labels: Sequence[Label]) -> None:
    """Writes names to the right of the axes, spread so that none covers another, with a line to
    each point; makes the figure higher where they would not fit.
    """
    if not labels:
        return
    height = _make_room(axes, len(labels))
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [to_axes.transform((label.x, label.y)) for label in labels]
    order = sorted(range(len(labels)), key=lambda index: places[index][1])
    gap = LABEL_POINTS / height
    heights = within(spread([places[index][1] for index in order], gap), gap)
    for index, y in zip(order, heights, strict=True):
        label = labels[index]
        line = dict(arrowstyle="-", color=label.colour, alpha=0.35, linewidth=0.8)
        axes.annotate(
            shown_name(label.text),
            places[index],
            xytext=(1.03, y),
            xycoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=label.colour,
            parse_math=False,
            arrowprops=line | dict(shrinkA=0, shrinkB=3),
            annotation_clip=False,
        )


def _make_room(axes: Axes, count: int) -> float:
    """Makes the figure so high that `count` labels fit beside the axes; returns their height in
    points.
    """
    axes.figure.draw_without_rendering()
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    lacking = (count + 1) * LABEL_POINTS - height
    if lacking <= 0:
        return height
    axes.figure.set_figheight(axes.figure.get_figheight() + lacking / 72)
    axes.figure.draw_without_rendering()
    return axes.get_window_extent().height * 72 / axes.figure.dpi


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
    """Rising heights moved into [0, 1], half a gap from its ends, without coming closer than
    `gap`; there must be room for them.
    """
    last = len(heights) - 1
    least = (0.5 * gap + index * gap for index in range(len(heights)))
    most = (1.0 - 0.5 * gap - (last - index) * gap for index in range(len(heights)))
    return [min(max(each, low), high) for each, low, high in zip(heights, least, most, strict=True)]


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
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))

    def kept(id: re.Match) -> str:
        return id[0] if id[1] in used else ""

    def tidy(tag: re.Match) -> str:
        return re.sub(r' id="([^"]+)"', kept, tag[0])

    return re.sub(r"<[^<>]+>", tidy, svg)
