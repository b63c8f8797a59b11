"""The functions by which a config file's `get_hyper` says which runs a sweep has.

    def get_hyper(h):
        return h.product([
            h.sweep("optim.lr", (1e-3, 3e-3, 1e-2)),
            h.zipit([h.sweep("model.dim", (64, 128)), h.sweep("model.layers", (4, 2))]),
            h.chainit([h.sweep("model.mixer", ("gru", "mamba")), [{"model.conv": 4}]]),
        ])

`h` is this module. A sweep is a list of dicts, one for each run, with values of fields by dotted
name, so a `get_hyper` may also build it by itself. The names are those of big_vision's configs.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from seqarch.config.values import Fields
from seqarch.errors import UserError

Sweep = list[Fields]

MOST_RUNS = 10_000  # of a sweep; more are a slip of the pen


def sweep(field: str, values: Iterable[Any]) -> Sweep:
    """Returns a run for each value of a field."""
    return [{field: value} for value in values]


def product(sweeps: Iterable[Sequence[Fields]]) -> Sweep:
    """Returns every combination of the runs of several sweeps; the last one varies fastest.

    Raises:
      UserError: where two of the sweeps set the same field, and for more than MOST_RUNS.
    """
    sweeps = [list(each) for each in sweeps]
    check_size(math.prod(map(len, sweeps)))
    made: Sweep = [{}]
    for each in sweeps:
        made = [_joined(first, second) for first in made for second in each]
    return made


def zipit(sweeps: Iterable[Sequence[Fields]]) -> Sweep:
    """Returns the first runs of several sweeps as one run, then the second ones, and so on.

    Raises:
      UserError: where the sweeps differ in length, or set the same field.
    """
    sweeps = [list(each) for each in sweeps]
    lengths = [len(each) for each in sweeps]
    if len(set(lengths)) > 1:
        raise UserError(f"zipit has sweeps of {lengths} runs; give sweeps of the same length")
    return [product([[each] for each in runs])[0] for runs in zip(*sweeps, strict=True)]


def chainit(sweeps: Iterable[Sequence[Fields]]) -> Sweep:
    """Returns the runs of several sweeps, one after the other."""
    return [fields for each in sweeps for fields in each]


def check_size(runs: int) -> None:
    """Raises UserError for more than MOST_RUNS."""
    if runs > MOST_RUNS:
        raise UserError(f"the sweep has {runs:,} runs; give at most {MOST_RUNS:,}")


def check_sweep(given: Any) -> Sweep:
    """Returns what a `get_hyper` returned as a list.

    Raises:
      UserError: where it is no sweep.
    """
    try:
        runs = None if isinstance(given, (str, dict)) else list(given)
    except TypeError:
        runs = None
    if runs is None or not all(_is_fields(each) for each in runs):
        raise UserError(
            f"get_hyper gives {given!r:.60}; return a list of dicts by dotted fields, as h.product "
            "and h.sweep make them"
        )
    check_size(len(runs))
    return runs


def _is_fields(given: Any) -> bool:
    return isinstance(given, dict) and all(isinstance(name, str) for name in given)


def _joined(first: Fields, second: Fields) -> Fields:
    if twice := sorted(first.keys() & second.keys()):
        raise UserError(f"the sweep sets {twice[0]} twice in one run; vary it in one place")
    return first | second
