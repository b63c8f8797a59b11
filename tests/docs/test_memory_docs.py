"""The tables of docs/memory.md are those of the report that memory.py wrote, and the report's are
of its cells.
"""

import csv
import re
import statistics
from pathlib import Path

import pytest

from seqarch.report.formats import format_bytes
from studies.long_decode import Point, read

DOCS = Path(__file__).parents[2] / "docs"
TABLES = {
    "Training, exponent": ("Training step", "exponent"),
    "Training, the longest row": ("Training step", "longest that fits"),
    "Decoding, exponent": ("Decoding step", "exponent"),
    "Decoding, the longest context": ("Decoding step", "longest that fits"),
    "Prefill in segments": ("Prefill", "longest that fits"),
    "Decoding, sequences of 131,072": ("Sequences at once", "131,072"),
}
TARGETS = ("local", "tpu-v5e", "gpu-h100")


def table(text: str) -> dict[str, dict[str, str]]:
    """The first table of a Markdown text: its rows by their first cell, their cells by the heads of
    columns.
    """
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()
    (_, *heads), _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines
    )
    return {name: dict(zip(heads, cells, strict=True)) for name, *cells in rows}


def after(text: str, start: str) -> str:
    """What follows the first line that begins so."""
    return text.split(f"\n{start}", 1)[1]


@pytest.fixture(scope="module")
def report() -> str:
    return (DOCS / "memory/report.md").read_text()


def test_exponents_are_what_they_must_be(report):
    """Training 2.0 +- 0.1 where the matrix is built, else 1.0 +- 0.1; what is decoded with is
    constant or grows with N.
    """
    grows = {
        "attention materialised",
        "attention multi-head",
        "attention grouped",
        "attention multi-query",
        "hybrid",
    }
    for target in TARGETS:
        rows = table(after(report, f"## Training step on {target}\n"))
        assert len(rows) == 9 and grows < set(rows)
        for name, row in rows.items():
            assert float(row["exponent"].split()[0]) == pytest.approx(
                1 + (name == "attention materialised"), abs=0.1
            ), (
                name,
                target,
            )
        for name, row in table(after(report, f"## Decoding step on {target}\n")).items():
            assert row["exponent"] == f"{name in grows:.2f} ± 0.00"


def test_decoded_tokens_are_those_of_the_record():
    text, record = (DOCS / "memory.md").read_text(), read(DOCS / "memory/long_decode.json")
    for mixer, row in table(after(text, "## A million tokens, decoded")).items():
        points = [Point(**point) for point in record[mixer]["points"]]
        times = sorted(1e6 * point.seconds for point in points)
        assert row["tokens"] == f"{points[-1].tokens:,}" and row["state"] == format_bytes(
            points[-1].state
        )
        assert (
            row["resident, first and last point"]
            == f"{points[0].resident / 2**20:.1f}, {points[-1].resident / 2**20:.1f} MiB"
        )
        shown = [
            float(each) for each in row["us a token, least, median, most of 100 points"].split(",")
        ]
        assert shown == [round(each) for each in (times[0], statistics.median(times), times[-1])]
    rows = table(after(text, "double up to"))
    for tokens, point in zip(rows, record["attention"]["points"], strict=True):
        point, row = Point(**point), rows[tokens]
        assert tokens == f"{point.tokens:,}" and row["cache"] == format_bytes(point.state)
        assert row["resident"] == format_bytes(point.resident)
        assert float(row["ms a token"]) == pytest.approx(1000 * point.seconds, abs=0.05)


@pytest.mark.parametrize("start", TABLES)
def test_tables_are_those_of_the_report(report, start):
    title, column = TABLES[start]
    shown = table(after((DOCS / "memory.md").read_text(), start))
    for target in TARGETS:
        rows = table(after(report, f"## {title} on {target}\n"))
        assert {name: cells[target] for name, cells in shown.items()} == {
            name: cells[column] for name, cells in rows.items()
        }


def test_the_report_is_of_its_cells(report):
    with (DOCS / "memory/results.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert {cell["target"] for cell in cells} == set(TARGETS)
    for target in TARGETS:
        rows = table(after(report, f"## Training step on {target}\n"))
        for name, row in rows.items():
            for cell in cells:
                if (cell["name"], cell["target"], cell["phase"], cell["failed"]) == (
                    name,
                    target,
                    "train",
                    "",
                ):
                    assert format_bytes(int(cell["total"])) in row[f"{int(cell['length']):,}"]


def test_steps_that_ran_are_those_of_their_report_and_planned_within_15_per_cent_at_a_gigabyte():
    shown = table(after((DOCS / "memory.md").read_text(), "Training steps that ran"))
    assert shown == table(
        after((DOCS / "memory/actual.md").read_text(), "## Planned and actual on local")
    )
    read = lambda cell: re.fullmatch(r"([\d.]+) (MiB|GiB), planned (\d+) %", cell)
    size = lambda found: float(found[1]) * {"MiB": 2**20, "GiB": 2**30}[found[2]]
    ran = [
        (name, found)
        for name, row in shown.items()
        for cell in row.values()
        if (found := read(cell))
    ]
    large = [(name, int(found[3])) for name, found in ran if size(found) >= 1e9]
    assert len(dict(large)) >= 4 and all(85 <= planned <= 115 for _, planned in large)
