"""Reads a grid such as "optim.lr=1e-3,3e-3 seed.model=0..4" as a sweep."""

import ast
import re
from typing import Any

from seqarch.config import Config
from seqarch.config.values import check_field, values_of
from seqarch.errors import UserError
from seqarch.sweep import hyper
from seqarch.sweep.hyper import Sweep

EXAMPLE = "optim.lr=1e-3,3e-3 seed.model=0..4"
PAIRS = {"(": ")", "[": "]", "{": "}"}


def parse_grid(text: str, base: Config) -> Sweep:
    """Returns every combination of the values that a grid gives.

    Fields are separated by spaces, values by commas; 0..4 stands for 0, 1, 2, 3 and 4. A value
    with commas or spaces of its own is put in quotes, such as 'mamba,attention'. The fields are
    those of `base`.

    Raises:
      UserError: for a grid that cannot be read, an unknown field, and one that is given twice.
    """
    given: dict[str, list[Any] | range] = {}
    for part in filter(None, _split(text, r"\s")):
        field, equals, values = part.partition("=")
        if not (equals and field and values):
            raise _malformed(part)
        check_field(field, base)
        if field in given:
            raise UserError(f"--grid gives {field} twice; write {field}=VALUE,VALUE")
        given[field] = _values(part, field, values, base)
    return hyper.product([hyper.sweep(field, values) for field, values in given.items()])


def _values(part: str, field: str, text: str, base: Config) -> list[Any]:
    known, found = values_of(base), []
    for value in _split(text, ","):
        if match := re.fullmatch(r"(\d+)\.\.(\d+)", value):
            low, high = map(int, match.groups())
            hyper.check_size(high - low + 1)
            if low > high:
                raise _malformed(part)
            found += range(low, high + 1)
        elif value:
            found.append(_value(value, known.get(field)))
        else:
            raise _malformed(part)
    return found


def _value(text: str, known: Any) -> Any:
    """Returns a value as the field's type, or as text where it cannot be; parsing then says so."""
    if text[0] in "\"'" and text[-1] == text[0] and len(text) > 1:
        return text[1:-1]
    if isinstance(known, str):
        return text
    if isinstance(known, bool) and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return float(text) if isinstance(known, float) else ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _split(text: str, separator: str) -> list[str]:
    """Splits at a separator, a pattern, outside quotes and brackets."""
    parts, closing = [""], []
    for character in text:
        inside = bool(closing)
        if inside and character == closing[-1]:
            closing.pop()
        elif character in "\"'" and not (inside and closing[-1] in "\"'"):
            closing.append(character)
        elif character in PAIRS and not (inside and closing[-1] in "\"'"):
            closing.append(PAIRS[character])
        if not inside and re.fullmatch(separator, character):
            parts.append("")
        else:
            parts[-1] += character
    if closing:
        raise _malformed(text, f"it has no closing {closing[-1]}")
    return parts


def _malformed(part: str, why: str = "") -> UserError:
    reason = f": {why}" if why else ""
    return UserError(f"cannot read {part!r} in --grid{reason}; write --grid={EXAMPLE!r}")
