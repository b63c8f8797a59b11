"""The look of all figures: a colour for each family of mixers, a marker and a line for a variant.

A member's look follows from its own config alone, so it is the same in every figure. Text and axes
are drawn in INK, which pages replace by the colour of their text, so that one drawing serves light
and dark pages.
"""

import contextlib
import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import figure, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from seqarch.errors import UserError
from seqarch.mixers import FAMILIES
from seqarch.patterns import read_pattern

INK = "#010203"
QUIET = "#808080"
HYBRID = "hybrid"
# Those of Okabe and Ito; families that are not named share the others.
COLOURS = {
    "recurrent": "#0072b2",
    "attention": "#d55e00",
    "linear attention": "#009e73",
    "state space": "#cc79a7",
    HYBRID: "#e69f00",
}
OTHERS = ("#56b4e9", "#8c6d31", "#7a5195", "#4d4d4d")
# Colour maps of numbers, which rise in brightness also for the colour-blind: of squares, and the
# part of one whose lines can be seen on light and on dark pages.
SHADES, LINE_SHADES = "cividis", ("plasma", 0.25, 0.85)
MARKERS = "os^vDPX*hd"
LINES = ("-", "--", "-.")
INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
SETTINGS = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.hashsalt": "seqarch",  # makes the same figure the same file
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": QUIET,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    **dict.fromkeys(INKED, INK),
}
SIZE = (7.0, 4.2)  # inches of one panel
LEAST_TICKS, MOST_TICKS = 3, 9  # of an axis
STEPS = (1, 2, 2.5, 5, 10)  # between the ticks of a linear axis, times a power of 10


class Figure(NamedTuple):
    """A drawing with its texts.

    Attributes:
      name: that of its file, without .svg.
      title: the question that it answers.
      caption: what stands below it.
      svg: one <svg> element without a header.
    """

    name: str
    title: str
    caption: str
    svg: str


class Style(NamedTuple):
    """The colour, the marker and the line style of a member."""

    colour: str
    marker: str
    line: str

    @property
    def plotted(self) -> dict[str, str]:
        """The style as matplotlib's keywords of a curve."""
        return dict(color=self.colour, marker=self.marker, linestyle=self.line)


def style_of(name: str, model: Mapping[str, Any]) -> Style:
    """Returns the style of a member.

    The colour is that of its family. A mixer of FAMILIES has its own marker there. Those of a
    variant follow from its options, and from whether it has convolutions and MLPs. Two variants of
    a family may look alike, since nothing but their names decides.

    Args:
      name: its name, which counts where there is no model.
      model: the fields of its model.
    """
    pattern = model.get("mixer", name)
    kind = family(pattern)
    parts = [bool(model.get("conv")), model.get("mlp") == 0] if model else []
    digest = _digest(f"{_layers(pattern)} {parts}")
    colour = COLOURS.get(kind) or OTHERS[_digest(kind) % len(OTHERS)]
    mixers = list(FAMILIES.get(kind, ()))
    if pattern in mixers and not any(parts):
        line, marker = divmod(mixers.index(pattern), len(MARKERS))
        return Style(colour, MARKERS[marker], LINES[line % len(LINES)])
    marker = MARKERS[1 + digest % (len(MARKERS) - 1)]
    return Style(colour, marker, LINES[digest // len(MARKERS) % len(LINES)])


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def _layers(pattern: str) -> str:
    """Returns a pattern without what is only a way to write it."""
    try:
        return ",".join(map(str, read_pattern(pattern)))
    except UserError:
        return pattern


def line_shades(count: int) -> list[tuple[float, ...]]:
    """Returns the colours of lines that stand for rising numbers."""
    name, first, last = LINE_SHADES
    return list(map(tuple, matplotlib.colormaps[name](np.linspace(first, last, count))))


def family(pattern: str) -> str:
    """Returns the family of a layer pattern, "hybrid" for several mixers.

    A mixer that is not in FAMILIES, or a pattern that cannot be read, is a family of its own.
    """
    try:
        names = {layer.mixer for layer in read_pattern(pattern)}
    except UserError:
        return pattern
    if len(names) > 1:
        return HYBRID
    (name,) = names
    return next((family for family, mixers in FAMILIES.items() if name in mixers), name)


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Applies the style of this module, without warnings of glyphs that the fonts lack.

    Names may be in any script, for which the reader's page has fonts.
    """
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def one_panel(xlabel: str, ylabel: str) -> tuple[figure.Figure, Axes]:
    """Returns an empty figure of one panel, and its axes."""
    drawing = figure.Figure(figsize=SIZE, layout="constrained")
    return drawing, drawing.add_subplot(xlabel=xlabel, ylabel=ylabel)


def log_axis(axis: Axis, format: Callable[[float], str], base: int) -> None:
    """Makes an axis of positive values logarithmic, with LEAST_TICKS to MOST_TICKS ticks.

    They are powers of the base if these are enough, otherwise simple multiples of them; on an axis
    that spans even less they are evenly spaced.
    """
    getattr(axis.axes, f"set_{axis.axis_name}scale")("log", base=base)
    axis.axes.autoscale_view()
    set_ticks(axis, log_ticks(*sorted(axis.get_view_interval()), base), format)


def linear_axis(
    axis: Axis, format: Callable[[float], str], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> None:
    """Gives a linear axis at least LEAST_TICKS ticks, and ends it at the bounds of its quantity."""
    axis.axes.autoscale_view()
    low, high = sorted(axis.get_view_interval())
    getattr(axis.axes, f"set_{axis.axis_name}lim")(max(low, bounds[0]), min(high, bounds[1]))
    axis.set_major_locator(ticker.MaxNLocator(MOST_TICKS - 3, steps=STEPS, min_n_ticks=LEAST_TICKS))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: format(value)))


def set_ticks(axis: Axis, values: Sequence[float], format: Callable[[float], str]) -> None:
    """Puts the ticks of an axis at these values, and at no others."""
    axis.set_major_locator(ticker.FixedLocator(values))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: format(value)))
    axis.set_minor_locator(ticker.NullLocator())


def log_ticks(low: float, high: float, base: int) -> list[float]:
    """Returns values between `low` and `high` at which a logarithmic axis has its ticks."""
    parts = (1, 1.25, 1.5, 1.75) if base == 2 else (1, 2, 5)  # multiples of a power
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


def file_name(text: str) -> str:
    """Returns a text such as "mqar(pairs=8)" as a part of a file's name."""
    return re.sub(r"\W+", "-", text).strip("-")


def finish(drawing: figure.Figure, name: str, title: str, caption: str) -> Figure:
    """Returns a finished drawing as SVG, with its texts."""
    text = io.StringIO()
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    drawing.savefig(text, format="svg", transparent=True, metadata=metadata)
    return Figure(name, title, caption, _tidy(text.getvalue()))


def _tidy(svg: str) -> str:
    """Returns the <svg> element without the ids that nothing refers to.

    Several figures share one page, on which ids would clash.
    """
    svg = svg[svg.index("<svg") :]
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))

    def kept(id: re.Match) -> str:
        return id[0] if id[1] in used else ""

    def tidy(tag: re.Match) -> str:
        return re.sub(r' id="([^"]+)"', kept, tag[0])

    return re.sub(r"<[^<>]+>", tidy, svg)
