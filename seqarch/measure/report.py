"""The report of a comparison: report.md, results.csv, results.json and one self-contained report.html, from one description.

    paths = write_report(rows, directory, title="...", notice="tour: ...; not evidence", command="python ...")
    title, notice, command, rows = read_results(directory / "results.json")
"""

import csv
import dataclasses
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from seqarch.measure.comparison_tables import comparison_tables, summary_table
from seqarch.measure.figures import INK, Figure, comparison_figures
from seqarch.measure.tables import MISSING, Row, Table, fields, show

LEFT = ("text", "code", "revision")  # formats that are aligned to the left


class Results(NamedTuple):
    """notice: what a reader must know before believing a number; it stands with every table and figure.

    command: what made the rows
    """

    title: str
    notice: str
    command: str
    rows: list[Row]


def write_report(rows: Sequence[Row], directory: Path, *, title: str, notice: str = "", command: str = "") -> list[Path]:
    """The report of a comparison, and results.json, from which it can be rendered anew."""
    tables, figures = (summary_table(rows), *comparison_tables(rows)), comparison_figures(rows)
    paths = write_pages(rows, tables, figures, directory, title=title, notice=notice, csv=csv_text(rows, tables, notice))
    path = directory / "results.json"
    path.write_text(json_text(Results(title, notice, command, list(rows))), encoding="utf-8")
    return [*paths, path]


def write_pages(
    rows: Sequence[Row],
    tables: Sequence[Table],
    figures: Sequence[Figure],
    directory: Path,
    *,
    title: str,
    csv: str,
    notice: str = "",
    made: str = "",
) -> list[Path]:
    """Writes report.md, results.csv, report.html and figures/*.svg, which report.md shows; returns the first three.

    made: how all of it was, where no table says it
    """
    files = {
        "report.md": markdown_page(rows, tables, figures, title, notice, made),
        "results.csv": csv,
        "report.html": html_page(rows, tables, figures, title, notice, made),
    }
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    for figure in figures:
        write_svg(figure, directory / "figures" / f"{figure.name}.svg")
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8", newline="")
    return [directory / name for name in files]


def write_svg(figure: Figure, path: Path) -> None:
    """A drawing as a file: a white ground, since a page in another colour may show it."""
    path.write_text(figure.svg.replace("<svg", '<svg style="background: white"', 1), encoding="utf-8")


def text_table(table: Table, rows: Sequence[Row]) -> str:
    """A table for a terminal: columns aligned by spaces."""
    lines = [[column.title for column in table.columns], *(cells for _, cells in _filled(table, rows))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    pads = [str.ljust if column.format in LEFT else str.rjust for column in table.columns]
    return "\n".join("  ".join(pad(c, w) for pad, c, w in zip(pads, line, widths, strict=True)).rstrip() for line in lines)


def markdown_page(
    rows: Sequence[Row], tables: Sequence[Table], figures: Sequence[Figure], title: str, notice: str, made: str = ""
) -> str:
    parts = [f"# {title}", made, _emphasis(notice)]
    for table in tables:
        parts += [f"## {table.title}", table.caption, _emphasis(notice), markdown_table(table, rows)]
    for figure in figures:
        parts += [f"## {figure.title}", figure.caption, _emphasis(notice), f"![{figure.title}](figures/{figure.name}.svg)"]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table, rows: Sequence[Row]) -> str:
    """A table in GitHub's Markdown; bars and line breaks in cells are escaped, commands are code."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"

    rules = [":--" if column.format in LEFT else "--:" for column in table.columns]
    body = [
        line([f"`{cell}`" if column.format == "code" else cell for column, cell in zip(table.columns, cells, strict=True)])
        for _, cells in _filled(table, rows)
    ]
    return "\n".join([line([column.title for column in table.columns]), line(rules), *body])


def csv_text(rows: Sequence[Row], tables: Sequence[Table], notice: str) -> str:
    """One line a row under the keys of all tables' columns; numbers as they are, empty where missing, config as JSON."""
    keys = dict.fromkeys(["name", "kind", *(column.key for table in tables for column in table.columns), "config"])
    text = io.StringIO()
    writer = csv.DictWriter(text, [*keys, "notice"], restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(fields(row) | {"config": json.dumps(row.config), "notice": notice})
    return text.getvalue()


def json_text(results: Results) -> str:
    """All values of all rows, as they are."""
    return json.dumps(results._asdict() | {"rows": [dataclasses.asdict(row) for row in results.rows]}, indent=1) + "\n"


def read_results(path: Path) -> Results:
    given = json.loads(path.read_text(encoding="utf-8"))
    return Results(**given | {"rows": [Row(**row) for row in given["rows"]]})


def html_page(
    rows: Sequence[Row], tables: Sequence[Table], figures: Sequence[Figure], title: str, notice: str, made: str = ""
) -> str:
    """One page that refers to nothing outside itself."""
    style = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    summary, *others = (html_table(table, rows, notice) for table in tables)
    drawings = "\n".join(_html_figure(figure, notice) for figure in figures)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>
{style}</style>
</head>
<body>
<h1>{html.escape(title)}</h1>
<p class="caption">{html.escape(made)}</p>
{_html_notice(notice)}
{summary}
<div class="figures">
{drawings}
</div>
{"".join(others)}
</body>
</html>
"""


def html_table(table: Table, rows: Sequence[Row], notice: str) -> str:
    titles = "".join(f'<th scope="col" class="{column.format}">{html.escape(column.title)}</th>' for column in table.columns)
    body = ""
    for row, cells in _filled(table, rows):
        head, *rest = (html.escape(cell) for cell in cells)
        data = (f'<td class="{column.format}">{c}</td>' for column, c in zip(table.columns[1:], rest, strict=True))
        body += f'<tr class="{row.kind}"><th scope="row">{head}</th>{"".join(data)}</tr>\n'
    return f"""<section>
<h2>{html.escape(table.title)}</h2>
{_html_notice(notice)}
<p class="caption">{html.escape(table.caption)}</p>
<div class="scroll"><table>
<thead><tr>{titles}</tr></thead>
<tbody>
{body}</tbody>
</table></div>
</section>
"""


def _html_figure(figure: Figure, notice: str) -> str:
    label = html.escape(f"{figure.title}. {figure.caption}", quote=True)
    drawing = figure.svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).replace(INK, "currentColor")
    return f"""<figure>
<h3>{html.escape(figure.title)}</h3>
{_html_notice(notice)}
{drawing}
<figcaption class="caption">{html.escape(figure.caption)}</figcaption>
</figure>"""


def _html_notice(notice: str) -> str:
    return f'<p class="notice">{html.escape(notice)}</p>' if notice else ""


def _emphasis(notice: str) -> str:
    return f"*{notice}*" if notice else ""


def _filled(table: Table, rows: Sequence[Row]) -> list[tuple[Row, list[str]]]:
    """The rows that have something to say in this table beside their name, and their cells."""
    shown = [(row, fields(row)) for row in rows]
    lines = [(row, [show(flat.get(column.key), column.format) for column in table.columns]) for row, flat in shown]
    return [(row, cells) for row, cells in lines if any(cell != MISSING for cell in cells[1:])]
