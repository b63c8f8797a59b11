"""The grids of configs/sweeps/frontier.py: every model on every number of pairs, with its state."""

import pytest

from configs.sweeps import frontier
from seqarch import tasks
from seqarch.config import parse, to_dict
from seqarch.config.values import with_fields
from seqarch.evals.frontier_runs import size_of
from seqarch.sweep import hyper


@pytest.mark.parametrize("grid", sorted(frontier.GRIDS))
def test_a_grid_has_every_model_on_every_possible_task(grid):
    runs, chosen = frontier.get_hyper(hyper, grid), frontier.GRIDS[grid]
    models = {(run["model.mixer"], run["model.dim"]) for run in runs}
    probes = {run["task"]: tasks.find(run["task"])(**tasks.options(run["task"])) for run in runs}
    assert sorted(size_of(task)[1] for task in probes) == list(chosen["pairs"])
    assert len(runs) == len(models) * len(probes) * len(chosen["rates"]) * chosen["seeds"]


def test_runs_differ_in_no_other_field():
    base = parse(frontier.get_config())
    runs = frontier.get_hyper(hyper)
    first, last = (to_dict(with_fields(base, run)) for run in (runs[0], runs[-1]))
    differs = {name for name in first if first[name] != last[name]}
    assert differs == {"task", "model", "optim", "seed"}
    assert first["evals"]["memory"] == dict(contexts=[], compiled=[])
