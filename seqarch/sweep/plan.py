"""The runs of a sweep: their names, configs and directories, checked before any is started."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqarch.compare import execution
from seqarch.config import Config, resolve, to_dict
from seqarch.config.values import values_of, with_fields
from seqarch.errors import UserError, naming, unknown
from seqarch.evals.evaluate import choose
from seqarch.model import count_parameters
from seqarch.sweep.hyper import Sweep
from seqarch.sweep.names import run_name
from seqarch.tasks import make_task
from seqarch.tasks.base import SPLITS
from seqarch.training import restore, sharded_step, sharding
from seqarch.training.dispatch import most_steps
from seqarch.training.sharded_step import program_key


class PlannedRun(NamedTuple):
    """A run of a sweep.

    Attributes:
      name: that of its directory.
      fields: the values that the sweep gives it, by dotted name.
      config: its config.
      directory: where it is trained.
      split: the held-out data that it is scored on.
      evaluators: names of those that measure it.
    """

    name: str
    fields: Mapping[str, Any]
    config: Config
    directory: Path
    split: str
    evaluators: tuple[str, ...]

    @property
    def program(self) -> str:
        """What runs that train with equal programs, and so in equal time, have in common."""
        return program_key(self.config)


def plan(
    base: Config, sweep: Sweep, workdir: Path, split: str, only: Sequence[str] = ()
) -> list[PlannedRun]:
    """Returns the runs of a sweep.

    Args:
      base: the config that all runs share.
      sweep: the fields of each run.
      workdir: the directory of the runs' directories.
      split: the held-out data that is scored.
      only: evaluators that measure the runs; default: those of each config.

    Raises:
      UserError: for a sweep without runs, an unknown field or split, a value that a field refuses,
        and two runs with the same config.
    """
    if not sweep:
        raise UserError(
            "the sweep has no runs; give --grid='optim.lr=1e-3,3e-3', or a config whose get_hyper "
            "returns some"
        )
    if split not in SPLITS[1:]:
        raise unknown("split", split, SPLITS[1:])
    order, made, names = values_of(base), [], {}
    for fields in sweep:
        config = with_fields(base, fields)
        values = values_of(config)
        fields = {name: values.get(name, value) for name, value in fields.items()}
        name = run_name(fields, order) or "run"
        same = names.get(key := json.dumps(to_dict(config), sort_keys=True))
        if same == name:
            raise UserError(f"the sweep has {name} twice; give each run once")
        if same:
            raise UserError(f"{same} and {name} of the sweep are the same run; give one of them")
        names[key] = name
        made.append(
            PlannedRun(name, fields, config, workdir / name, split, tuple(only or config.evals))
        )
    return made


def varied(runs: Sequence[PlannedRun]) -> dict[str, list[Any]]:
    """Returns the fields that differ between runs, with their different values."""
    found: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in run.fields.items():
            values = found.setdefault(name, [])
            if value not in values:
                values.append(value)
    return {
        name: values
        for name, values in found.items()
        if len(values) > 1 or any(name not in run.fields for run in runs)
    }


def check(runs: Sequence[PlannedRun], workdir: Path, here: bool = True) -> None:
    """Checks all runs of a sweep, of which none is started.

    Args:
      runs: the runs.
      workdir: the directory of the runs' directories.
      here: whether runs are trained on this machine, so that its devices must do.

    Raises:
      UserError: where a config cannot be trained or measured, and where a directory holds another
        run.
    """
    if (workdir / "config.json").exists():
        raise UserError(f"{workdir} holds a run; give the sweep a --workdir of its own")
    for run in {run.program: run for run in runs}.values():
        with naming(run.name):
            _check_config(run, here)
    for run in runs:
        if run.directory.exists():
            execution.check(run.directory, run.config)


def _check_config(run: PlannedRun, here: bool) -> None:
    config = run.config
    make_task(config)
    choose(config, run.evaluators)
    count_parameters(config.model)
    if here:
        mesh = sharding.make_mesh(config.mesh)
        sharded_step.abstract_batch(resolve(config, mesh), mesh)


def ensembles(runs: Sequence[PlannedRun], most: int, processes: int) -> list[list[PlannedRun]]:
    """Returns the runs in groups, of which each is trained by one program from one step on.

    Groups of one program are of nearly equal size, and as many for each process, so that processes
    end together. Runs whose steps are not small, and those that are profiled, are alone.

    Args:
      runs: the runs, in the order in which they start.
      most: members of the largest group.
      processes: groups that are trained at once.
    """
    alike: dict[tuple[str, int], list[PlannedRun]] = {}
    for run in runs:
        steps = restore.steps(run.directory / "checkpoints")
        alike.setdefault((run.program, steps[-1] if steps else 0), []).append(run)
    groups: list[tuple[int, list[PlannedRun]]] = []
    for several in alike.values():
        config, count = several[0].config, len(several)
        if config.profile or most_steps(config, count_parameters(config.model)) == 1:
            parts = count
        else:
            turns = math.ceil(math.ceil(count / most) / processes)
            parts = min(count, turns * processes)
        groups += [(part, several[part::parts]) for part in range(parts)]
    return [group for _, group in sorted(groups, key=lambda group: group[0])]


def spread(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Returns the runs, with one of each program before the second of any.

    So the first runs compile what the others find in the cache, and tell how long each kind takes.
    """
    counts: dict[str, int] = {}
    turns = []
    for run in runs:
        turns.append(counts.setdefault(run.program, 0))
        counts[run.program] += 1
    return [runs[index] for index in sorted(range(len(runs)), key=turns.__getitem__)]
