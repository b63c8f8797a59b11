"""Trackers: services that get the metrics of a run beside its own log, behind one interface.

    trackers = [open_tracker(name, run_dir, start, METRICS) for name in config.trackers]

A new tracker is a class with the methods of Tracker, and an entry in TRACKERS.
"""

import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from seqarch.errors import UserError, unknown

# "module:class" by name in config.trackers; a module is imported only if it is used.
TRACKERS = {
    "tensorboard": "seqarch.runtime.trackers.tensorboard:TensorBoard",
    "trackio": "seqarch.runtime.trackers.hosted:Trackio",
    "wandb": "seqarch.runtime.trackers.hosted:Wandb",
}


class Scalar(NamedTuple):
    """The description of a scalar that training logs.

    group: the heading in trackers, which show groups in the order of the table of metrics.
    unit: of the number; "" for a ratio or a count.
    help: one sentence beside the curve.
    """

    group: str
    unit: str
    help: str


class Tracker(Protocol):
    """A service that gets the metrics of one start of a run."""

    def log(self, row: Mapping[str, float]) -> None:
        """Takes the metrics of one step by name; `row["step"]` says which step."""

    def texts(self, texts: Mapping[str, Any], step: int) -> None:
        """Takes facts about the run, ready for JSON, as they are from `step` on."""

    def hparams(self, hparams: Mapping[str, Any]) -> None:
        """Takes the run's hyper-parameters by dotted name; replaces earlier ones."""

    def close(self, success: bool) -> None:
        """Ends the start; `success` is False where an exception ended it."""


def open_tracker(name: str, run_dir: Path, start: int, metrics: Mapping[str, Scalar]) -> Tracker:
    """Returns a tracker for one start of a run.

    Args:
      name: in TRACKERS.
      run_dir: the run's directory.
      start: the step that the run continues from.
      metrics: the table of metrics, by name.

    Raises:
      UserError: for an unknown name, and where the tracker's package is not installed.
    """
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    try:
        return pkgutil.resolve_name(TRACKERS[name])(run_dir, start, metrics)
    except ModuleNotFoundError as error:
        raise UserError(
            f"the tracker {name!r} needs the package {error.name}; install it, or take {name!r} "
            "out of config.trackers"
        ) from error


def tags(metrics: Mapping[str, Scalar]) -> dict[str, str]:
    """Returns the tag of each metric, such as "1_train/loss".

    Trackers sort tags alphabetically; the number keeps groups in the order of the table.
    """
    groups = _groups(metrics)
    found = {}
    for name, (group, *_) in metrics.items():
        found[name] = f"{1 + groups.index(group)}_{group}/{name.removeprefix(f'{group}_')}"
    return found


def following_group(metrics: Mapping[str, Scalar], group: str) -> str:
    """Returns the first part of tags that trackers show after those of `metrics`: "6_eval"."""
    return f"{1 + len(_groups(metrics))}_{group}"


def _groups(metrics: Mapping[str, Scalar]) -> list[str]:
    return list(dict.fromkeys(metric.group for metric in metrics.values()))
