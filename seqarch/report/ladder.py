"""Members at several sizes: does their order hold as models grow?

Bits per byte are fitted by power laws of parameters and of training FLOPs, over all seeds.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib import figure
from matplotlib.axes import Axes

from seqarch.report import style
from seqarch.report.figures import styles_of
from seqarch.report.formats import FORMATS, format_si
from seqarch.report.labels import Label, label_points
from seqarch.report.matched import trained_tokens
from seqarch.report.members import LADDER, Comparison, Member
from seqarch.report.style import Figure
from seqarch.report.tables import Column, Row, Table
from seqarch.stats.exponents import Exponent, power_law
from seqarch.stats.significance import Judgement

LEAST = 3  # sizes of a fit
AXES = {"params": "parameters", "flops": "training FLOPs"}  # what bits per byte are fitted against


class LadderPoint(NamedTuple):
    """A run: its parameters, the FLOPs of its training, and its bits per byte."""

    params: float
    flops: float
    bits: float


def ladder(comparison: Comparison) -> dict[str, dict[str, Member]]:
    """Returns the members at each size, by the name of the member and that of the size."""
    found: dict[str, dict[str, Member]] = {}
    for each in comparison.models:
        member, size = (each.fact(LADDER, name) for name in ("member", "size"))
        if member and size:
            found.setdefault(member, {})[size] = each
    return found


def points(member: Member) -> list[LadderPoint]:
    """Returns a point for each seed of a member at one size; none where it was not measured."""
    params = member.value("memory", "params")
    per_token, tokens = member.value("flops", "train_per_token"), trained_tokens(member)
    bits = [each.value("quality", "bits_per_byte") for each in member.results]
    if not params or not per_token or not tokens:
        return []
    return [LadderPoint(params, per_token * tokens, each) for each in bits if each]


def fit(rungs: Mapping[str, Member], axis: str) -> Exponent | None:
    """Returns the power of `axis` that a member's bits per byte follow; None below LEAST sizes.

    `axis` is a field of LadderPoint.
    """
    found = [each for member in rungs.values() for each in points(member)]
    x = [getattr(each, axis) for each in found]
    if len(set(x)) < LEAST:
        return None
    return power_law(x, [each.bits for each in found])


def ladder_table(comparison: Comparison, judged: Mapping[str, Judgement]) -> Table | None:
    """Returns bits per byte at each size and their fits; None for one size, or without such scores.

    Args:
      comparison: the members.
      judged: judgements of all members at all sizes, which tell which were not told apart.
    """
    found = ladder(comparison)
    sizes = list(dict.fromkeys(size for rungs in found.values() for size in rungs))
    measured = [_bits(each) for rungs in found.values() for each in rungs.values()]
    if len(sizes) < 2 or not any(measured):
        return None
    columns = [Column("model"), *(Column(f"bits/byte, {size}", "bits") for size in sizes)]
    columns += [Column(f"power of {title}", "exponent") for title in AXES.values()]
    rows = []
    for member, rungs in found.items():
        bits = [_bits(rungs.get(size)) for size in sizes]
        rows.append(Row((member, *bits, *(fit(rungs, axis) for axis in AXES))))
    caption = (
        "Does the order hold as models grow? Each size is at its own learning rate. "
        f"{' '.join(_orders(found, sizes))} {_changes(found, sizes, judged)} Power: the exponent "
        "of a power law of bits per byte over all sizes and seeds, with Student's 95 % interval. "
        "It is that of these sizes at these budgets, and no forecast for larger ones."
    )
    return Table("Sizes", caption, tuple(columns), tuple(rows))


def _bits(member: Member | None) -> float | None:
    return member.value("quality", "bits_per_byte") if member else None


def _orders(found: Mapping[str, Mapping[str, Member]], sizes: Sequence[str]) -> list[str]:
    """Returns a sentence for each size: the members from the fewest bits on."""
    made = []
    for size in sizes:
        bits = {name: value for name in found if (value := _bits(found[name].get(size)))}
        made.append(f"{size}: {', '.join(sorted(bits, key=bits.get))}.")
    return made


def _changes(
    found: Mapping[str, Mapping[str, Member]], sizes: Sequence[str], judged: Mapping[str, Judgement]
) -> str:
    """Returns which pairs are told apart at two sizes, and in another order."""
    pairs = []
    for one, other in itertools.combinations(found, 2):
        signs = {_sign(found[one].get(size), found[other].get(size), judged) for size in sizes}
        if {-1, 1} <= signs:
            pairs.append(f"{one} and {other}")
    if not judged:
        return "With one seed or document, no pair is told apart."
    if not pairs:
        return "No pair is told apart at two sizes in another order."
    return f"In another order, and told apart both times: {'; '.join(pairs)}."


def _sign(one: Member | None, other: Member | None, judged: Mapping[str, Judgement]) -> int:
    """Returns -1 where one has fewer bits than the other, 1 where more, 0 if not told apart."""
    if one is None or other is None or not {one.name, other.name} <= judged.keys():
        return 0
    letters = [set(judged[each.name].letters.split()) for each in (one, other)]
    if letters[0] & letters[1]:
        return 0
    return -1 if _bits(one) < _bits(other) else 1


def ladder_figure(comparison: Comparison) -> Figure | None:
    """Returns bits per byte against parameters and FLOPs, a point for each seed of each size."""
    found = {name: rungs for name, rungs in ladder(comparison).items() if len(rungs) > 1}
    if not any(points(member) for rungs in found.values() for member in rungs.values()):
        return None
    looks = styles_of({name: next(iter(rungs.values())).config for name, rungs in found.items()})
    with style.settings():
        drawing = figure.Figure(figsize=(11.0, 4.2), layout="constrained")
        for place, (axis, title) in enumerate(AXES.items(), 1):
            axes = drawing.add_subplot(1, 2, place, xlabel=title, ylabel="bits per byte")
            labels = []
            for name, rungs in found.items():
                end = _draw(axes, [points(member) for member in rungs.values()], axis, looks[name])
                labels += [Label(name, *end, looks[name].colour)] if end else []
            style.log_axis(axes.xaxis, format_si, 10)
            style.log_axis(axes.yaxis, FORMATS["ratio"], 10)
            label_points(axes, labels)
        caption = "A point for each seed, and lines through their means. Lower is better."
        return style.finish(drawing, "sizes", "Does the order hold as models grow?", caption)


def _draw(
    axes: Axes, sizes: Sequence[Sequence[LadderPoint]], axis: str, look: style.Style
) -> tuple[float, float] | None:
    """Draws a member's points and the line through their means; returns the line's end."""
    seeds = [each for found in sizes for each in found]
    if not seeds:
        return None
    marks = dict(color=look.colour, marker=look.marker, linestyle="none", markersize=4, alpha=0.6)
    axes.plot([getattr(each, axis) for each in seeds], [each.bits for each in seeds], **marks)
    means = []
    for found in filter(None, sizes):
        means.append((getattr(found[0], axis), sum(each.bits for each in found) / len(found)))
    means.sort()
    axes.plot(*zip(*means, strict=True), color=look.colour)
    return means[-1]
