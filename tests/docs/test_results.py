"""What the documents say of the long comparison is what docs/results/results.json says."""

from pathlib import Path

import pytest

from configs import compare
from seqarch.report.comparison import comparison_tables, summary_table
from seqarch.report.figures import comparison_figures
from seqarch.report.pages import markdown_page, markdown_table, read_results

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def results():
    return read_results(ROOT / "docs/results/results.json")


def test_readme_has_its_summary(results):
    assert (
        markdown_table(summary_table(results.rows), results.rows)
        in (ROOT / "README.md").read_text()
    )
    assert results.command in (ROOT / "docs/results.md").read_text()


def test_they_are_those_of_the_config(results):
    given = compare.get_config("long")
    models = [row for row in results.rows if row.kind == "model"]
    assert [row.name for row in models] == [member.split(" = ")[0] for member in given.members]
    assert results.notice == given.notice
    for row in models:
        assert (row.config["steps"], row.config["batch"], row.config["length"]) == (
            given.steps,
            given.batch,
            given.length,
        )
    assert (
        f"{given.steps} steps of {given.batch} x {given.length}"
        in (ROOT / "docs/results.md").read_text()
    )


def test_report_is_rendered_from_it(results):
    rows = results.rows
    tables, figures = (summary_table(rows), *comparison_tables(rows)), comparison_figures(rows)
    page = markdown_page(rows, tables, figures, results.title, results.notice)
    assert page == (ROOT / "docs/results/report.md").read_text()
    assert {figure.name for figure in figures} == {
        path.stem for path in (ROOT / "docs/results/figures").iterdir()
    }


@pytest.mark.parametrize(
    "title", ["Which differences are differences", "Learning rates", "Use of context"]
)
def test_page_has_its_evidence(results, title):
    (table,) = [table for table in comparison_tables(results.rows) if table.title == title]
    assert markdown_table(table, results.rows) in (ROOT / "docs/results.md").read_text()
