"""Frontiers of made-up runs: smallest states, laws, and runs that make none."""

import dataclasses
import math

import pytest

from seqarch import records
from seqarch.errors import UserError
from seqarch.evals.evaluator import Metric
from seqarch.evals.frontier import METRICS, NAME, frontiers, read_law, slim
from seqarch.evals.frontier_runs import is_sweep, mixer_of, read_points, size_of
from tests.evals.frontier_runs import made_sweep, run_of


def test_whole_numbers_size_a_mixer_and_other_options_name_it():
    named = {
        "attention(window=16)": "attention",
        "linear_attention(heads=2,decay=data)": "linear_attention(decay=data)",
        "mamba(state_dim=4,method=chunked),attention(rope=None)": "mamba,attention(rope=None)",
    }
    assert {pattern: mixer_of(pattern) for pattern in named} == named


def test_the_size_of_a_task_is_its_option_or_its_default():
    assert size_of("mqar(pairs=8,length=64)") == ("pairs", 8) and size_of("mqar") == ("pairs", 4)
    with pytest.raises(UserError, match="the task text has no size"):
        size_of("text")


def test_smallest_states_and_the_law_of_each_mixer():
    found = frontiers(made_sweep())
    assert [each.source.member for each in found] == ["gru", "mamba"]
    gru, mamba = found
    # made_sweep: log-odds of an error are 12 - 1.5 log2(state) + 2 log2(pairs), for Mamba 3 more
    for each, intercept in ((gru, 12), (mamba, 15)):
        law = read_law(each)
        assert law.coefficients == pytest.approx([intercept, -1.5, 2], rel=1e-3)
        needed = law.state(4, 0.1).value
        assert math.log2(needed) == pytest.approx((intercept + 4 + math.log(9)) / 1.5, rel=1e-3)
    assert gru.value(NAME, "smallest_state", pairs=2) == 2**11  # (12 + 2 + 2.2) / 1.5 = 10.8
    over = mamba.find(NAME, "smallest_state", pairs=8)
    assert (over.value, over.status) == (2**12, "over")
    setting = gru.source.facts[NAME]
    assert setting["task"] == "mqar(length=64,vocab=64)" and setting["sizes"] == [2, 4, 8]
    shared = dict(layers=2, mlp=0, conv=4, vocab=64, dtype="float32")
    assert gru.source.config["model"] == shared and "seed" not in gru.source.config
    assert setting["fresh"] and setting["reported"] == 15 and setting["runs"] == 60


def test_frontiers_survive_a_file(tmp_path):
    found = frontiers(made_sweep())
    records.write(tmp_path / "records.jsonl", [*found, *map(slim, made_sweep())], {"kind": NAME})
    read = records.read(tmp_path / "records.jsonl").results
    assert read[: len(found)] == found
    assert read_points(read) == read_points(made_sweep())
    metrics: dict[str, Metric] = {each.name: each for each in METRICS}
    assert all(metrics[each.metric].covers(each.at) for each in found[0].records)


def test_a_diverged_run_has_the_state_of_the_others_and_only_wrong_answers():
    runs = [run_of("gru", 16, pairs, 0.5, lr=lr) for pairs in (2, 4) for lr in (1e-3, 1e-2)]
    runs.append(run_of("gru", 16, 8, None))
    points = read_points(runs)
    assert (points[-1].accuracy, points[-1].state) == (None, points[0].state)


def test_only_runs_of_one_probe_over_states_and_sizes_are_a_sweep():
    assert is_sweep(made_sweep())
    assert not is_sweep([run_of("gru", 16, pairs, 0.5) for pairs in (2, 4)])
    assert not is_sweep([run_of("gru", dim, 2, 0.5) for dim in (16, 32)])
    assert not is_sweep([])


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda config: config | {"steps": 401}, "differ in steps"),
        (lambda config: config | {"task": "mqar(pairs=4,vocab=32)"}, "differ in task"),
        (lambda config: config | {"task": "text"}, "the task text has no size"),
        (lambda config: {}, "is no run of a probe: it has no task"),
    ],
)
def test_runs_of_several_settings_are_refused(change, message):
    first = run_of("gru", 16, 2, 0.5)
    config = change(dict(first.source.config))
    other = first._replace(source=dataclasses.replace(first.source, config=config))
    with pytest.raises(UserError, match=message):
        read_points([first, other])


def test_a_run_without_its_state_is_refused():
    run = run_of("gru", 16, 2, 0.5)
    with pytest.raises(UserError, match="lacks the bytes of its state"):
        read_points([run._replace(records=run.records[:1])])
