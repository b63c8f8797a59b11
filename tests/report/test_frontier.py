"""The report of a frontier, made of runs that follow a law exactly."""

import dataclasses
import re

import pytest

from seqarch.evals.frontier import frontiers, slim
from seqarch.report.comparison import comparison_tables
from seqarch.report.frontier import frontier_tables
from seqarch.report.frontier_figure import frontier_figures
from seqarch.report.frontier_page import frontier_page
from seqarch.report.members import Comparison, group
from seqarch.report.render import cells
from tests.evals.frontier_runs import made_sweep, run_of


@pytest.fixture(scope="module")
def page():
    runs = made_sweep()
    return frontier_page("Frontier", [*frontiers(runs), *map(slim, runs)])


def table_of(page, title):
    (found,) = (each for each in page.tables if each.title == title)
    return {row[0]: row[1:] for row in cells(found)}


def test_smallest_states_say_what_was_not_enough(page):
    found = table_of(page, "The smallest state that recalls")
    assert found == {"gru": ["2 KiB", "> 4 KiB", "> 4 KiB"], "mamba": ["> 4 KiB"] * 3}


def test_the_law_has_its_coefficients_and_the_states_that_it_asks_for(page):
    gru = table_of(page, "The law of errors")["gru"]
    assert gru[:2] == ["15", "12.00 [12.00, 12.00]"]
    assert gru[-3:-1] == ["1.74 KiB [1.74 KiB, 1.74 KiB]", "4.38 KiB [4.38 KiB, 4.38 KiB]"]


def test_the_setting_stands_with_it(page):
    assert table_of(page, "What was tried")["gru"][1] == "16, 32, 64, 128, 256"
    shared = table_of(page, "What all runs share")
    assert shared["task"] == ["mqar(length=64,vocab=64)"] and shared["steps"] == ["400"]
    assert "0123abcdef" in page.made


def test_mixed_revisions_are_told(page):
    assert page.notice == ""
    runs = made_sweep()
    made = dict(runs[0].source.provenance, revision="fedcba9876543210")
    other = runs[0]._replace(source=dataclasses.replace(runs[0].source, provenance=made))
    mixed = frontier_page("Frontier", [*frontiers(runs), *map(slim, (other, *runs[1:]))])
    assert "Records of 2 revisions are mixed" in mixed.notice


def test_the_figure_has_a_panel_for_each_number_of_pairs(page):
    (figure,) = page.figures
    assert figure.title.endswith("?")
    assert re.findall(r">(pairs \d)<", figure.svg) == ["pairs 2", "pairs 4", "pairs 8"]
    assert ">gru<" in figure.svg and ">mamba<" in figure.svg


def test_a_report_of_runs_has_the_frontier_of_a_sweep_alone():
    sweep = [run_of("gru", dim, pairs, 0.5) for dim in (16, 32) for pairs in (2, 4)]
    comparison = Comparison("Runs", "", "", group(sweep))
    titles = [each.title for each in comparison_tables(comparison)]
    assert "The smallest state that recalls" in titles and "Accuracy at each state" in titles
    assert frontier_tables(sweep[::2]) == frontier_figures(sweep[::2]) == []
