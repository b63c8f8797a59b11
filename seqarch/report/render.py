"""Tables as text: for a terminal, Markdown, LaTeX and HTML."""

import re

from tabulate import tabulate

from seqarch.report.formats import TEXTS, printable, show
from seqarch.report.tables import Table

MARKUP = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")  # an underscore within a word is itself
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}


def cells(table: Table) -> list[list[str]]:
    """What each cell shows, row by row, without control characters."""
    units = [column.unit for column in table.columns]
    return [
        [printable(show(*cell)) for cell in zip(row.cells, units, strict=True)]
        for row in table.rows
    ]


def text_table(table: Table) -> str:
    """A table for a terminal: columns aligned by spaces."""
    return _tabulate(table, cells(table), "plain")


def markdown_table(table: Table) -> str:
    """A table in GitHub's Markdown; commands are code."""
    body = [
        [
            _code(cell) if column.unit == "code" else escape(cell)
            for column, cell in zip(table.columns, row, strict=True)
        ]
        for row in cells(table)
    ]
    return _tabulate(table, body, "pipe")


def escape(text: str) -> str:
    """`text` as Markdown shows it: none of it is markup, HTML or mathematics."""
    marked = MARKUP.sub(lambda found: f"\\{found[0]}", text)
    return "".join(ENTITIES.get(char, char) for char in marked)


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return fence + space + text.replace("|", "\\|") + space + fence


def latex_table(table: Table) -> str:
    """A table for LaTeX with the package booktabs."""
    return _tabulate(table, cells(table), "latex_booktabs")


def _tabulate(table: Table, body: list[list[str]], format: str) -> str:
    sides = ["left" if column.unit in TEXTS else "right" for column in table.columns]
    titles = [printable(column.title) for column in table.columns]
    return tabulate(body, titles, tablefmt=format, colalign=sides, disable_numparse=True)
