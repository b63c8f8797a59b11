"""docs/index.md lists every page, and what it lists is there."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_index_lists_every_page_and_no_other():
    linked = set(re.findall(r"\]\(([^)]+)\)", (DOCS / "index.md").read_text()))
    pages = {path.name for path in DOCS.glob("*.md")} - {"index.md"}
    assert pages <= linked
    assert all((DOCS / link).stat().st_size > 0 for link in linked)
