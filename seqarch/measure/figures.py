"""The figures of a comparison as SVG: one colour and marker a model, in all of them.

Text and axes are drawn in INK, which the report replaces by the colour of the page's text, so that one drawing serves
light and dark pages.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import figure, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis

from seqarch.measure.programs import PHASES
from seqarch.measure.tables import Row, contexts, format_bytes, format_si

INK = "#010203"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31")  # Okabe and Ito, and a brown
MARKERS = "osD^vPX"
SETTINGS = {
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.hashsalt": "seqarch",  # the same figure is the same file
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    **{name: INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")},
}


class Figure(NamedTuple):
    """name: of a file; svg: the drawing, one <svg> element without a header."""

    name: str
    title: str
    caption: str
    svg: str


def comparison_figures(rows: Sequence[Row]) -> list[Figure]:
    """The figures that the rows have numbers for."""
    models = [row for row in rows if row.kind == "model"]
    with matplotlib.rc_context(SETTINGS):
        drawn = (
            _quality_against_state(models, [row for row in rows if row.kind == "baseline"]),
            _loss_by_position(models),
            _context(models),
            *(_memory(models, key, title) for key, title in PHASES.items()),
            _decode_speed(models),
        )
    return [drawing for drawing in drawn if drawing]


def bytes_figure(models: Sequence[Row], key: str, name: str, title: str, caption: str) -> Figure | None:
    """`key@L` in bytes of each model against L; None where no model has such a value."""
    with matplotlib.rc_context(SETTINGS):
        return _curves(models, key, format_bytes, 2, "bytes", name, title, caption)


def decoding_figure(points: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Time a token and resident memory of each mixer against the tokens decoded (seqarch.measure.long_decode)."""
    with matplotlib.rc_context(SETTINGS):
        drawing = figure.Figure(figsize=(9, 3.9), layout="constrained")
        panels = {"seconds": ("microseconds a token", format_si, 1e6), "resident": ("resident memory", format_bytes, 1)}
        for place, (key, (label, format, scale)) in enumerate(panels.items(), 1):
            axes = drawing.add_subplot(1, 2, place, xlabel="tokens decoded", ylabel=label, yscale="log")
            for index, (name, found) in enumerate(points.items()):
                style = _style(index) | dict(marker="", label=name if place == 1 else None)
                axes.plot([p["tokens"] for p in found], [scale * p[key] for p in found], **style)
            axes.set_xscale("log")
            _ticks(axes.xaxis, format_si)
            _ticks(axes.yaxis, format)
        caption = "Decoding of one sequence. Constant states from the first token to the last; "
        caption += "attention at the end of ever larger caches."
        return _finish(drawing, "long-decode", "Decoding a million tokens", caption)


def _quality_against_state(models: Sequence[Row], baselines: Sequence[Row]) -> Figure | None:
    """Each model at the state it holds where its quality was measured; baselines, which have none, as lines."""
    points = []
    for index, row in enumerate(models):
        state = row.values.get(f"memory/state_bytes@{row.values.get('quality/context')}")
        if state and "quality/bits_per_byte" in row.values:
            points.append((index, row, state, row.values["quality/bits_per_byte"]))
    if not points:
        return None
    drawing, axes = _axes("state of one sequence", "bits per byte")
    axes.set_xscale("log", base=2)
    _ticks(axes.xaxis, format_bytes)
    axes.margins(x=0.15)
    for index, row, state, bits in points:
        axes.plot([state], [bits], linestyle="none", markersize=9, **_style(index), label=row.name)
    lines = [(row.name, row.values["quality/bits_per_byte"]) for row in baselines if "quality/bits_per_byte" in row.values]
    for index, (name, bits) in enumerate(sorted(lines, key=lambda line: line[1])):
        axes.axhline(bits, color="#808080", linestyle="--", linewidth=1)
        x, side = ((0.01, "left"), (0.99, "right"))[index % 2]  # so that the names of close lines stay apart
        axes.annotate(name, (x, bits), xycoords=("axes fraction", "data"), ha=side, va="bottom", fontsize=8)
    lengths = " or ".join(f"{length:,}" for length in sorted({row.values["quality/context"] for _, row, *_ in points}))
    caption = (
        f"Quality over windows of {lengths} tokens against the bytes of state at that context. "
        "Lower and further to the left is better. Dashed: baselines."
    )
    return _finish(drawing, "quality-against-state", "Quality against state", caption)


def _loss_by_position(models: Sequence[Row]) -> Figure | None:
    curves = [(index, row, row.values.get("quality/loss_by_position")) for index, row in enumerate(models)]
    if not any(curve for _, _, curve in curves):
        return None
    drawing, axes = _axes("position in the window", "bits per byte")
    for index, row, curve in curves:
        if curve:
            axes.plot(*_binned(np.asarray(curve)), **_style(index), markersize=4, label=row.name)
    axes.set_xscale("log", base=2)
    _ticks(axes.xaxis, format_si)
    caption = "Bits per byte by position in the window, means over bins that grow with the position: who uses its context."
    return _finish(drawing, "loss-by-position", "Loss by position", caption)


def _binned(curve: np.ndarray, bins: int = 20) -> tuple[list[float], list[float]]:
    """Means over bins of geometrically growing width; positions are counted from 1."""
    edges = np.unique(np.round(np.geomspace(1, len(curve) + 1, bins + 1)).astype(int))
    spans = list(zip(edges[:-1], edges[1:], strict=True))
    return [(low + high - 1) / 2 for low, high in spans], [curve[low - 1 : high - 1].mean() for low, high in spans]


def _context(models: Sequence[Row]) -> Figure | None:
    caption = (
        "Bits per byte of the same bytes after more and more tokens of context, the state carried from the first of them on. "
        "A curve that falls uses its context; one that rises does not stand contexts longer than those of training."
    )
    key = "context/carried"
    return _curves(models, key, "{:.2f}".format, None, "bits per byte", "use-of-context", "Use of context", caption)


def _memory(models: Sequence[Row], key: str, title: str) -> Figure | None:
    caption = f"Bytes of the compiled {title} against the context, with the definition that the memory table states."
    return _curves(models, f"memory/{key}_bytes", format_bytes, 2, "bytes", f"memory-{key}", f"Memory: {title}", caption)


def _decode_speed(models: Sequence[Row]) -> Figure | None:
    caption = "Tokens per second of one sequence, decoding after a real prefill of that many tokens. Higher is better."
    key = "speed/decode_tokens_per_s"
    return _curves(models, key, format_si, 10, "tokens per second", "decode-speed", "Decoding speed", caption)


def _curves(
    models: Sequence[Row],
    key: str,
    format: Callable[[float], str],
    base: int | None,
    ylabel: str,
    name: str,
    title: str,
    caption: str,
) -> Figure | None:
    """`key@L` of each model against L, both logarithmic; None where no model has such a value.

    base: of the vertical axis; None for a linear one
    """
    lengths = contexts(models, key)
    if not lengths:
        return None
    drawing, axes = _axes("context, tokens", ylabel)
    for index, row in enumerate(models):
        points = [(length, row.values[f"{key}@{length}"]) for length in lengths if row.values.get(f"{key}@{length}")]
        if points:
            axes.plot(*zip(*points, strict=True), **_style(index), markersize=6, label=row.name)
    axes.set_xscale("log")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.set_xticks([], minor=True)
    if base:
        axes.set_yscale("log", base=base)
        _ticks(axes.yaxis, format)
    return _finish(drawing, name, title, caption)


def _axes(xlabel: str, ylabel: str) -> tuple[figure.Figure, Axes]:
    drawing = figure.Figure(figsize=(5.2, 3.9), layout="constrained")
    return drawing, drawing.add_subplot(xlabel=xlabel, ylabel=ylabel)


def _style(index: int) -> dict[str, str]:
    turn, place = divmod(index, len(COLOURS))  # a colour that comes again has another marker
    return {"color": COLOURS[place], "marker": MARKERS[(place + turn) % len(MARKERS)]}


def _ticks(axis: Axis, format: Callable[[float], str]) -> None:
    """Labels of a logarithmic axis; decades are too far apart here, so the decimal ones are divided at 2 and 5."""
    if axis.get_transform().base == 10:
        axis.set_major_locator(ticker.LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: format(value)))
    axis.set_minor_locator(ticker.NullLocator())


def _finish(drawing: figure.Figure, name: str, title: str, caption: str) -> Figure:
    longest = max(len(name) for axes in drawing.axes for name in axes.get_legend_handles_labels()[1])
    drawing.legend(loc="outside lower center", ncols=max(1, min(4, 60 // (longest + 6))))
    text = io.StringIO()
    drawing.savefig(text, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return Figure(name, title, caption, _tidy(text.getvalue()))


def _tidy(svg: str) -> str:
    """The element alone, without the ids that nothing refers to: several figures share one page."""
    svg = svg[svg.index("<svg") :]
    used = set(re.findall(r'(?:url\(|href=")#([^)"]+)', svg))
    return re.sub(r' id="([^"]+)"', lambda match: match[0] if match[1] in used else "", svg)
