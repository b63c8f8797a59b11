"""The runs of a sweep before any is started: names, configs, checks, and the time they take."""

import dataclasses

import pytest

from configs import probes
from configs.sweeps import mqar
from seqarch.config import parse
from seqarch.config.values import values_of, with_fields
from seqarch.errors import UserError
from seqarch.sweep import hyper
from seqarch.sweep.estimate import TimeEstimate
from seqarch.sweep.names import run_name
from seqarch.sweep.plan import check, ensembles, plan, spread, varied

BASE = parse(probes.get_config("mqar,gru"))


def planned(tmp_path, *sweep, base=BASE):
    return plan(base, list(sweep), tmp_path / "sweep", "validation")


def name(**fields):
    return run_name(
        {key.replace("_", "."): value for key, value in fields.items()}, values_of(BASE)
    )


def test_names_are_readable_and_do_not_depend_on_the_order_of_fields(tmp_path):
    first, second = planned(
        tmp_path,
        {"seed.model": 0, "optim.lr": 1, "model.mixer": "mamba,attention(window=4)"},
        {"optim.lr": 1e-5, "model.mixer": "mamba"},
    )
    assert first.name == "model.mixer=mamba+attention(window=4),optim.lr=1.0,seed.model=0"
    assert second.name == "model.mixer=mamba,optim.lr=1e-05"
    assert first.directory == tmp_path / "sweep" / first.name


def test_names_hold_what_paths_hold_and_are_different_for_different_values():
    texts = ["a/b", "a%2Fb", "a+b", "a,b", "a b", "..", "ä", "x" * 300, "x" * 299 + "y", "a:b", ""]
    names = [name(data_path=text) for text in texts]
    assert len(set(names)) == len(names) and max(map(len, names)) < 100
    assert not any(set(each) & set("/:\\ \0") for each in names)
    assert name(steps=1, batch=2) != name(steps=12)
    many = {f"evals.accuracy.{key}": "x" * 50 for key in "abcdefgh"}
    assert len(run_name(many, {})) <= 200 and name(optim_lr=1e30) == "optim.lr=1e30"


def test_a_task_brings_its_length_vocabulary_and_sizes():
    config = with_fields(BASE, {"task": "parity"})
    expected = parse(probes.get_config("parity,gru"))
    assert (config.length, config.model.vocab) == (expected.length, expected.model.vocab)
    assert config.evals["accuracy"] == expected.evals["accuracy"]
    given = with_fields(BASE, {"task": "mqar(length=128)", "evals.accuracy.lengths": (128,)})
    assert given.evals["accuracy"]["lengths"] == (128,)


@pytest.mark.parametrize(
    "sweep, message",
    [
        ([], "has no runs; give --grid"),
        ([{"optim.lr": 1e-3}, {"optim.lr": 0.001}], "has optim.lr=0.001 twice"),
        ([{"steps": BASE.steps}, {"batch": BASE.batch}], "are the same run"),
        ([{"model.dims": 3}], "did you mean 'model.dim'"),
        ([{"steps": "x"}], "expected int"),
        ([{"optim.lr": -1.0}], "give numbers above 0"),
    ],
)
def test_wrong_sweeps_are_told(sweep, message, tmp_path):
    with pytest.raises(UserError, match=message):
        planned(tmp_path, *sweep)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"model.mixer": "gruu"}, "^model.mixer=gruu: unknown mixer.*did you mean 'gru'"),
        ({"model.vocab": 9}, "model.vocab is 9, the task"),
        ({"evals.accuracy.row": 9}, "did you mean 'rows'"),
        ({"mesh.data": 7}, "mesh"),
    ],
)
def test_what_cannot_be_trained_is_told_before_anything_is_made(fields, message, tmp_path):
    runs = planned(tmp_path, {"steps": 3}, fields)
    with pytest.raises(UserError, match=message):
        check(runs, tmp_path / "sweep")
    assert not (tmp_path / "sweep").exists()


def test_a_directory_of_another_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run"):
        check(plan(BASE, [{}], tmp_path, "test"), tmp_path)
    with pytest.raises(UserError, match="unknown split"):
        plan(BASE, [{}], tmp_path, "train")


def test_evaluators_are_those_of_the_config_or_those_that_are_wanted(tmp_path):
    (run,) = planned(tmp_path, {"steps": 3})
    assert run.evaluators == tuple(BASE.evals)
    (run,) = plan(BASE, [{"steps": 3}], tmp_path, "test", ["accuracy"])
    assert run.evaluators == ("accuracy",)
    with pytest.raises(UserError, match="evaluator"):
        check(plan(BASE, [{}], tmp_path, "test", ["quality"]), tmp_path / "sweep")


def test_the_example_varies_mixers_rates_and_seeds(tmp_path):
    base = parse(mqar.get_config())
    runs = plan(base, mqar.get_hyper(hyper), tmp_path, "validation")
    counts = {field: len(values) for field, values in varied(runs).items()}
    assert counts == {"model.mixer": 2, "optim.lr": 4, "seed.model": 3, "seed.data": 3}
    check(runs[:1] + runs[-1:], tmp_path)


def test_time_is_that_of_equal_programs_and_unknown_before_any_has_ended(tmp_path):
    sweep = [
        {"model.mixer": mixer, "optim.lr": lr} for mixer in ("gru", "mamba") for lr in (1e-3, 1e-2)
    ]
    runs = planned(tmp_path, *sweep)
    first, second, *rest = spread(runs)
    assert [run.fields["model.mixer"] for run in (first, second)] == ["gru", "mamba"]
    estimate = TimeEstimate()
    assert estimate.text(runs, 2) == "unknown until the first run ends"
    estimate.add(first, None)
    assert estimate.left(runs, 2) is None
    estimate.add(first, 10.0)
    assert estimate.left(rest, 1) == 20
    estimate.add(second, 30.0)
    assert estimate.left(rest, 1) == 40 and estimate.left(rest, 2) == 30
    assert estimate.text(rest, 1) == "about 40 s"


def test_runs_with_one_program_are_trained_together(tmp_path):
    sweep = [
        {"model.mixer": mixer, "optim.lr": lr}
        for mixer in ("gru", "mamba")
        for lr in (1e-3, 2e-3, 3e-3)
    ]
    runs = planned(tmp_path, *sweep)

    def sizes(most, processes, runs=runs):
        groups = ensembles(runs, most, processes)
        assert all(len({run.program for run in group}) == 1 for group in groups)
        assert sorted(run.name for group in groups for run in group) == sorted(
            run.name for run in runs
        )
        return sorted(map(len, groups))

    assert sizes(8, 1) == [3, 3] and sizes(2, 1) == [1, 1, 2, 2] and sizes(1, 1) == [1] * 6
    assert sizes(8, 2) == [1, 1, 2, 2]  # a group of each program for each process
    (tmp_path / "sweep" / runs[0].name / "checkpoints" / "20").mkdir(parents=True)
    assert sizes(8, 1) == [1, 2, 3]  # it goes on from another step
    large = planned(tmp_path, *sweep, base=dataclasses.replace(BASE, batch=2**16))
    assert sizes(8, 1, large) == [1] * 6
