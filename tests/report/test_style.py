"""The look of figures: labels that can be read, enough ticks, and the same look everywhere."""

import itertools
import re

import numpy as np
import pytest
from matplotlib.text import Text

from seqarch.report import figures, labels, style
from seqarch.report.comparison import comparison_figures
from seqarch.report.labels import LABEL_POINTS, Label, label_points
from seqarch.report.style import LEAST_TICKS, MOST_TICKS
from tests.report.conftest import baseline_of, comparison_of, member_of


def look(pattern, **model):
    return style.style_of("name", dict(mixer=pattern, **model))


def test_a_family_has_a_colour_and_a_variant_a_marker_or_a_line():
    patterns = ("attention", "attention(window=64)", "mamba", "mamba,attention", "$no pattern(")
    found = {pattern: look(pattern) for pattern in patterns}
    assert found["attention"].colour == found["attention(window=64)"].colour
    assert len({each.colour for each in found.values()}) == 4
    assert look("attention,mamba,mamba").colour == found["mamba,attention"].colour
    variants = [look("attention"), look("attention(window=64)"), look("attention(window=128)")]
    variants += [look("attention", conv=4), look("attention", mlp=0)]
    assert len(set(variants)) == len(variants)


def test_a_look_follows_from_the_members_own_config():
    """Not from its name, from sizes, or from how its pattern is written."""
    assert look("gru", dim=64, mlp=8) == style.style_of("other", dict(mixer="gru", mlp=128))
    assert look("attention(window=64, heads=2)") == look("attention(window=64,heads=2)")
    assert style.style_of("mamba", {}) == look("mamba")


@pytest.mark.parametrize("values", [[0.5] * 7, [0.0, 0.0, 1.0], [0.1, 0.11, 0.8, 0.81], [1.0]])
def test_labels_are_spread_and_stay_within(values):
    gap = 0.1
    heights = labels.within(labels.spread(values, gap), gap)
    assert all(np.diff(heights) >= gap - 1e-9)
    assert min(heights) >= gap / 2 - 1e-9 and max(heights) <= 1 - gap / 2 + 1e-9


def test_labels_that_have_room_stay_at_their_points():
    assert labels.within(labels.spread([0.2, 0.5, 0.8], 0.1), 0.1) == pytest.approx([0.2, 0.5, 0.8])


@pytest.mark.parametrize("count", [1, 14, 60])
def test_labels_lie_beside_the_axes_and_apart(count):
    with style.settings():
        drawing, axes = style.one_panel("x", "y")
        axes.plot([1, 2], [1, 2])
        labels = [Label(f"member {index}", 2, 2, "black") for index in range(count)]
        label_points(axes, labels)
        drawing.draw_without_rendering()
    box = axes.get_window_extent()
    boxes = (Text.get_window_extent(each) for each in axes.texts)  # without the lines to points
    found = sorted(boxes, key=lambda each: each.y0)
    point = drawing.dpi / 72
    assert all(box.y0 - point <= each.y0 and each.y1 <= box.y1 + point for each in found)
    middles = np.array([(each.y0 + each.y1) / 2 for each in found]) / point
    assert len(found) == count and all(np.diff(middles) >= LABEL_POINTS - 0.5)
    assert all(each.x0 >= box.x1 for each in found)


def test_lines_to_labels_do_not_cross():
    """By height, the line of the first point would cross that of the second, far above both."""
    points, heights = [(0.1, 0.4), (0.9, 0.41)], [0.9, 1.0]
    lines = [(point, (labels.LEFT, y)) for point, y in zip(points, heights, strict=True)]
    assert labels._cross(*lines) and labels.uncrossed(points, [0, 1], heights) == [1, 0]
    rng = np.random.default_rng(0)
    points, heights = rng.uniform(size=(30, 2)).tolist(), np.linspace(0, 1, 30).tolist()
    order = labels.uncrossed(points, sorted(range(30), key=lambda at: points[at][1]), heights)
    lines = [(points[at], (labels.LEFT, y)) for at, y in zip(order, heights, strict=True)]
    assert sorted(order) == list(range(30))
    assert not any(labels._cross(*each) for each in itertools.combinations(lines, 2))


@pytest.mark.parametrize("values", [[1.0] * 3, [0.0] * 3, [0.985, 1.0, 0.99], [0.4, 0.6, 0.5]])
def test_an_axis_ends_at_the_bounds_of_its_quantity(values):
    drawing, axes = style.one_panel("x", "accuracy")
    axes.plot([1, 2, 3], values)
    style.linear_axis(axes.yaxis, "{:.4g}".format, (0.0, 1.0))
    drawing.draw_without_rendering()
    low, high = axes.get_ylim()
    assert 0 <= low <= min(values) and max(values) <= high <= 1 and low < high
    ticks = [each for each in axes.get_yticks() if low <= each <= high]
    assert len(ticks) >= LEAST_TICKS


@pytest.mark.parametrize("base", [2, 10])
@pytest.mark.parametrize("low, high", [(1, 1e6), (256, 4096), (1, 3), (700, 900), (5e8, 5.001e8)])
def test_a_logarithmic_axis_has_enough_ticks_and_not_too_many(base, low, high):
    found = style.log_ticks(low, high, base)
    assert LEAST_TICKS <= len(found) <= MOST_TICKS
    assert all(low <= each <= high for each in found)


@pytest.fixture(scope="module")
def drawn():
    """The axes of every figure of a comparison, by name."""
    found, finish = {}, style.finish

    def keep(drawing, name, *texts):
        found[name] = drawing.axes[0]
        return finish(drawing, name, *texts)

    baselines = (baseline_of(*each) for each in (("high", 4.5), ("low", 0.5), ("near", 2.3)))
    attention = member_of("attention", "attention", growth=1024)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "finish", keep)
        comparison_figures(comparison_of(member_of("gru"), attention, *baselines))
    return found


def test_each_axis_has_ticks_enough(drawn):
    assert len(drawn) == 6
    for name, axes in drawn.items():
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [each for each in axis.get_majorticklocs() if low <= each <= high]
            assert LEAST_TICKS <= len(ticks) <= MOST_TICKS + 2, (name, axis.axis_name, ticks)
            texts = [each.get_text() for each in axis.get_majorticklabels()]
            assert len(set(texts)) == len(texts), (name, axis.axis_name, texts)


def test_contexts_stand_at_the_axis_as_they_were_measured(drawn):
    assert list(drawn["memory-train"].get_xticks()) == [64, 256, 1024]


def test_curves_are_those_of_the_records(drawn):
    gru, attention = drawn["memory-train"].lines
    assert gru.get_ydata().tolist() == [2**20 + 500 * n for n in (64, 256, 1024)]
    assert gru.get_color() != attention.get_color()
    (_, growing) = drawn["decode-speed"].lines
    assert growing.get_ydata()[-1] == 1e6 / (100 + 1024 * 1024)


def test_baselines_within_range_are_lines_and_others_are_named_at_their_edge(drawn):
    axes = drawn["quality-against-state"]
    texts = {each.get_text(): each for each in axes.texts}
    assert "near" in texts and 2.3 in [each.get_ydata()[0] for each in axes.lines]
    (above,) = (each for text, each in texts.items() if re.search(r"\bhigh\b", text))
    (below,) = (each for text, each in texts.items() if re.search(r"\blow\b", text))
    assert above.get_position()[1] > 0.9 and below.get_position()[1] < 0.1


def test_the_same_figure_is_the_same_file():
    once, again = (comparison_figures(comparison_of(member_of("gru")))[0].svg for _ in range(2))
    assert once == again


def test_positions_are_averaged_over_bins_that_grow():
    middles, means = figures._binned(np.arange(1.0, 257.0))
    assert middles == pytest.approx(means) and np.all(np.diff(middles) > 0)
    assert middles[0] == 1 and np.all(np.diff(middles)[-3:] > 10)
