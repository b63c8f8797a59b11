"""Entries of a config's lists, such as members and probes: "name = value; field=value; ..."."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from seqarch.errors import UserError
from seqarch.patterns import literal


class Entry(NamedTuple):
    """What a text of a config's list says.

    Attributes:
      name: the name that it gives; "" where it gives none.
      value: a member's layer pattern, a probe's task; "" where it only sets fields.
      settings: values of fields by name.
      text: all of it.
    """

    name: str
    value: str
    settings: dict[str, Any]
    text: str

    @property
    def title(self) -> str:
        """The name, which is the text where it gives none."""
        return self.name or self.text


def check_given(what: str, fields: Iterable[str], given: Mapping[str, str]) -> None:
    """Checks that an entry sets no field whose value comes from elsewhere, and would be lost.

    Args:
      what: the entry, for errors.
      fields: names of the fields that it sets.
      given: where other values come from, by the name of the field.

    Raises:
      UserError: where it sets such a field.
    """
    for field in fields:
        if field in given:
            raise UserError(f"{what} sets {field}, which comes from {given[field]}; leave it out")


def parse_entry(text: str, kind: str = "member") -> Entry:
    """Reads a text such as "name = pattern; field=value"; errors call it a `kind`.

    Raises:
      UserError: where it cannot be read.
    """
    pattern, *rest = (part.strip() for part in text.split(";"))
    name, pattern = re.fullmatch(r"(?:([^=(,:/]+?)\s*=)?\s*(.*)", pattern).groups()
    if name and not name.strip("."):
        raise UserError(f"the {kind} {text!r} has no name that a directory can have; give another")
    settings: dict[str, Any] = {}
    for setting in rest:
        field, equals, value = (part.strip() for part in setting.partition("="))
        settings[field] = literal(value)
        if not (equals and field and value):
            raise UserError(
                f"cannot read {setting!r} in the {kind} {text!r}; write 'field=value' after a ';'"
            )
    return Entry(name or "", pattern, settings, "; ".join([pattern, *rest]))
