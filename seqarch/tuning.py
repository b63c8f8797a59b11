"""The fastest forms on a device, which scripts/tune.py writes for method="auto".

    {"NVIDIA H100 80GB HBM3, jaxlib 0.10.2": {"mamba": {"method": "chunked", "chunk": 128}}}

What was timed on this machine is in the user's file, for one kind of device and one version of the
compiler. What compilers estimate for absent devices comes with the package, for kinds of devices.
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

ESTIMATES = Path(__file__).with_name("tuned.json")  # the choices that come with the package
Choices = dict[str, dict[str, Any]]  # options of a mixer, "method" among them, by mixer


def path() -> Path:
    """Returns the file: $SEQARCH_FORMS, or seqarch/forms.json in the user's cache directory."""
    return local_path(os.environ.get("SEQARCH_FORMS") or cache_directory() / "forms.json")


def tuned(device: jax.Device) -> Choices:
    """Returns the fastest options of each mixer on devices of this kind, as far as known.

    What was timed goes before what was estimated. In a cluster, whose hosts may have different
    files, nothing was timed.

    Raises:
      UserError: where the file is damaged, or names an unknown mixer or form.
    """
    estimated = _read(ESTIMATES).get(device.device_kind, {})
    if jax.process_count() > 1:
        return estimated
    return estimated | _read(path()).get(_key(device), {})


def record_estimates(device: jax.Device, choices: Choices) -> Path:
    """Writes `choices` for a kind of device into the package's file and returns its path."""
    known = _read(ESTIMATES)
    known[device.device_kind] = known.get(device.device_kind, {}) | choices
    write_json(ESTIMATES, known)
    return ESTIMATES


def record(device: jax.Device, choices: Choices) -> Path:
    """Writes `choices` into the file and returns its path.

    They replace earlier ones of the same mixers and device. A damaged file is replaced.

    Raises:
      UserError: where the file cannot be written.
    """
    file = path()
    try:
        known = _read(file)
    except UserError:  # of a damaged file nothing can be kept
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
    remedy = "delete it, or write it again with scripts/tune.py"
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
        raise UserError(f"cannot read the tuned forms in {file}: {error}; {remedy}") from error
    try:
        for choices in known.values():
            for mixer, options in choices.items():
                _check_choice(mixer, options)
    except (UserError, AttributeError, TypeError) as error:
        raise UserError(f"the tuned forms in {file} are damaged: {error}; {remedy}") from error
    return known


def _check_choice(mixer: str, options: dict[str, Any]) -> None:
    if ":" in mixer:  # a user's own mixer, which may not be importable here
        return
    forms = resolve_mixer(mixer).forms
    parse_pattern(str(Layer(mixer, tuple(options.items()))))
    known = (*forms, *forms.kernels) if forms else ()
    if options.get("method") not in known:
        raise unknown(f"form of {mixer}", str(options.get("method")), known)
