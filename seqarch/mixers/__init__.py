"""The registry of mixers. A mixer outside the repository is named `package.module:Class`
instead.
"""

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from seqarch.errors import UserError, first_line, unknown
from seqarch.mixers.attention import Attention
from seqarch.mixers.base import SequenceMixer
from seqarch.mixers.gru import GRU
from seqarch.mixers.linear_attention import LinearAttention
from seqarch.mixers.mamba import Mamba

MIXERS: dict[str, type[SequenceMixer]] = {
    "attention": Attention,
    "gru": GRU,
    "linear_attention": LinearAttention,
    "mamba": Mamba,
}


RUN_FILES = (  # by which a directory is known as a run's, or as a comparison's
    ("config.json", "run.json"),
    ("config.json", "checkpoints"),
    ("records.jsonl",),
    ("baselines.jsonl",),
)


def resolve_mixer(name: str) -> type[SequenceMixer]:
    """The class of a mixer's name; raises UserError."""
    if ":" not in name:
        if name not in MIXERS:
            raise unknown("mixer", name, MIXERS)
        return MIXERS[name]
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise UserError(f"cannot load the mixer {name!r}; give package.module:Class")
    _search_here()
    try:
        mixer = getattr(importlib.import_module(module), attribute)
        if not (isinstance(mixer, type) and issubclass(mixer, SequenceMixer)):
            raise UserError(
                f"{name!r} is no mixer; give a subclass of seqarch.mixers.base.SequenceMixer"
            )
        return mixer
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UserError(
            f"cannot load the mixer {name!r}: {error}; give package.module:Class, importable "
            "from here"
        ) from error
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever the module does when it is imported
        raise UserError(
            f"cannot load the mixer {name!r}: its module fails with {type(error).__name__}: "
            f"{first_line(error)}; mend it, so that python -c 'import {module}' passes"
        ) from error


def check_import(module: str, allowed: Iterable[str], run_dir: Path) -> None:
    """Checks that a run directory may have `module` imported; imports nothing.

    Args:
        module: its dotted name, as a run's config has it.
        allowed: names of modules and packages that the user allows, each with all below it.
        run_dir: the run.

    Raises:
        UserError: where the module is neither imported already nor allowed, and where it would come
            from inside a run directory.
    """
    if module in sys.modules:
        return
    _search_here()
    if not any(f"{module}.".startswith(f"{name}.") for name in allowed):
        raise UserError(
            f"{run_dir} names the module {module}, which would be imported; if you trust it, "
            f"give --allow_modules={module} (in Python: allow_modules=({module!r},))"
        )
    for place in _places(module):
        if run := _run_around(place, Path(os.path.realpath(run_dir))):
            raise UserError(
                f"the module {module} is inside the run directory {run}, from which nothing is "
                "imported; move it elsewhere"
            )


def _search_here() -> None:
    """Has modules that the user names be found where the program was started, too.

    Never inside a run directory, and not before a mixer is asked for by its module: whatever else
    is imported, such as an optional package that is not installed, does not come from there.
    """
    with contextlib.suppress(FileNotFoundError):  # the directory was removed
        here = Path.cwd()
        if str(here) not in sys.path and not _run_around(here):
            sys.path.append(str(here))


def _places(module: str) -> Iterator[Path]:
    """Where `module` and the packages around it are found; runs none of them."""
    path = None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, path)
        if spec is None:
            return
        path = spec.submodule_search_locations
        yield from (Path(place).resolve() for place in [*(path or ()), spec.origin] if place)


def _run_around(place: Path, run_dir: Path | None = None) -> Path | None:
    """The directory of a run, or of a comparison, that `place` is in: `run_dir`, or another."""
    for parent in (place, *place.parents):
        if parent == run_dir or any(
            all((parent / name).exists() for name in names) for names in RUN_FILES
        ):
            return parent
    return None
