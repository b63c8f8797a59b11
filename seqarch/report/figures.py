"""Figures of members: the curves that evaluators declare, and ability against state."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from seqarch.evals.evaluator import Evaluator, FigureSpec
from seqarch.report import style
from seqarch.report.formats import AXES, FORMATS, format_bytes, format_si
from seqarch.report.members import Comparison, Member, places
from seqarch.report.style import Figure, Label, Style

BINS = 20  # of positions


def evaluator_figure(
    spec: FigureSpec, name: str, entry: Evaluator, members: Sequence[Member]
) -> Figure | None:
    """The curves that an evaluator declares; None where no member has any."""
    curves = {member.name: curve for member in members if (curve := _curve(spec, name, member))}
    if not curves:
        return None
    metric = entry.metric(spec.metric)
    looks = _styles(members)
    with style.settings():
        drawing, axes = style.one_panel(_axis_title(spec.over), AXES.get(metric.unit, metric.title))
        for each, (x, y) in curves.items():
            axes.plot(x, y, color=looks[each].colour, marker=looks[each].marker, markersize=4)
        _scale_x(axes, spec.over)
        if spec.log:
            style.log_axis(axes.yaxis, FORMATS[metric.unit], 2 if metric.unit == "bytes" else 10)
        style.label_points(
            axes, [_last(each, curve, looks[each]) for each, curve in curves.items()]
        )
        return style.finish(drawing, spec.name, spec.title, spec.caption)


def _curve(spec: FigureSpec, name: str, member: Member) -> tuple[list[float], list[float]] | None:
    """Coordinates and values of a member; an array is averaged over bins that grow with the
    coordinate.
    """
    found = []
    for at in places([member], name, spec.metric):
        value = member.value(name, spec.metric, **at)
        if isinstance(value, list):
            return _binned(np.array(value))
        if value:
            found.append((at[spec.over], value))
    return tuple(map(list, zip(*found, strict=True))) if found else None


def _binned(curve: np.ndarray) -> tuple[list[float], list[float]]:
    """Means over bins of geometrically growing width; positions are counted from 1."""
    edges = np.unique(np.round(np.geomspace(1, len(curve) + 1, BINS + 1)).astype(int))
    spans = list(zip(edges[:-1], edges[1:], strict=True))
    middles = [(low + high - 1) / 2 for low, high in spans]
    return middles, [float(curve[low - 1 : high - 1].mean()) for low, high in spans]


def _axis_title(over: str) -> str:
    return (
        "context, tokens"
        if over == "context"
        else f"{over}, tokens"
        if over == "position"
        else over
    )


def _scale_x(axes: Axes, over: str) -> None:
    if over != "context":
        style.log_axis(axes.xaxis, format_si, 2)
        return
    lengths = sorted({x for line in axes.lines for x in line.get_xdata()})
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_xticks([], minor=True)


def _last(name: str, curve: tuple[list[float], list[float]], look: Style) -> Label:
    return Label(name, curve[0][-1], curve[1][-1], look.colour)


def quality_against_state(comparison: Comparison) -> Figure | None:
    """Each model at the state it holds where its quality was measured; baselines, which have none,
    as lines.
    """
    points = {
        member.name: point for member in comparison.models if (point := _state_and_bits(member))
    }
    if not points:
        return None
    looks = _styles(comparison.models)
    with style.settings():
        drawing, axes = style.one_panel("state of one sequence", "bits per byte")
        for name, (state, bits) in points.items():
            look = looks[name]
            span = [[bits.mean() - bits.min()], [bits.max() - bits.mean()]]
            axes.errorbar(
                [state],
                [bits.mean()],
                span,
                color=look.colour,
                marker=look.marker,
                markersize=8,
                capsize=3,
            )
        style.log_axis(axes.xaxis, format_bytes, 2)
        axes.margins(x=0.08, y=0.12)
        _draw_baselines(axes, comparison.baselines)
        labels = [
            Label(name, x, float(bits.mean()), looks[name].colour)
            for name, (x, bits) in points.items()
        ]
        style.label_points(axes, labels)
        caption = (
            "Quality over windows against the bytes of state at that context: lower and further "
            "to the left is better. "
            "Bars: least to most over seeds. Dashed: references without a state; those out of "
            "range stand at the edge."
        )
        return style.finish(
            drawing, "quality-against-state", "What does a smaller state cost in quality?", caption
        )


def _state_and_bits(member: Member) -> tuple[float, np.ndarray] | None:
    """Bytes of state at the context of training windows, and bits per byte of each seed."""
    window = member.value("quality", "context")
    state = member.value("memory", "state_bytes", context=window)
    bits = [bits for each in member.results if (bits := each.value("quality", "bits_per_byte"))]
    return (state, np.array(bits)) if state and bits else None


def _draw_baselines(axes: Axes, baselines: Sequence[Member]) -> None:
    """A line for each that is within the models' range; the others are named at the edge that they
    lie beyond.
    """
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    found = [
        (bits, each.name) for each in baselines if (bits := each.value("quality", "bits_per_byte"))
    ]
    within = [(bits, name) for bits, name in found if low <= bits <= high]
    quiet = dict(ha="right", va="bottom", fontsize=8, color=style.QUIET)
    for bits, name in within:
        axes.axhline(bits, color=style.QUIET, linestyle="--", linewidth=1)
        axes.annotate(name, (0.99, bits), xycoords=("axes fraction", "data"), **quiet)
    edges = {
        "top": (0.99, "\N{UPWARDS ARROW}", [each for each in found if each[0] > high]),
        "bottom": (0.01, "\N{DOWNWARDS ARROW}", [each for each in found if each[0] < low]),
    }
    for side, (y, arrow, beyond) in edges.items():
        text = ", ".join(f"{name} {FORMATS['bits'](bits)}" for bits, name in sorted(beyond))
        if text:
            axes.text(
                0.01,
                y,
                f"{arrow} {text}",
                transform=axes.transAxes,
                va=side,
                fontsize=8,
                color=style.QUIET,
            )


def _styles(members: Sequence[Member]) -> dict[str, Style]:
    return styles_of({member.name: member.config for member in members})


def styles_of(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Style]:
    """The style of each member, from its config."""
    return style.styles(
        {name: config.get("model", {}).get("mixer", name) for name, config in configs.items()}
    )
