"""Tables as text: for a terminal, Markdown, LaTeX and HTML."""

import re

from tabulate import tabulate

from seqarch.errors import printable_line
from seqarch.report.formats import TEXTS, show
from seqarch.report.tables import Table

MARKUP = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")  # an underscore within a word is itself
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}


def cells(table: Table) -> list[list[str]]:
    """Returns what each cell shows, row by row, without control characters."""
    units, rows = [column.unit for column in table.columns], []
    for row in table.rows:
        rows.append([printable_line(show(*cell)) for cell in zip(row.cells, units, strict=True)])
    return rows


def text_table(table: Table) -> str:
    """Returns a table for a terminal, with columns aligned by spaces."""
    return _tabulate(table, cells(table), "plain")


def markdown_table(table: Table) -> str:
    """Returns a table in GitHub's Markdown; commands are code."""
    formats = [_code if column.unit == "code" else escape for column in table.columns]
    body = []
    for row in cells(table):
        body.append([format(cell) for format, cell in zip(formats, row, strict=True)])
    return _tabulate(table, body, "pipe")


def escape(text: str) -> str:
    """Returns `text` with Markdown, HTML and mathematics escaped."""
    marked = MARKUP.sub(lambda found: f"\\{found[0]}", text)
    return "".join(ENTITIES.get(char, char) for char in marked)


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return fence + space + text.replace("|", "\\|") + space + fence


def latex_table(table: Table) -> str:
    """Returns a table for LaTeX with the package booktabs."""
    # A bracket at the beginning of a row would be an argument of the \\ before it.
    return re.sub(
        r"^(\s*)\[", r"\1{}[", _tabulate(table, cells(table), "latex_booktabs"), flags=re.M
    )


def _tabulate(table: Table, body: list[list[str]], format: str) -> str:
    sides = ["left" if column.unit in TEXTS else "right" for column in table.columns]
    titles = [printable_line(column.title) for column in table.columns]
    return tabulate(body, titles, tablefmt=format, colalign=sides, disable_numparse=True)
