"""Labels beside the points of a figure, spread so that none covers another."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from seqarch.errors import printable_line

LABEL_POINTS = 11  # points (1/72 inch) between two labels
LABEL_WIDTH = 40  # characters; a longer name is shortened
LEFT = 1.03  # of labels, as a fraction of the axes' width


class Label(NamedTuple):
    """A name beside a point.

    Attributes:
      text: the name.
      x: the point, in the coordinates of the data.
      y: likewise.
      colour: that of the name and of the line to the point.
    """

    text: str
    x: float
    y: float
    colour: str


def shown_name(name: str) -> str:
    """Returns a name as figures show it; they must not parse its dollars as mathematics."""
    text = printable_line(name)
    return text if len(text) <= LABEL_WIDTH else f"{text[: LABEL_WIDTH - 1]}…"


def label_points(axes: Axes, labels: Sequence[Label]) -> None:
    """Writes names to the right of the axes, with a line from each to its point.

    The lines do not cross. The figure becomes higher where the names would not fit.
    """
    if not labels:
        return
    height = _raise_figure(axes, len(labels))
    to_axes = axes.transData + axes.transAxes.inverted()
    places = [to_axes.transform((label.x, label.y)) for label in labels]
    order = sorted(range(len(labels)), key=lambda index: places[index][1])
    gap = LABEL_POINTS / height
    heights = within(spread([places[index][1] for index in order], gap), gap)
    for index, y in zip(uncrossed(places, order, heights), heights, strict=True):
        label = labels[index]
        line = dict(arrowstyle="-", color=label.colour, alpha=0.35, linewidth=0.8)
        axes.annotate(
            shown_name(label.text),
            places[index],
            xytext=(LEFT, y),
            xycoords="axes fraction",
            va="center",
            fontsize=8.5,
            color=label.colour,
            parse_math=False,
            arrowprops=line | dict(shrinkA=0, shrinkB=3, relpos=(0, 0.5)),
            annotation_clip=False,
        )


def uncrossed(
    points: Sequence[tuple[float, float]], order: Sequence[int], heights: Sequence[float]
) -> list[int]:
    """Returns an order of the points in which no two lines to their labels cross.

    Two that cross change their labels, which makes the lines shorter, until none do.

    Args:
      points: in fractions of the axes, left of LEFT.
      order: their indices, from the lowest label to the highest.
      heights: of the labels, which stand at LEFT.
    """
    order, pairs = list(order), list(itertools.combinations(range(len(order)), 2))
    is_done = False
    while not is_done:
        is_done = True
        for low, high in pairs:
            lines = [(points[order[each]], (LEFT, heights[each])) for each in (low, high)]
            if _cross(*lines):
                order[low], order[high] = order[high], order[low]
                is_done = False
    return order


Segment = tuple[tuple[float, float], tuple[float, float]]


def _cross(one: Segment, other: Segment) -> bool:
    """Returns whether two lines have a point in common that is no end of either."""

    def side(line: Segment, point: tuple[float, float]) -> float:
        (x, y), (u, v) = line
        return (u - x) * (point[1] - y) - (v - y) * (point[0] - x)

    apart = [side(one, other[0]) * side(one, other[1]), side(other, one[0]) * side(other, one[1])]
    return all(each < -1e-12 for each in apart)


def _raise_figure(axes: Axes, count: int) -> float:
    """Makes the figure so high that `count` labels fit; returns the axes' height in points."""
    axes.figure.draw_without_rendering()
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    lacking = (count + 1) * LABEL_POINTS - height
    if lacking <= 0:
        return height
    axes.figure.set_figheight(axes.figure.get_figheight() + lacking / 72)
    axes.figure.draw_without_rendering()
    return axes.get_window_extent().height * 72 / axes.figure.dpi


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Returns rising values that are moved apart to at least `gap`, each group about its mean."""
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
    """Returns rising heights that are moved into [0, 1], half a gap from its ends.

    Args:
      heights: at least `gap` apart, and so few that they fit.
      gap: the distance that they keep.
    """
    last = len(heights) - 1
    least = (0.5 * gap + index * gap for index in range(len(heights)))
    most = (1.0 - 0.5 * gap - (last - index) * gap for index in range(len(heights)))
    return [min(max(each, low), high) for each, low, high in zip(heights, least, most, strict=True)]


def _bottom(group: Sequence[float], gap: float) -> float:
    return sum(group) / len(group) - (len(group) - 1) * gap / 2


def _top(group: Sequence[float], gap: float) -> float:
    return _bottom(group, gap) + (len(group) - 1) * gap
