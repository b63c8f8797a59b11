"""Figures of members: the curves that evaluators declare, and quality against state."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import figure
from matplotlib.axes import Axes

from seqarch.evals import evaluator
from seqarch.evals.evaluator import FigureSpec
from seqarch.report import style
from seqarch.report.formats import AXES, BOUNDS, FORMATS, format_bytes, format_si
from seqarch.report.labels import Label, label_points, shown_name
from seqarch.report.members import Comparison, Member, places
from seqarch.report.style import Figure, Style

BINS = 20  # bins of positions
POSITIVE = (0.0, math.inf)


def evaluator_figure(spec: FigureSpec, name: str, members: Sequence[Member]) -> Figure | None:
    """Returns a figure that the evaluator `name` declares; None where no member has a curve."""
    curves = {member.name: curve for member in members if (curve := _curve(spec, name, member))}
    if not curves:
        return None
    metric = evaluator.find(name).metric(spec.metric)
    looks = _styles(members)
    with style.settings():
        drawing, axes = style.one_panel(_axis_title(spec.over), AXES.get(metric.unit, metric.title))
        for each, (x, y) in curves.items():
            axes.plot(x, y, markersize=4, clip_on=False, **looks[each].plotted)
        scale_x(axes, spec.over)
        if spec.log:
            style.log_axis(axes.yaxis, FORMATS[metric.unit], 2 if metric.unit == "bytes" else 10)
        else:
            style.linear_axis(axes.yaxis, "{:.4g}".format, BOUNDS.get(metric.unit, POSITIVE))
        label_points(axes, [_last(each, curve, looks[each]) for each, curve in curves.items()])
        return style.finish(drawing, spec.name, spec.title, spec.caption)


def _curve(spec: FigureSpec, name: str, member: Member) -> tuple[list[float], list[float]] | None:
    """Returns coordinates and values of a member; an array is averaged over bins."""
    found = []
    for at in places([member], name, spec.metric):
        value = member.value(name, spec.metric, **at)
        if isinstance(value, list):
            return _binned(np.array(value))
        if value is not None:
            found.append((at[spec.over], value))
    return tuple(map(list, zip(*found, strict=True))) if found else None


def _binned(curve: np.ndarray) -> tuple[list[float], list[float]]:
    """Returns means over bins that grow geometrically; positions are counted from 1."""
    edges = np.unique(np.round(np.geomspace(1, len(curve) + 1, BINS + 1)).astype(int))
    spans = list(zip(edges[:-1], edges[1:], strict=True))
    middles = [(low + high - 1) / 2 for low, high in spans]
    return middles, [float(curve[low - 1 : high - 1].mean()) for low, high in spans]


def _axis_title(over: str) -> str:
    return f"{over}, tokens" if over in ("context", "position") else over


def scale_x(axes: Axes, over: str) -> None:
    """Makes the x axis logarithmic, with the measured contexts as ticks where they are few."""
    style.log_axis(axes.xaxis, format_si, 2)
    lengths = sorted({float(x) for line in axes.lines for x in line.get_xdata()})
    if over == "context" and style.LEAST_TICKS <= len(lengths) <= style.MOST_TICKS:
        style.set_ticks(axes.xaxis, lengths, "{:,.0f}".format)


def _last(name: str, curve: tuple[list[float], list[float]], look: Style) -> Label:
    return Label(name, float(curve[0][-1]), float(curve[1][-1]), look.colour)


def quality_against_state(comparison: Comparison) -> Figure | None:
    """Returns a figure with a point for each model, and a line for each baseline.

    A point shows the state at the context at which quality was measured; baselines have no state.
    """
    found = {member.name: _state_and_bits(member) for member in comparison.models}
    points = {name: point for name, point in found.items() if point}
    if not points:
        return None
    looks = _styles(comparison.models)
    with style.settings():
        drawing, axes = style.one_panel("state of one sequence", "bits per byte")
        for name, (state, bits) in points.items():
            mean, look = bits.mean(), looks[name]
            span = [[mean - bits.min()], [bits.max() - mean]]
            marks = dict(marker=look.marker, markersize=8, capsize=3)
            axes.errorbar([state], [mean], span, color=look.colour, **marks)
        axes.margins(x=0.08, y=0.12)
        style.log_axis(axes.xaxis, format_bytes, 2)
        style.linear_axis(axes.yaxis, "{:.4g}".format, POSITIVE)
        _draw_baselines(axes, comparison.baselines)
        labels = [
            Label(name, x, float(bits.mean()), looks[name].colour)
            for name, (x, bits) in points.items()
        ]
        label_points(axes, labels)
        caption = (
            "Quality over windows against the bytes of state at that context: lower and further "
            "to the left is better. Bars: least to most over seeds. Dashed: references without a "
            "state; those out of range stand at the edge."
        )
        title = "What does a smaller state cost in quality?"
        return style.finish(drawing, "quality-against-state", title, caption)


def _state_and_bits(member: Member) -> tuple[float, np.ndarray] | None:
    """Returns the bytes of state at the context of windows, and bits per byte of each seed."""
    window = member.value("quality", "context")
    state = member.value("memory", "state_bytes", context=window)
    bits = [bits for each in member.results if (bits := each.value("quality", "bits_per_byte"))]
    return (float(state), np.array(bits, float)) if state and bits else None


def _draw_baselines(axes: Axes, baselines: Sequence[Member]) -> None:
    """Draws a line for each baseline in the models' range, and names the others at the edges."""
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    values = [(each.value("quality", "bits_per_byte"), each.name) for each in baselines]
    found = [(bits, name) for bits, name in values if bits]
    within = [(bits, name) for bits, name in found if low <= bits <= high]
    quiet = dict(ha="left", va="bottom", fontsize=8, color=style.QUIET, parse_math=False)
    for bits, name in within:
        axes.axhline(bits, color=style.QUIET, linestyle="--", linewidth=1)
        place = (0.01, bits)
        axes.annotate(shown_name(name), place, xycoords=("axes fraction", "data"), **quiet)
    _name_beyond(axes, "top", sorted(each for each in found if each[0] > high))
    _name_beyond(axes, "bottom", sorted(each for each in found if each[0] < low))


def _name_beyond(axes: Axes, side: str, found: Sequence[tuple[float, str]]) -> None:
    """Names what lies beyond an edge of the axes, with its values."""
    if not found:
        return
    text = ", ".join(f"{shown_name(name)} {FORMATS['bits'](bits)}" for bits, name in found)
    arrow, y = {"top": ("\N{UPWARDS ARROW}", 0.99), "bottom": ("\N{DOWNWARDS ARROW}", 0.01)}[side]
    quiet = dict(fontsize=8, color=style.QUIET, parse_math=False)
    axes.text(0.2, y, f"{arrow} {text}", transform=axes.transAxes, va=side, **quiet)


def _styles(members: Sequence[Member]) -> dict[str, Style]:
    return styles_of({member.name: member.config for member in members})


def styles_of(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Style]:
    """Returns the style of each member, from its config."""
    return {name: style.style_of(name, config.get("model", {})) for name, config in configs.items()}


def decoding_figure(points: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Returns a figure of time per token and resident memory against the tokens decoded.

    Args:
      points: by mixer, each point with its "tokens", "seconds" per token and "resident" bytes
        (studies.long_decode).
    """
    looks = styles_of(dict.fromkeys(points, {}))
    panels = {
        "seconds": ("time a token", "{:,.0f} us".format, 10, 1e6),
        "resident": ("resident memory", format_bytes, 2, 1),
    }
    with style.settings():
        drawing = figure.Figure(figsize=(11.0, 4.2), layout="constrained")
        for place, (key, (title, format, base, scale)) in enumerate(panels.items(), 1):
            axes = drawing.add_subplot(1, 2, place, xlabel="tokens decoded", ylabel=title)
            ends = []
            for name, found in points.items():
                x, y = [each["tokens"] for each in found], [scale * each[key] for each in found]
                axes.plot(x, y, color=looks[name].colour, linestyle=looks[name].line)
                ends.append(_last(name, (x, y), looks[name]))
            style.log_axis(axes.xaxis, format_si, 10)
            style.log_axis(axes.yaxis, format, base)
            label_points(axes, ends)
        caption = (
            "Decoding of one sequence. Constant states from the first token to the last; "
            "attention at the end of ever larger caches."
        )
        return style.finish(drawing, "long-decode", "Decoding a million tokens", caption)
