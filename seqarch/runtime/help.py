"""The text of --help: the program, its flags and, where it takes a config, all fields and options.

Meanings are read from the docstrings of the dataclasses in seqarch/config/fields.py and of the
mixers, as lines "name: meaning"; defaults are those of the dataclasses and constructors.
"""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from absl import flags


def help_text(program: str) -> str:
    """Returns the help of a program, which begins with the docstring of its module."""
    parts = [(sys.modules["__main__"].__doc__ or "").strip(), _flags_text(program)]
    if "config" in flags.FLAGS:
        parts += [_fields_text(), _mixers_text()]
    return "\n\n".join(parts)


def meanings(documented: type, names: Iterable[str]) -> dict[str, str]:
    """Returns the meaning of each of `names` in a class's docstring, as one line each.

    A meaning begins with a line "name: ..." and ends before the next one or at an empty line. Names
    without one are left out.
    """
    text = inspect.cleandoc(documented.__doc__ or "")
    pattern = rf"^[ ]*({'|'.join(map(re.escape, names))}): "
    found = list(re.finditer(pattern, text, re.MULTILINE)) if names else []
    ends = [*(match.start() for match in found), len(text)][1:]
    said = {}
    for match, end in zip(found, ends, strict=True):
        paragraph = text[match.end() : end].split("\n\n")[0]
        said.setdefault(match[1], " ".join(paragraph.split()).rstrip(";."))
    return said


def config_fields(config: type, where: str = "") -> Iterator[tuple[str, Any, str]]:
    """Yields (dotted name, default, meaning) for every field of a config's dataclass."""
    fields = dataclasses.fields(config)
    said = meanings(config, [field.name for field in fields])
    for field in fields:
        if dataclasses.is_dataclass(field.type):
            yield from config_fields(field.type, f"{where}{field.name}.")
        else:
            made = field.default_factory
            default = field.default if made is dataclasses.MISSING else made()
            yield where + field.name, default, said.get(field.name, "")


def mixer_options(mixer: str) -> Iterator[tuple[str, Any, str]]:
    """Yields (name, default, meaning) for every option of a mixer in MIXERS."""
    from seqarch.mixers import resolve_mixer
    from seqarch.patterns import options_of

    options, made = options_of(mixer), resolve_mixer(mixer)
    defaults = inspect.signature(made.__init__).parameters
    said = meanings(made, options)
    for name in options:
        yield name, defaults[name].default, said.get(name, "")


def _flags_text(program: str) -> str:
    lines = ["Flags:"]
    for flag in flags.FLAGS.get_key_flags_for_module(program):
        default = "" if flag.default in (None, "", []) else f" (default: {flag.default_as_str})"
        lines.append(f"  --{flag.name}: {' '.join(flag.help.split())}{default}")
    return "\n".join(lines)


def _fields_text() -> str:
    from seqarch.config import Config

    lines = [
        "Config fields, with the defaults of seqarch/config/fields.py; a config file sets its own:"
    ]
    for name, default, meaning in config_fields(Config):
        shown = ",".join(default) if isinstance(default, dict) else default
        lines.append(f"  --config.{name}={shown}: {meaning}")
    return "\n".join(lines)


def _mixers_text() -> str:
    from seqarch.mixers import MIXERS

    lines = ["Mixers and their options, as in --config.model.mixer='attention(window=64)':"]
    for mixer in MIXERS:
        lines.append(f"  {mixer}")
        for name, default, meaning in mixer_options(mixer):
            shown = getattr(default, "__name__", default)
            lines.append(f"    {name}={shown}: {meaning}".rstrip(": "))
    return "\n".join(lines)
