"""The files of a report: report.md, report.html, report.tex, figures/*.svg and two of CSV.

paths = write_report(comparison, directory)
"""

import csv
import html
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from seqarch import records
from seqarch.errors import printable_line
from seqarch.files import write_text
from seqarch.records import Results
from seqarch.report import members
from seqarch.report.abilities import probe_members
from seqarch.report.comparison import comparison_figures, comparison_tables
from seqarch.report.members import Comparison
from seqarch.report.notices import notices
from seqarch.report.origin_tables import run_table
from seqarch.report.render import cells, escape, latex_table, markdown_table
from seqarch.report.style import INK, Figure
from seqarch.report.tables import Table

# Columns of results.csv.
CSV = ("member", "kind", "seeds", "step", "split", "evaluator", "metric", "at", "n", "value")
CSV += ("status", "note", "revision")


class Page(NamedTuple):
    """What a report shows.

    Attributes:
      title: the report's title.
      tables: its tables; the first one stands before the figures.
      figures: its figures.
      notice: what a reader must know before believing a number; it stands once, at the top.
      made: how all of it was made, if no table says so.
    """

    title: str
    tables: Sequence[Table]
    figures: Sequence[Figure] = ()
    notice: str = ""
    made: str = ""


def comparison_page(comparison: Comparison) -> Page:
    """Returns the page of a comparison."""
    title, notice, command = map(printable_line, comparison[:3])
    notice = "; ".join([*([notice] if notice else []), *notices(comparison)])
    tables, figures = comparison_tables(comparison), comparison_figures(comparison)
    return Page(title, tables, figures, notice, f"Made by {command}." if command else "")


def write_report(comparison: Comparison, directory: Path) -> list[Path]:
    """Writes a comparison's records and its report; returns their paths."""
    path = directory / records.NAME
    directory.mkdir(parents=True, exist_ok=True)
    members.write(path, comparison)
    pages = write_page(comparison_page(comparison), directory)
    tables = [write_runs(comparison, directory), write_csv(comparison.results, directory)]
    return [*pages, *tables, path]


def write_runs(comparison: Comparison, directory: Path) -> Path:
    """Writes runs.csv, a line for each run, also on probes, with its command; returns its path."""
    members = (*comparison.members, *probe_members(comparison))
    table, path = run_table(comparison._replace(members=members)), directory / "runs.csv"
    titles, rows = ([], []) if table is None else (table.columns, table.rows)
    write_text(path, csv_text([each.title for each in titles], [row.cells for row in rows]))
    return path


def write_page(page: Page, directory: Path) -> list[Path]:
    """Writes report.md with figures/*.svg, report.html and report.tex; returns their paths."""
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    for figure in page.figures:
        write_svg(figure, directory / "figures" / f"{figure.name}.svg")
    files = {
        "report.md": markdown_page(page),
        "report.html": html_page(page),
        "report.tex": latex_page(page),
    }
    for name, text in files.items():
        write_text(directory / name, text)
    return [directory / name for name in files]


def write_csv(results: Iterable[Results], directory: Path) -> Path:
    """Writes results.csv, a line for each record with its unformatted value; returns its path."""
    lines = []
    for source, found in results:
        seeds = ", ".join(f"{name} {seed}" for name, seed in source.seeds.items())
        for record in found:
            value = json.dumps(record.value) if isinstance(record.value, list) else record.value
            about = (source.member, source.kind, seeds, source.step, source.split)
            measured = (record.evaluator, record.metric, json.dumps(record.at), record.n, value)
            lines.append((*about, *measured, record.status, record.note, source.revision))
    path = directory / "results.csv"
    write_text(path, csv_text(CSV, lines))
    return path


def csv_text(titles: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Returns lines of unformatted values as CSV; control characters of texts are escaped."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(titles)
    for line in lines:
        writer.writerow(printable_line(each) if isinstance(each, str) else each for each in line)
    return text.getvalue()


def write_svg(figure: Figure, path: Path) -> None:
    """Writes a drawing as a file of its own."""
    write_text(path, svg_text(figure))


def svg_text(figure: Figure) -> str:
    """Returns a drawing with a white ground, since a page in another colour may show it."""
    return figure.svg.replace("<svg", '<svg style="background: white"', 1)


def markdown_page(page: Page) -> str:
    """Returns a page in Markdown, which shows its figures from figures/*.svg."""
    notice = f"*{escape(page.notice)}*" if page.notice else ""
    parts = [f"# {escape(page.title)}", notice, escape(page.made)]
    for table in page.tables[:1]:
        parts += _markdown_section(table)
    for figure in page.figures:
        title = escape(figure.title)
        image = f"![{title}](figures/{figure.name}.svg)"
        parts += [f"## {title}", image, escape(figure.caption)]
    for table in page.tables[1:]:
        parts += _markdown_section(table)
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_section(table: Table) -> list[str]:
    return [f"## {escape(table.title)}", escape(table.caption), markdown_table(table)]


def latex_page(page: Page) -> str:
    """Returns the tables alone, to be pasted into a paper."""
    return "\n\n".join(f"% {table.title}\n{latex_table(table)}" for table in page.tables) + "\n"


def html_page(page: Page) -> str:
    """Returns a page in HTML that refers to nothing outside itself."""
    here = Path(__file__)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters["printable"] = printable_line
    environment.filters["zip"] = lambda first, second: list(zip(first, second, strict=True))
    template = environment.from_string(here.with_name("page.html.jinja").read_text("utf-8"))
    style = here.with_suffix(".css").read_text("utf-8")
    return template.render(page._asdict() | dict(style=style, cells=cells, drawing=_drawing))


def _drawing(figure: Figure) -> str:
    """Returns a figure's element in the colours of the page, with a text for screen readers."""
    label = html.escape(f"{figure.title} {figure.caption}", quote=True)
    labelled = figure.svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return labelled.replace(INK, "currentColor")
