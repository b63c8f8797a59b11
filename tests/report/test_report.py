"""The report says the same in all its formats, invents nothing, escapes everything and needs
nothing from outside.
"""

import csv
import dataclasses
import json
import re
from html.parser import HTMLParser

import pytest

from seqarch.report.comparison import comparison_tables, summary_table
from seqarch.report.figures import INK, comparison_figures
from seqarch.report.pages import text_table, write_report
from seqarch.report.tables import (
    MISSING,
    Column,
    Row,
    Table,
    fields,
    format_bytes,
    format_si,
    show,
)

NOTICE = "tour: one learning rate, one seed, undertrained; not evidence"
LENGTHS = (64, 256, 1024)


def _model(name, mlp, state, growth):
    values = {
        "quality/bits_per_byte": 2.0 + 1 / 3,
        "quality/bits_per_byte_carried": 2.125,
        "quality/bytes": 123456,
        "quality/context": 256,
        "quality/loss_by_position": [3 + 2 / (1 + t) for t in range(256)],
        "quality/by_document": {"king_lear": 2.25, "sonnets & more": 2.5},
        "memory/params": 654321,
        "memory/definition": "arguments + outputs + temporaries",
        "speed/train_tokens_per_s": 7654.25,
    }
    for length in LENGTHS:
        values[f"memory/state_bytes@{length}"] = state + growth * length
        values |= {
            f"memory/{kind}_bytes@{length}": 2**20 + 500 * length
            for kind in ("train", "prefill", "decode")
        }
        values[f"speed/decode_tokens_per_s@{length}"] = 1e6 / (100 + growth * length)
    config = {
        "steps": 300,
        "model": {"mixer": name, "dim": 128, "mlp": mlp},
        "seed": {"model": 0, "data": 0},
    }
    return Row(
        name,
        "model",
        values,
        config,
        {"model": 0, "data": 7},
        "0123abc",
        f"python train.py --config='{name}'",
    )


@pytest.fixture(scope="module")
def rows():
    baseline = Row(
        "n-gram",
        "baseline",
        {"quality/bits_per_byte": 4.5},
        revision="0123abc",
        command="python compare.py",
    )
    odd = dataclasses.replace(_model("attention", 320, 0, 1024), name='<b>|"odd" & long</b>')
    return [_model("gru", 256, 2048, 0), odd, baseline]


@pytest.fixture(scope="module")
def report(rows, tmp_path_factory):
    directory = tmp_path_factory.mktemp("report")
    paths = write_report(rows, directory, title="Mixers <compared>", notice=NOTICE)
    assert [path.name for path in paths] == [
        "report.md",
        "results.csv",
        "report.html",
        "results.json",
    ]
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


def test_names_are_escaped(report):
    assert "<b>" not in report["html"]
    assert '<b>|"odd" & long</b>' in _Page(report["html"]).words
    lines = [line for line in report["md"].splitlines() if line.startswith("| <b>")]
    assert lines and all(line.startswith('| <b>\\|"odd" & long</b> |') for line in lines)


def test_notice_stands_with_every_table_and_figure(rows, report):
    pieces = 1 + len(comparison_tables(rows)) + len(comparison_figures(rows))
    assert report["md"].count(f"*{NOTICE}*") == 1 + pieces
    assert report["html"].count(f'<p class="notice">{NOTICE}</p>') == 1 + pieces
    assert all(line["notice"] == NOTICE for line in csv.DictReader(report["csv"].splitlines()))


def test_every_cell_is_in_both_pages(rows, report):
    words = _Page(report["html"]).words
    for table in (summary_table(rows), *comparison_tables(rows)):
        for column in table.columns:
            assert column.title in words and f" {column.title} |" in report["md"]
            for row in rows:
                cell = show(fields(row).get(column.key), column.format)
                assert cell in words and cell.replace("|", "\\|") in report["md"]


def test_csv_gives_back_what_was_measured(rows, report):
    read = list(csv.DictReader(report["csv"].splitlines()))
    for row, line in zip(rows, read, strict=True):
        for key, value in fields(row).items():
            if isinstance(value, float):
                assert float(line[key]) == value
        assert json.loads(line["config"]) == row.config
        assert line["command"] == row.command and line["revision"] == row.revision
    assert read[2]["memory/params"] == ""


def test_what_is_missing_is_a_dash_and_rows_with_nothing_are_left_out(rows):
    table = Table(
        "",
        "",
        (
            Column("model", "name", "text"),
            Column("x", "memory/params", "count"),
            Column("y", "none", "bits"),
        ),
    )
    lines = text_table(table, rows).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == [MISSING, MISSING]
    assert "654,321" in lines[1] and "n-gram" not in text_table(table, rows)


def test_settings_are_columns_where_they_differ_and_told_once_where_they_do_not(rows):
    provenance = comparison_tables(rows)[-1]
    assert {"model.mixer", "model.mlp"} == {
        column.title for column in provenance.columns if "." in column.title
    }
    assert "steps=300" in provenance.caption and "model.dim=128" in provenance.caption


def test_memory_definitions_are_told_with_their_rows_where_they_differ(rows):
    other = dataclasses.replace(
        rows[1], name="b", values=rows[1].values | {"memory/definition": "peak"}
    )
    (caption,) = (
        table.caption for table in comparison_tables([rows[0], other]) if "compiled" in table.title
    )
    assert "gru: arguments + outputs + temporaries" in caption and "b: peak" in caption


def test_quality_is_drawn_at_the_state_of_its_own_context(rows):
    def drawn(**changes):
        changed = dataclasses.replace(rows[0], values=rows[0].values | changes)
        return comparison_figures([changed, *rows[1:]])[0].svg

    assert drawn() == drawn(**{"memory/state_bytes@1024": 1})
    assert drawn() != drawn(**{"memory/state_bytes@256": 1})


def test_figures_without_numbers_are_not_drawn(rows):
    everything = {figure.name for figure in comparison_figures(rows)}
    assert everything == {
        "quality-against-state", "loss-by-position", "memory-train", "memory-prefill", "memory-decode", "decode-speed"
    }  # fmt: skip
    quality = {name: value for name, value in rows[0].values.items() if name.startswith("quality")}
    only = comparison_figures([dataclasses.replace(rows[0], values=quality), rows[2]])
    assert [figure.name for figure in only] == ["loss-by-position"]
    assert comparison_figures([rows[2]]) == []


def test_markdown_shows_the_figures_it_wrote(report):
    names = re.findall(r"!\[.*?\]\((figures/.*?)\)", report["md"])
    assert len(names) == 6
    assert all((report["directory"] / name).read_text().startswith("<svg") for name in names)


@pytest.mark.parametrize(
    "value, text", [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**50 * 2000, "2000 PiB")]
)
def test_bytes_are_readable(value, text):
    assert format_bytes(value) == text


@pytest.mark.parametrize("value, text", [(12, "12"), (1530, "1.53 k"), (7.3e13, "73 T")])
def test_counts_are_readable(value, text):
    assert format_si(value) == text
