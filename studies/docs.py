"""Renders the generated parts of README.md and docs/.

Reports are made from their records; the reference, the metrics and the tasks from the source. A
page that is written by hand has a region for each table of a report:

<!-- results/records.jsonl: At a glance -->
...                                             # replaced by the table of that title
<!-- end -->
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.bench import KIND as BENCHMARK
from benchmarks.estimates import KIND as FORMS
from benchmarks.forms_file import forms_page
from benchmarks.models import KIND as MODELS
from benchmarks.models_file import models_page
from benchmarks.newton_file import KIND as NEWTON
from benchmarks.newton_file import newton_page
from benchmarks.tables import bench_page
from seqarch import records
from seqarch.errors import UserError, unknown
from seqarch.files import write_text
from seqarch.records import Results
from seqarch.report import members
from seqarch.report.costs import costs_page
from seqarch.report.frontier_page import frontier_page
from seqarch.report.pages import Page, comparison_page, markdown_page, svg_text
from seqarch.report.render import markdown_table
from seqarch.report.tables import Table
from studies.api import api_page
from studies.architectures_page import architectures_page
from studies.claims.page import claims_page
from studies.decoding_page import decoding_page
from studies.metrics_page import metrics_page
from studies.reproductions.page import reproductions_page
from studies.reproductions.run import KIND as REPRODUCTIONS
from studies.tasks_page import tasks_page
from studies.walk import KIND as WALK
from studies.walk import walk_page

REGION = re.compile(r"(<!-- ([\w./-]+\.jsonl): (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Tables = Mapping[str, Mapping[str, Table]]  # by records file, then by title
# What makes the page of a records file, by its kind.
PAGES: Mapping[str, Callable[[dict, list[Results]], Page]] = {
    BENCHMARK: lambda _, results: bench_page(results[0]),
    "claims": lambda _, results: claims_page(results),
    "costs": lambda about, results: costs_page(about["title"], results),
    "decoding": lambda about, results: decoding_page(results, about["title"]),
    FORMS: forms_page,
    "frontier": lambda about, results: frontier_page(about["title"], results),
    MODELS: models_page,
    NEWTON: newton_page,
    REPRODUCTIONS: lambda _, results: reproductions_page(results),
    WALK: lambda _, results: walk_page(results),
}


def render(root: Path, *, write: bool) -> list[Path]:
    """Renders every generated file below `root`.

    Returns:
      The files that were out of date; with write=False they still are.

    Raises:
      UserError: where a page names records or a table that does not exist.
    """
    stale = []
    for path, text in _files(root):
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(path)
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, text)
    return stale


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    """Yields each generated file with the text that it must have."""
    docs, tables = root / "docs", {}
    for path in sorted(docs.rglob(records.NAME)):
        page = _page(path)
        tables[str(path.relative_to(docs))] = {table.title: table for table in page.tables}
        yield path.with_name("report.md"), markdown_page(page)
        for figure in page.figures:
            yield path.parent / "figures" / f"{figure.name}.svg", svg_text(figure)
    if (root / "seqarch").is_dir():
        yield docs / "api.md", api_page(root)
        yield docs / "architectures.md", architectures_page(docs)
        yield docs / "metrics.md", metrics_page()
        yield docs / "tasks.md", tasks_page()
    yield from _written_pages(root, tables)


def _page(path: Path) -> Page:
    """The page of a records file, by the kind that it says it is; without one, a comparison's."""
    about, results = records.read(path)
    made = PAGES.get(about.get("kind"))
    return made(about, results) if made else comparison_page(members.read(path))


def _written_pages(root: Path, tables: Tables) -> Iterator[tuple[Path, str]]:
    """Yields the pages that are written by hand, with the tables of their regions."""
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = path.read_text("utf-8") if path.exists() else ""
        if REGION.search(text):
            yield path, REGION.sub(_table(path, tables), text)


def _table(page: Path, tables: Tables) -> Callable[[re.Match], str]:
    """Returns the replacement of a region of `page`."""

    def replaced(match: re.Match) -> str:
        begin, name, title, _, end = match.groups()
        if name not in tables:
            raise UserError(f"{page} shows a table of docs/{name}, which does not exist")
        if title not in tables[name]:
            raise unknown(f"table in docs/{name}:", title, tables[name])
        return f"{begin}\n{markdown_table(tables[name][title])}\n\n{end}"

    return replaced
