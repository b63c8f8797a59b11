"""What scripts/tune.py found to be the fastest forms on a device: a file from which method="auto"
is resolved there.

    {"NVIDIA H100 80GB HBM3, jaxlib 0.10.2": {"mamba": {"method": "chunked", "chunk": 128}}}

The key keeps what was measured on one kind of device, such as the CPU, from any other, and from
another compiler.
"""

import os
from pathlib import Path
from typing import Any

import jax
import jaxlib

from seqarch.errors import UserError, unknown
from seqarch.files import cache_directory, local_path, read_json, write_json
from seqarch.mixers import resolve_mixer
from seqarch.patterns import Layer, parse_pattern

Choices = dict[str, dict[str, Any]]  # by mixer: options of its constructor, "method" among them


def path() -> Path:
    """$SEQARCH_FORMS, or seqarch/forms.json in the user's cache directory."""
    return local_path(os.environ.get("SEQARCH_FORMS") or cache_directory() / "forms.json")


def tuned(device: jax.Device) -> Choices:
    """What was found for devices of this kind; {} where nothing was, and in a cluster, whose hosts
    may have other files.

    Raises UserError where the file is damaged or names what there is not.
    """
    return {} if jax.process_count() > 1 else _read(path()).get(_key(device), {})


def record(device: jax.Device, choices: Choices) -> Path:
    """Adds `choices` to the file, in the place of earlier ones of the same mixers; returns its
    path.

    A damaged file is written anew.
    """
    file = path()
    try:
        known = _read(file)
    except UserError:  # it is of no use to anyone
        known = {}
    known[_key(device)] = known.get(_key(device), {}) | choices
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, known)
    except OSError as error:
        raise UserError(
            f"cannot write {file}: {error.strerror}; set SEQARCH_FORMS to a file that can be "
            "written"
        ) from error
    return file


def _key(device: jax.Device) -> str:
    return f"{device.device_kind}, jaxlib {jaxlib.__version__}"


def _read(file: Path) -> dict[str, Choices]:
    mend = "delete it, or write it anew with scripts/tune.py"
    try:
        known = read_json(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(
            f"cannot read the tuned forms in {file}: {error.strerror}; set XDG_CACHE_HOME to a "
            "directory of your own"
        ) from error
    except ValueError as error:
        raise UserError(f"cannot read the tuned forms in {file}: {error}; {mend}") from error
    try:
        for mixer, options in [pair for choices in known.values() for pair in choices.items()]:
            if ":" in mixer:  # of another program's own, which may not be importable here
                continue
            forms = resolve_mixer(mixer).forms or {}
            parse_pattern(str(Layer(mixer, tuple(options.items()))))
            if options.get("method") not in forms:
                raise unknown(f"form of {mixer}", str(options.get("method")), forms)
    except (UserError, AttributeError, TypeError) as error:
        raise UserError(f"the tuned forms in {file} are damaged: {error}; {mend}") from error
    return known
