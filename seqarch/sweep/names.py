"""Names of run directories, made from the fields that a sweep sets."""

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

KEPT = "()=+[]"  # characters of a value that need no escape, beside letters, digits and "_.-"
LONGEST_VALUE = 60  # characters; the rest is replaced by a digest
LONGEST_NAME = 200  # characters; file systems take 255 bytes
SEED = "seed."


def run_name(fields: Mapping[str, Any], order: Mapping[str, Any]) -> str:
    """Returns a name such as "model.mixer=gru,optim.lr=0.001,seed.model=0".

    It depends on the fields and their values alone, not on other runs of the sweep. Different
    fields or values have different names.

    Args:
      fields: values by dotted name.
      order: has the names of fields in the order in which they are to stand; seeds stand last.
    """
    places = {name: place for place, name in enumerate(order)}
    names = sorted(fields, key=lambda name: (name.startswith(SEED), places.get(name, -1), name))
    return _short(",".join(f"{name}={_text(fields[name])}" for name in names), LONGEST_NAME)


def _text(value: Any) -> str:
    """Returns a value as text that a path can hold; its commas become "+"."""
    text = value if isinstance(value, str) else repr(value).replace(" ", "").replace("e+", "e")
    escaped = quote(text.replace("+", "\0"), safe=KEPT + ",")
    return _short(escaped.replace(",", "+").replace("%00", "%2B"), LONGEST_VALUE)


def _short(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return f"{text[: longest - 11]}~{digest}"
