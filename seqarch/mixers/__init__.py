"""The registry of mixers, family by family.

A mixer is a file with a subclass of `seqarch.mixers.base.SequenceMixer`, and an entry in FAMILIES.
One outside the repository is named `package.module:Class` instead.
"""

import contextlib
import os
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path

from seqarch.errors import UserError, first_line, unknown
from seqarch.mixers.base import SequenceMixer

# Figures draw a family in one colour.
FAMILIES = {
    "recurrent": {
        "gru": "seqarch.mixers.gru:GRU",
        "lstm": "seqarch.mixers.lstm:LSTM",
        "min_gru": "seqarch.mixers.min_gru:MinGRU",
        "min_lstm": "seqarch.mixers.min_lstm:MinLSTM",
        "rg_lru": "seqarch.mixers.rg_lru:RGLRU",
        "slstm": "seqarch.mixers.slstm:SLSTM",
    },
    "attention": {
        "attention": "seqarch.mixers.attention:Attention",
        "mla": "seqarch.mixers.mla:MLA",
        "sparse": "seqarch.mixers.sparse:Sparse",
        "lsh": "seqarch.mixers.lsh:LSH",
        "nsa": "seqarch.mixers.nsa:NSA",
    },
    "linear attention": {
        "linear_attention": "seqarch.mixers.linear_attention:LinearAttention",
        "retnet": "seqarch.mixers.retnet:RetNet",
        "gla": "seqarch.mixers.gla:GLA",
        "mlstm": "seqarch.mixers.mlstm:MLSTM",
        "deltanet": "seqarch.mixers.deltanet:DeltaNet",
        "deltaproduct": "seqarch.mixers.deltaproduct:DeltaProduct",
        "gated_deltanet": "seqarch.mixers.gated_deltanet:GatedDeltaNet",
        "kda": "seqarch.mixers.kda:KDA",
        "rwkv7": "seqarch.mixers.rwkv7:RWKV7",
    },
    "state space": {
        "mamba": "seqarch.mixers.mamba:Mamba",
        "mamba2": "seqarch.mixers.mamba2:Mamba2",
        "s4d": "seqarch.mixers.s4d:S4D",
        "s5": "seqarch.mixers.s5:S5",
    },
}
MIXERS = {name: where for family in FAMILIES.values() for name, where in family.items()}

# A directory that has all files of one of these is a run's, or a comparison's.
RUN_FILES = (
    ("config.json", "run.json"),
    ("config.json", "checkpoints"),
    ("records.jsonl",),
    ("baselines.jsonl",),
)


def resolve_mixer(name: str) -> type[SequenceMixer]:
    """Returns the class of a mixer.

    Args:
      name: in MIXERS, or `package.module:Class`, which is imported.

    Raises:
      UserError: for an unknown name, a failing import, and a class that is no SequenceMixer.
    """
    if ":" not in name:
        if name not in MIXERS:
            raise unknown("mixer", name, MIXERS)
        return pkgutil.resolve_name(MIXERS[name])
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise UserError(f"cannot load the mixer {name!r}; give package.module:Class")
    _search_here()
    try:
        mixer = pkgutil.resolve_name(name)
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
    except (Exception, SystemExit) as error:  # raised by the module's own code
        raise UserError(
            f"cannot load the mixer {name!r}: its module fails with {type(error).__name__}: "
            f"{first_line(error)}; fix it, so that python -c 'import {module}' passes"
        ) from error


def check_import(module: str, allowed: Iterable[str], run_dir: Path) -> None:
    """Checks that a module which a run's config names may be imported; imports nothing.

    Args:
      module: its dotted name.
      allowed: names of modules and packages that the user allows, with all modules below them.
      run_dir: the run.

    Raises:
      UserError: where the module is neither imported already nor allowed, and where it would be
        imported from inside a run directory.
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
    """Adds the working directory to the places where modules are found.

    Never a run directory, and only once a mixer is named by its module, so that no other import,
    such as that of an optional package which is not installed, finds a module there.
    """
    with contextlib.suppress(FileNotFoundError):  # the directory was removed
        here = Path.cwd()
        if str(here) not in sys.path and not _run_around(here):
            sys.path.append(str(here))


def _places(module: str) -> Iterator[Path]:
    """Yields where `module` and the packages around it are found; runs none of them."""
    path = None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, path)
        if spec is None:
            return
        path = spec.submodule_search_locations
        yield from (Path(place).resolve() for place in [*(path or ()), spec.origin] if place)


def _run_around(place: Path, run_dir: Path | None = None) -> Path | None:
    """Returns the run directory, or directory of a comparison, that `place` is in; None: none.

    `run_dir` counts as one, whatever it holds.
    """
    for parent in (place, *place.parents):
        if parent == run_dir or any(
            all((parent / name).exists() for name in names) for names in RUN_FILES
        ):
            return parent
    return None
