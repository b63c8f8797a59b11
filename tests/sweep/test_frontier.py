"""The grids of configs/sweeps/frontier.py: every model on every number of pairs, with its state."""

import pytest

from configs.sweeps import frontier
from seqarch.config import parse
from seqarch.costs.memory import state_bytes
from seqarch.sweep import hyper
from seqarch.sweep.plan import plan


@pytest.mark.parametrize("grid", sorted(frontier.GRIDS))
def test_runs_are_those_of_one_setting_at_several_states_and_sizes(grid, tmp_path):
    base = parse(frontier.get_config(grid))
    runs = plan(base, frontier.get_hyper(hyper, grid), tmp_path, "validation")
    chosen = frontier.GRIDS[grid]
    models = {(run.config.model.mixer, run.config.model.dim): run.config for run in runs}
    counts = [len(chosen[name]) for name in ("pairs", "rates")]
    assert len(runs) == len(models) * counts[0] * counts[1] * chosen["seeds"]
    assert {run.config.length for run in runs} == {chosen["task"]["length"]}
    assert {run.config.model.vocab for run in runs} == {chosen["task"]["vocab"]}
    assert len({state_bytes(each, each.length) for each in models.values()}) > 8
