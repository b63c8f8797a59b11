"""docs/api.md is made from the source: public names, arguments, first paragraphs."""

from studies.api import HEAD, api_page

SOURCE = '''"""Sums.

More of them.
"""

__all__ = ["total"]


def total(values: list[int], *, start: int = 0) -> int:
    """Returns the sum of `values`
    and `start`.

    Args:
      start: what is added.
    """


def _hidden():
    """Is private."""


def bare():
    pass


class Sum(tuple):
    """A sum."""

    @property
    def value(self) -> int:
        """Its value."""

    @classmethod
    def of(cls, *values: int, **options) -> "Sum":
        """Returns the sum of some values."""

    def __len__(self):
        """Is no name to look up."""
'''

PAGE = """
## seqarch.stats.sums

Sums.

- exports `total`
- `total(values, *, start=0)`: Returns the sum of `values` and `start`.
- `class Sum(tuple)`: A sum.
  - `value`: Its value.
  - `of(*values, **options)`: Returns the sum of some values.
"""


def test_the_page_has_what_is_public_and_documented(tmp_path):
    room = tmp_path / "seqarch" / "stats"
    room.mkdir(parents=True)
    for package in (room, room.parent):
        (package / "__init__.py").write_text('"""A room."""\n')
    (room / "sums.py").write_text(SOURCE)
    assert api_page(tmp_path) == HEAD + PAGE
