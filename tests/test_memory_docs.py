"""The tables of docs/memory.md are those of the report that memory.py wrote, and the report's are of its cells."""

import csv
import re
from pathlib import Path

import pytest

from seqarch.measure.tables import format_bytes

DOCS = Path(__file__).parents[1] / "docs"
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
    """The first table of a Markdown text: its rows by their first cell, their cells by the heads of columns."""
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE)[0].splitlines()
    (_, *heads), _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return {name: dict(zip(heads, cells, strict=True)) for name, *cells in rows}


def after(text: str, start: str) -> str:
    """What follows the first line that begins so."""
    return text.split(f"\n{start}", 1)[1]


@pytest.fixture(scope="module")
def report() -> str:
    return (DOCS / "memory/report.md").read_text()


@pytest.mark.parametrize("start", TABLES)
def test_tables_are_those_of_the_report(report, start):
    title, column = TABLES[start]
    shown = table(after((DOCS / "memory.md").read_text(), start))
    for target in TARGETS:
        rows = table(after(report, f"## {title} on {target}\n"))
        assert {name: cells[target] for name, cells in shown.items()} == {name: cells[column] for name, cells in rows.items()}


def test_the_report_is_of_its_cells(report):
    with (DOCS / "memory/results.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert {cell["target"] for cell in cells} == set(TARGETS)
    for target in TARGETS:
        rows = table(after(report, f"## Training step on {target}\n"))
        for name, row in rows.items():
            for cell in cells:
                if (cell["name"], cell["target"], cell["phase"], cell["failed"]) == (name, target, "train", ""):
                    assert format_bytes(int(cell["total"])) in row[f"{int(cell['length']):,}"]
