"""The pages of docs/ and README.md, as their records say: whole reports, and tables within pages
that are written by hand.

<!-- results/records.jsonl: At a glance -->
...                                             # replaced by the table of that title
<!-- end -->
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.tables import bench_page
from seqarch import records
from seqarch.errors import UserError, unknown
from seqarch.files import write_text
from seqarch.report import members
from seqarch.report.costs import costs_page
from seqarch.report.pages import Page, comparison_page, markdown_page, svg_text
from seqarch.report.render import markdown_table
from seqarch.report.tables import Table

REGION = re.compile(r"(<!-- ([\w./-]+\.jsonl): (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def render(root: Path, *, write: bool) -> list[Path]:
    """Renders every generated file below `root`.

    Returns:
      The files that were, or with write=False are, out of date.

    Raises:
      UserError: where a page names records or a table that there are not.
    """
    pages = {path.parent: _page(path) for path in sorted((root / "docs").rglob(records.NAME))}
    stale = []
    for path, text in _files(root, pages):
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(path)
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, text)
    return stale


def _page(path: Path) -> Page:
    about, results = records.read(path)
    if about.get("kind") == "benchmark":
        return bench_page(results[0])
    if about.get("kind") == "costs":
        return costs_page(about["title"], results)
    return comparison_page(members.read(path))


def _files(root: Path, pages: dict[Path, Page]) -> Iterator[tuple[Path, str]]:
    """Each generated file with the text that it must have."""
    for directory, page in pages.items():
        yield directory / "report.md", markdown_page(page)
        for figure in page.figures:
            yield directory / "figures" / f"{figure.name}.svg", svg_text(figure)
    tables = {
        directory: {table.title: table for table in page.tables}
        for directory, page in pages.items()
    }
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = path.read_text("utf-8")
        if REGION.search(text):
            yield path, REGION.sub(_table(path, root / "docs", tables), text)


def _table(
    page: Path, docs: Path, tables: dict[Path, dict[str, Table]]
) -> Callable[[re.Match], str]:
    def replaced(match: re.Match) -> str:
        begin, name, title, _, end = match.groups()
        found = tables.get((docs / name).parent)
        if found is None:
            raise UserError(f"{page} shows a table of docs/{name}, which there is not")
        if title not in found:
            raise unknown(f"table in docs/{name}:", title, found)
        return f"{begin}\n{markdown_table(found[title])}\n\n{end}"

    return replaced
