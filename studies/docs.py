"""The pages of docs/ and README.md: whole reports, and tables within pages that are written by
hand, as their records say; and the reference, as the source says.

<!-- results/records.jsonl: At a glance -->
...                                             # replaced by the table of that title
<!-- end -->
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.tables import bench_page
from seqarch import records
from seqarch.errors import UserError, unknown
from seqarch.files import write_text
from seqarch.report import members
from seqarch.report.costs import costs_page
from seqarch.report.figures import decoding_figure
from seqarch.report.pages import Page, comparison_page, markdown_page, svg_text
from seqarch.report.render import markdown_table
from seqarch.report.tables import Table
from studies import long_decode
from studies.api import api_page
from studies.claims.page import page as claims_page

REGION = re.compile(r"(<!-- ([\w./-]+\.jsonl?): (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CLAIMS, DECODED = "claims.json", "memory/long_decode.json"
Tables = Mapping[str, Mapping[str, Table]]  # by the file that they are made from, and their titles


def render(root: Path, *, write: bool) -> list[Path]:
    """Renders every generated file below `root`.

    Returns:
      The files that were, or with write=False are, out of date.

    Raises:
      UserError: where a page names records or a table that there are not.
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
    """Each generated file with the text that it must have."""
    docs, tables = root / "docs", {}
    for path in sorted(docs.rglob(records.NAME)):
        page = _page(path)
        tables[str(path.relative_to(docs))] = {table.title: table for table in page.tables}
        yield path.with_name("report.md"), markdown_page(page)
        for figure in page.figures:
            yield path.parent / "figures" / f"{figure.name}.svg", svg_text(figure)
    if (docs / DECODED).exists():
        found = long_decode.read(docs / DECODED)
        tables[DECODED] = {table.title: table for table in long_decode.tables(found)}
        points = {name: each["points"] for name, each in found.items()}
        yield (docs / DECODED).with_suffix(".svg"), svg_text(decoding_figure(points))
    if (docs / CLAIMS).exists():
        claims = json.loads((docs / CLAIMS).read_text("utf-8"))
        yield (docs / CLAIMS).with_suffix(".md"), claims_page(claims)
    if (root / "seqarch").is_dir():
        yield docs / "api.md", api_page(root)
    yield from _written_pages(root, tables)


def _page(path: Path) -> Page:
    about, results = records.read(path)
    if about.get("kind") == "benchmark":
        return bench_page(results[0])
    if about.get("kind") == "costs":
        return costs_page(about["title"], results)
    return comparison_page(members.read(path))


def _written_pages(root: Path, tables: Tables) -> Iterator[tuple[Path, str]]:
    """The pages that are written by hand, with the tables of their regions."""
    for path in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        text = path.read_text("utf-8") if path.exists() else ""
        if REGION.search(text):
            yield path, REGION.sub(_table(path, tables), text)


def _table(page: Path, tables: Tables) -> Callable[[re.Match], str]:
    def replaced(match: re.Match) -> str:
        begin, name, title, _, end = match.groups()
        if name not in tables:
            raise UserError(f"{page} shows a table of docs/{name}, which there is not")
        if title not in tables[name]:
            raise unknown(f"table in docs/{name}:", title, tables[name])
        return f"{begin}\n{markdown_table(tables[name][title])}\n\n{end}"

    return replaced
