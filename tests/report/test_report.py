"""The report says the same in all its formats, invents nothing, escapes everything and needs
nothing from outside.
"""

import csv
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from seqarch.errors import printable_line
from seqarch.records import Record, Results
from seqarch.report import members
from seqarch.report.comparison import comparison_figures, comparison_tables
from seqarch.report.formats import MISSING, Repeated, format_bytes, format_si, show
from seqarch.report.pages import comparison_page, html_page, markdown_page, write_csv, write_report
from seqarch.report.render import cells, latex_table, markdown_table, text_table
from seqarch.report.single import run_text
from seqarch.report.style import INK
from seqarch.report.tables import Column, Row, Table, shared_fact
from tests.report.conftest import (
    DOCUMENTS,
    NOTICE,
    baseline_of,
    comparison_of,
    member_of,
    results_of,
)

ODD = (
    "<b>|",
    "$$",
    "$\\foo",
    "_x",
    "a_b*c*",
    "`x` [y](z)",
    "\x1b[2J\n\x00\x07\u202e",
    ' id="x"',
    "模型",
    "n" * 99,
)


@pytest.fixture(scope="module")
def report(comparison, tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    paths = write_report(comparison._replace(title="Mixers <compared>"), directory)
    names = {path.name for path in paths}
    tables = {"results.csv", "runs.csv", "records.jsonl"}
    assert names == {"report.md", "report.html", "report.tex"} | tables
    return {path.suffix[1:]: path.read_text() for path in paths} | {"directory": directory}


class _Page(HTMLParser):
    """Checks that elements nest, and collects references, ids and text."""

    VOID = ("meta", "br", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.ids, self.tags, self.words = [], [], [], set(), []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.note(tag, attributes)

    def handle_startendtag(self, tag, attributes):
        self.note(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def note(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name in ("src", "href", "xlink:href", "srcset", "data", "action"):
                self.references.append(value)
            self.references += re.findall(r"url\((.*?)\)", value or "") if name != "content" else []
            self.ids += [value] if name == "id" else []


def test_page_refers_to_nothing_outside_itself(report):
    page = _Page(report["html"])
    assert page.references and all(reference.startswith("#") for reference in page.references)
    assert {reference[1:] for reference in page.references} <= set(page.ids)
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert "@import" not in report["html"] and not re.search(r"url\((?!#)", report["html"])


def test_page_serves_light_and_dark_and_narrow_screens(report):
    assert INK not in report["html"] and "currentColor" in report["html"]
    assert "prefers-color-scheme: dark" in report["html"] and 'name="viewport"' in report["html"]


def test_figures_are_described_to_those_who_cannot_see_them(comparison, report):
    figures = comparison_figures(comparison)
    assert report["html"].count('role="img" aria-label="') == len(figures) == 6


def test_titles_and_notices_stand_once(report):
    assert report["html"].count(NOTICE) == 1 and report["md"].count(NOTICE) == 1
    assert "Mixers <compared>" in _Page(report["html"]).words
    assert "<compared>" not in report["html"] + report["md"]


@pytest.fixture(scope="module")
def odd():
    """A comparison of members, one a baseline, that are named as if to break a report."""
    models = [member_of(name, "attention", growth=1000 * n) for n, name in enumerate(ODD[:-1], 1)]
    return comparison_of(*models, baseline_of(ODD[-1], 2.5), title=ODD[0], command=ODD[6])


@pytest.fixture(scope="module")
def odd_page(odd):
    return comparison_page(odd)


def test_names_survive_html(odd_page):
    page = _Page(html_page(odd_page))
    assert not page.tags & {"b"}
    for name in ODD:
        assert printable_line(name) in page.words, name


def test_names_survive_drawings(odd_page):
    assert len(odd_page.figures) == 6
    for figure in odd_page.figures:
        root = ElementTree.fromstring(figure.svg)
        words = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
        for name in ODD[:-1]:
            assert printable_line(name) in words, (figure.name, name)


def test_names_survive_markdown(odd_page):
    """A row has as many cells as its head, and no markup, HTML or mathematics outside of code."""
    text = markdown_page(odd_page)
    assert "<b>" not in text and "$" not in text and "\x1b" not in text and "\x00" not in text
    assert not re.search(r"(?<!\\)\[y\]\(", text)
    for table in odd_page.tables:
        widths = {
            len(re.findall(r"(?<!\\)\|", line)) for line in markdown_table(table).splitlines()
        }
        assert widths == {1 + len(table.columns)}
        assert len(markdown_table(table).splitlines()) == 2 + len(table.rows)


def test_code_survives_markdown():
    table = Table("", "", (Column("a"), Column("b", "code")), (Row(("x", "a | `b`")),))
    assert (
        markdown_table(table).splitlines()[-1].split(" | ", 1)[1].strip(" |") == "`` a \\| `b` ``"
    )


def test_a_bracket_begins_no_row_of_latex():
    """It would be an argument of the line break before it."""
    table = Table("", "", (Column("model"),), (Row(("[x]",)), Row(("a [r1]",))))
    _, first, second = (line for line in latex_table(table).splitlines() if "\\\\" in line)
    assert first.strip().startswith("{}[x]") and second.strip().startswith("a [r1]")


def test_names_survive_latex(odd_page):
    """A row has as many cells as its head, and every special character is escaped."""
    for table in odd_page.tables:
        rows = [line for line in latex_table(table).splitlines() if line.rstrip().endswith("\\\\")]
        assert len(rows) == 1 + len(table.rows)
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(table.columns) - 1
            assert not re.search(r"(?<!\\)[#%_]", row) and row.isprintable()
    names = latex_table(odd_page.tables[0])
    assert r"\$\$" in names and r"\textbackslash{}foo" in names and r"\_x" in names


def test_names_survive_a_terminal(odd, odd_page):
    for table in odd_page.tables:
        lines = text_table(table).splitlines()
        assert len(lines) == 1 + len(table.rows) and all(line.isprintable() for line in lines)
    for member in odd.members:
        assert all(line.isprintable() for line in run_text(member.results[0]).split("\n"))


def test_names_survive_csv(odd, tmp_path):
    write_csv(odd.results, tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        assert {row["member"] for row in csv.DictReader(file)} == set(map(printable_line, ODD))
    assert all(line.isprintable() for line in (tmp_path / "results.csv").read_text().split("\n"))
    members.write(tmp_path / "records.jsonl", odd)
    assert members.read(tmp_path / "records.jsonl") == odd


def test_every_cell_is_in_all_formats(comparison, report):
    words = _Page(report["html"]).words
    for table in comparison_tables(comparison):
        for column, shown in zip(table.columns, zip(*cells(table), strict=True), strict=True):
            assert column.title in words
            for cell in shown:
                assert cell in words or not cell
                assert cell in report["md"].replace("\\", "").replace("&amp;", "&")
        assert latex_table(table) in report["tex"]


def test_csv_and_records_give_back_what_was_measured(comparison, report):
    read = list(csv.DictReader(report["csv"].splitlines()))
    everything = [(source, each) for source, found in comparison.results for each in found]
    for (source, record), line in zip(everything, read, strict=True):
        assert (line["member"], line["evaluator"], line["metric"]) == (
            source.member,
            record.evaluator,
            record.metric,
        )
        assert json.loads(line["value"]) == record.value and json.loads(line["at"]) == record.at
        assert line["status"] == "ok" and line["revision"] == source.revision
    assert members.read(report["directory"] / "records.jsonl").members == comparison.members


def test_what_is_missing_is_a_dash():
    columns = (Column("model"), Column("x", "count"), Column("y", "bits"))
    table = Table("", "", columns, (Row(("gru", 654321, None)), Row(("n", None, ""))))
    assert cells(table) == [["gru", "654,321", MISSING], ["n", MISSING, MISSING]]


def test_members_without_a_value_have_no_row(comparison):
    tables = {table.title: table for table in comparison_tables(comparison)}
    assert [row.cells[0] for row in tables["Speed"].rows] == ["gru", "attention"]
    assert [row.kind for row in tables["At a glance"].rows] == ["run", "run", "baseline"]
    assert comparison_tables(comparison_of(baseline_of("xz", 2.5)))[0].rows[0].cells[:2] == (
        "xz",
        2.5,
    )


def test_the_summary_has_memory_at_the_window_and_at_the_longest_context(comparison):
    table = comparison_tables(comparison)[0]
    assert len({column.title for column in table.columns}) == len(table.columns)
    attention = dict(zip(table.columns, table.rows[1].cells, strict=True))
    by_title = {column.title: value for column, value in attention.items()}
    assert by_title["state @ 256"] == 1024 * 256 and by_title["state @ 1,024"] == 1024 * 1024
    assert by_title["training @ 1,024"] == 2**20 + 500 * 1024
    only = comparison_of(member_of("gru"), member_of("attention", "attention"))
    shortest = [Results(each.source, each.records[:-8]) for each in only.members[1].results]
    assert comparison_tables(only._replace(members=(members.group(shortest))))


def test_a_document_has_a_column_and_a_long_array_has_none(comparison):
    tables = {table.title: table for table in comparison_tables(comparison)}
    titles = [column.title for column in tables["Quality by document"].columns[1:]]
    assert titles == [name.replace("_", " ") for name in DOCUMENTS]
    assert not any("position" in title for title in tables)


def test_settings_are_told_once_where_they_are_shared(comparison):
    (provenance,) = (each for each in comparison_tables(comparison) if each.title == "Provenance")
    assert "steps=300" in provenance.caption and "model.dim=128" in provenance.caption
    assert "model.mlp" not in provenance.caption and "seed" not in provenance.caption


def test_a_row_says_all_its_revisions():
    one, other = results_of("gru", seed=1), results_of("gru", seed=2)
    made = dict(other.source.provenance) | dict(revision="fedcba9876543210")
    other.source.__dict__["provenance"] = made
    *_, table, runs = comparison_tables(comparison_of(members.Member("gru", "run", (one, other))))
    (row,) = cells(table)
    assert "0123abcdef" in " ".join(row) and "fedcba9876" in " ".join(row)
    assert [row[-2] for row in cells(runs)] == ["0123abcdef", "fedcba9876"]


def test_facts_end_a_caption_or_are_columns(comparison):
    tables = {table.title: table for table in comparison_tables(comparison)}
    caption = tables["Memory of the compiled programs"].caption
    assert caption == "Bytes at each context. arguments + outputs + temporaries"
    state = tables["Parameters and state"]
    at = [column.title for column in state.columns].index("state dtype")
    assert [row.cells[at] for row in state.rows] == ["float32+int32"] * len(state.rows)


def test_facts_are_told_with_their_members_where_they_differ(comparison):
    shared = shared_fact(comparison.members, "memory", "definition")
    assert shared == "arguments + outputs + temporaries"
    other = results_of("b")
    other.source.facts["memory"]["definition"] = "peak"
    both = (*comparison.members, members.Member("b", "run", (other,)))
    told = shared_fact(both, "memory", "definition")
    assert "gru, attention: arguments" in told and "b: peak" in told


def test_quality_is_drawn_at_the_state_of_its_own_context(comparison):
    def drawn(context):
        results = results_of("gru")
        records = [
            Record("memory", "state_bytes", 1, each.at)
            if (each.metric, each.at) == ("state_bytes", {"context": context})
            else each
            for each in results.records
        ]
        member = members.Member("gru", "run", (results._replace(records=tuple(records)),))
        return comparison_figures(comparison_of(member))[0].svg

    assert drawn(None) == drawn(1024) != drawn(256)


def test_figures_without_numbers_are_not_drawn(comparison):
    everything = {figure.name for figure in comparison_figures(comparison)}
    memory = {f"memory-{phase}" for phase in ("train", "prefill", "decode")}
    assert everything == {"quality-against-state", "loss-by-position", "decode-speed"} | memory
    results = results_of("gru")
    scores = tuple(each for each in results.records if each.evaluator == "quality")
    only = members.Member("gru", "run", (results._replace(records=scores),))
    assert [each.name for each in comparison_figures(comparison_of(only))] == ["loss-by-position"]
    assert comparison_figures(comparison_of(baseline_of("xz", 2.5))) == []


def test_markdown_shows_the_figures_it_wrote(report):
    names = re.findall(r"!\[.*?\]\((figures/.*?)\)", report["md"])
    assert len(names) == 6
    for name in names:
        ElementTree.fromstring((report["directory"] / name).read_text())


def test_a_runs_text_has_every_number_of_its_tables():
    results = results_of("gru")
    text = run_text(results)
    for table in comparison_tables(comparison_of(members.Member("gru", "run", (results,)))):
        if table.title in text.splitlines():
            assert all(cell in text for cell in cells(table)[0][1:])
    assert "Parameters and state" in text and "Speed" in text


@pytest.mark.parametrize(
    "value, text", [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**50 * 2000, "2000 PiB")]
)
def test_bytes_are_readable(value, text):
    assert format_bytes(value) == text


@pytest.mark.parametrize("value, text", [(12, "12"), (1530, "1.53 k"), (7.3e13, "73 T")])
def test_counts_are_readable(value, text):
    assert format_si(value) == text


@pytest.mark.parametrize(
    "share, text", [(0, "0.0%"), (0.985, "98.5%"), (0.01, "1.0%"), (2**-10, "0.098%")]
)
def test_a_small_share_is_not_zero(share, text):
    assert show(share, "percent") == text


@pytest.mark.parametrize(
    "share, text", [(1, "100.0%"), (0.9994, "99.9%"), (0.99963, "99.96%"), (0.999983, "99.998%")]
)
def test_nearly_all_is_not_all(share, text):
    assert show(share, "percent") == text


@pytest.mark.parametrize(
    "speed, text",
    [
        (28357.6, "28,400"),
        (1590.4, "1,590"),
        (12.345, "12.3"),
        (Repeated(28357.6, 0.042), "28,400 ± 4 %"),
        (Repeated(999.6, 0.23), "1,000 ± 23 % (noisy)"),
    ],
)
def test_a_speed_has_three_digits_and_the_spread_of_its_repetitions(speed, text):
    assert show(speed, "rate") == text


def test_a_speed_stands_with_its_spread_where_that_was_recorded():
    results = results_of("gru")
    spread = Record("speed", "decode_spread", 0.25, {"context": 1024})
    noisy = members.Member("gru", "run", (results._replace(records=(*results.records, spread)),))
    table = comparison_tables(comparison_of(noisy))[0]
    shown = dict(zip([column.title for column in table.columns], cells(table)[0], strict=True))
    assert shown["tokens/s @ 1,024"] == "10,000 ± 25 % (noisy)"


@pytest.mark.parametrize("value, unit, number", [(0.0, "bits", 0), (0, "count", 0)])
def test_zero_is_not_missing(value, unit, number):
    assert float(show(value, unit)) == number
