"""Reports of sweeps: read as one, with heat maps, windows of learning rates, and what runs lack."""

import csv
import dataclasses
import json
import math
import shlex

import pytest

from seqarch import records
from seqarch.config import parse, to_dict
from seqarch.errors import UserError
from seqarch.records import Record, Results, Source
from seqarch.report.collect import collect
from seqarch.report.comparison import comparison_figures, comparison_tables
from seqarch.report.curves import Curve, curve_of, curve_records, median_curve
from seqarch.report.lines import has_rates, lines
from seqarch.report.members import Member
from seqarch.report.missing import lacking
from seqarch.report.notices import notices
from seqarch.report.pages import comparison_page, html_page, write_report
from seqarch.report.render import cells
from seqarch.report.sweeps import heat_maps, square, window_table
from seqarch.tasks.base import ACCURACY, BITS_PER_BYTE
from tests.report.conftest import MADE, comparison_of, member_of

COMMAND = ["python", "scripts/sweep.py", "--config=configs/probes.py:mqar,gru", "--workdir=W"]
COMMAND += ["--grid=optim.lr=0.001,0.002 seed.model=0..1", "--config.steps", "40"]
COMMAND += ["--split=test", "--only=accuracy"]


def result_of(name, accuracy, *, lr, seed=0, mixer="gru", task="mqar", status="ok"):
    """Results of a run; without an accuracy it diverged."""
    seeds = dict(model=seed, data=0)
    config = to_dict(parse(dict(steps=40, task=task, length=64, seed=seeds)))
    del config["mesh"]  # as a revision writes it that has no such field
    config["model"] |= dict(mixer=mixer, vocab=8192)
    config["optim"] |= dict(lr=lr)
    if accuracy is None:
        found = [Record("accuracy", "accuracy", status="diverged")]
    else:
        found = [Record("accuracy", "accuracy", accuracy, n=512, status=status)]
        found.append(Record("accuracy", "solved", 0.99))
    made = MADE | dict(command=COMMAND)
    return Results(Source(name, "run", config, 40, "test", seeds, made), tuple(found))


@pytest.fixture
def sweep(tmp_path):
    """Writes a sweep's runs as their directories; returns its path.

    Two mixers at two learning rates, from two seeds; one run diverged, and one was not measured.
    """
    top = tmp_path / "sweep"
    for mixer, lr, seed in [
        (m, lr, s) for m in ("gru", "mamba") for lr in (1e-3, 1e-2) for s in (0, 1)
    ]:
        name = f"model.mixer={mixer},optim.lr={lr},seed.model={seed}"
        run, fields = top / name, {"model.mixer": mixer, "optim.lr": lr, "seed.model": seed}
        run.mkdir(parents=True)
        lost = (mixer, lr, seed) == ("gru", 1e-2, 1)
        results = result_of(name, None if lost else 1.0, lr=lr, seed=seed, mixer=mixer)
        (run / "config.json").write_text(json.dumps(results.source.config))
        started = dict(MADE, command=COMMAND, host={}, continued=[])
        (run / "run.json").write_text(json.dumps(started))
        (run / "sweep.json").write_text(json.dumps(dict(fields=fields, seconds=1.0)))
        steps = range(1, 21 if lost else 41)
        rows = [dict(step=step, loss=1 / step, accuracy=0.5, refused=0) for step in steps]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if (mixer, lr, seed) != ("mamba", 1e-2, 1):
            records.write(run / records.NAME, [results])
    return top


def test_a_sweep_is_read_as_one(sweep):
    """Its directory stands for its runs, whose learning rates stand together and rise."""
    found = collect([sweep])
    names = [f"{mixer}, lr {lr}" for mixer in ("gru", "mamba") for lr in ("0.001", "0.01")]
    assert [member.name for member in found.members] == names
    assert [len(member.results) for member in found.members] == [2] * 4
    assert found.title == "2 models at 2 learning rates"
    assert {line.name: list(line.rates) for line in lines(found.models)} == {
        "gru": [1e-3, 1e-2],
        "mamba": [1e-3, 1e-2],
    }
    again = collect(sorted(sweep.iterdir(), reverse=True))
    assert {each.name for each in again.members} == set(names)
    assert [each.name for each in again.members[:2]] == names[2:]
    assert has_rates(found.models) and not has_rates([found.models[0]])


def test_a_report_of_a_sweep_is_read_again_as_it_was_written(sweep, tmp_path):
    found = collect([sweep])
    write_report(found, tmp_path / "out")
    with (tmp_path / "out/runs.csv").open(newline="") as file:
        runs = list(csv.DictReader(file))
    assert len(runs) == 8 and runs[0]["accuracy"] == "1.0"
    assert runs[0]["command"].startswith("python train.py --config=configs/probes.py:mqar,gru")
    assert collect([tmp_path / "out"]) == found
    both = collect([sweep, tmp_path / "out"])
    assert [len(member.results) for member in both.members] == [2] * 4


def test_what_runs_lack_stands_in_the_summary(sweep):
    found = collect([sweep])
    assert [lacking(member) for member in found.members] == [
        "",
        "1 of 2 diverged",
        "",
        "1 of 2 not measured (trained)",
    ]
    table = comparison_tables(found)[0]
    assert table.columns[-1].title == "lacks" and len(table.rows) == 4
    assert notices(found) == ["1 of 8 runs diverged; fit rates count them, and means do not"]


def test_a_member_without_any_score_keeps_its_row():
    only = member_of("attention", "attention")
    scores = tuple(each for each in only.results[0].records if each.evaluator == "flops")
    bare = Member("bare", "run", (only.results[0]._replace(records=scores),))
    rows = cells(comparison_tables(comparison_of(member_of("gru"), bare))[0])
    assert [row[0] for row in rows] == ["gru", "bare"]
    assert rows[1][-1] == "without bits/byte" and rows[0][-1] == "–"


def test_runs_of_which_none_was_measured_are_told(sweep):
    for path in sweep.glob("*/records.jsonl"):
        path.unlink()
    with pytest.raises(UserError, match="measure the run first"):
        collect([sweep])


def test_each_run_has_the_command_that_makes_it_again(sweep):
    run = "model.mixer=gru,optim.lr=0.001,seed.model=1"
    tables = {table.title: table for table in comparison_tables(collect([sweep]))}
    rows = cells(tables["Runs"])
    assert len(rows) == 8 and tables["Runs"].folded
    train, measure = (shlex.split(part) for part in rows[1][-1].split(" && "))
    config = ["--config=configs/probes.py:mqar,gru", "--config.steps", "40"]
    fields = ["model.mixer=gru", "optim.lr=0.001", "seed.model=1"]
    given = [*config, *(f"--config.{each}" for each in fields), f"--workdir={sweep / run}"]
    assert train == ["python", "train.py", *given]
    assert measure == ["python", "eval.py", given[-1], "--split=test", "--only=accuracy"]


def test_a_run_that_was_trained_alone_has_its_own_command(tmp_path):
    results = result_of("a b", 1.0, lr=1e-3)
    (tmp_path / "config.json").write_text(json.dumps(results.source.config))
    train = ["python", "train.py", "--config=configs/lm.py:mamba(state_dim=4)", "--workdir=a b"]
    started = dict(MADE, command=train, host={}, continued=[])
    (tmp_path / "run.json").write_text(json.dumps(started))
    made = MADE | dict(command=["python", "eval.py", "--workdir=a b"])
    source = dataclasses.replace(results.source, provenance=made)
    records.write(tmp_path / records.NAME, [results._replace(source=source)])
    shown = cells(comparison_tables(collect([tmp_path]))[-1])[0][-1]
    assert shown == f"{shlex.join(train)} && python eval.py '--workdir=a b'"


def probed(name, accuracies, lr, **options):
    runs = (
        result_of(name, each, lr=lr, seed=seed, **options) for seed, each in enumerate(accuracies)
    )
    return Member(f"{name}, lr {lr:g}", "run", tuple(runs))


def test_a_square_counts_the_runs_that_fit_and_those_that_diverged():
    assert square(probed("gru", [1.0, 0.99, 0.5], 0.1), ACCURACY) == (2 / 3, "2/3")
    assert square(probed("gru", [1.0, None, None], 0.1), ACCURACY) == (1 / 3, "1/3\n2 diverged")
    value, text = square(None, ACCURACY)
    assert math.isnan(value) and text == ""
    text_model = member_of("gru", bits=2.25)
    assert square(text_model, BITS_PER_BYTE) == (2.25, "2.250")


def test_a_heat_map_has_a_square_for_each_model_and_learning_rate():
    members = [probed("gru", [1.0] * 2, lr) for lr in (0.1, 0.2)]
    members += [probed("mamba", [0.5, 1.0], lr, mixer="mamba") for lr in (0.2, 0.4)]
    members.append(probed("gru", [1.0], 0.1, task="parity"))
    (drawn,) = heat_maps(members)  # parity has one learning rate
    assert drawn.name == "learning-rates-mqar" and "mqar" in drawn.title
    assert drawn.svg.count(">2/2<") == 2 and drawn.svg.count(">1/2<") == 2
    assert "<image" not in drawn.svg
    assert not heat_maps([member_of("gru")])
    assert "learning-rates-mqar" in {
        each.name for each in comparison_figures(comparison_of(*members))
    }


HALF_OCTAVES = (1e-3, 1.414e-3, 2e-3, 2.828e-3, 4e-3)


def window_of(counts, seeds=5, rates=HALF_OCTAVES):
    members = []
    for lr, count in zip(rates, counts, strict=True):
        members.append(probed("gru", [1.0] * count + [0.2] * (seeds - count), lr))
    table = window_table(members)
    return table and cells(table)[0][-3:]


def test_a_window_is_shown_of_a_half_octave_grid_with_seeds_enough():
    assert window_of([0, 3, 5, 3, 2]) == ["0.001414", "0.002828", "1.0"]
    assert window_of([0, 2, 2, 3, 5]) == ["0.002828", "≥ 0.004", "≥ 0.5"]
    assert window_of([5] * 5) == ["≤ 0.001", "≥ 0.004", "≥ 2.0"]
    assert window_of([0] * 5) == ["none"] * 3
    assert window_of([4] * 5, seeds=4) is None
    assert window_of([5] * 5, rates=(1e-3, 2e-3, 4e-3, 8e-3, 16e-3)) is None


def test_learning_rates_of_one_model_are_not_compared_by_letters():
    members = [probed("gru", [float(good)] * 10, lr) for good, lr in ((1, 0.1), (0, 0.2))]
    tables = {table.title: table for table in comparison_tables(comparison_of(*members))}
    assert "not told apart" not in {column.title for column in tables["Fit rates"].columns}
    assert "Holm" not in tables["Fit rates"].caption


def test_a_curve_is_of_means_over_as_many_steps():
    rows = [dict(step=step, loss=float(step), accuracy=None) for step in range(1, 121)]
    (found,) = curve_records(rows, 120, ACCURACY)
    assert found.metric == "loss" and found.at["step"] == list(range(2, 121, 2))
    assert found.value == [step - 0.5 for step in range(2, 121, 2)]
    (short,) = curve_records(rows[:5], 119, ACCURACY)
    assert short.at["step"] == [2, 4, 6] and short.value == [1.5, 3.5, 5.0]
    assert not curve_records([], 10, BITS_PER_BYTE)


def test_the_median_counts_a_diverged_run_as_the_worst_and_holds_the_end_of_others():
    values = [{1: 3.0, 2: 2.0, 3: 1.0}, {1: 5.0, 2: 4.0, 3: 3.0}, {1: 4.0}]
    curves = [Curve(each) for each in values]
    diverged = [*curves[:2], Curve(values[2], diverged=True)]
    steps, middle = median_curve(diverged, lower=True)
    assert steps == [1, 2, 3] and middle.tolist() == [4.0, 4.0, 3.0]
    assert median_curve(diverged, lower=False)[1].tolist() == [4.0, 2.0, 1.0]
    assert median_curve(diverged[1:], lower=True)[0] == [1]
    assert median_curve(curves, lower=True)[1].tolist() == [4.0, 4.0, 3.0]
    assert median_curve(curves, lower=False)[1].tolist() == [4.0, 4.0, 3.0]
    between = [Curve({2: 8.0, 4: 6.0}), Curve({2: 4.0, 3: 2.0})]
    assert median_curve(between, lower=True)[1].tolist() == [6.0, 2.0, 4.0]


def test_runs_that_end_when_they_have_solved_are_one_member(sweep):
    """Each at its own step."""
    for number, path in enumerate(
        sorted(sweep.glob("model.mixer=gru,optim.lr=0.001*/records.jsonl"))
    ):
        about, (results,) = records.read(path)
        config = results.source.config | dict(eval=dict(stop_when_solved=True))
        source = dataclasses.replace(results.source, config=config, step=10 + number)
        records.write(path, [results._replace(source=source)], about)
    found = collect([sweep]).members
    steps = [[each.source.step for each in member.results] for member in found]
    assert len(found) == 4 and [10, 11] in steps


def test_curves_are_data_of_the_runs_and_are_drawn(sweep):
    found = collect([sweep])
    first, lost = found.members[0].results[0], found.members[1].results[1]
    assert curve_of(first, "loss").values[40] == pytest.approx(1 / 40, rel=1e-4)
    assert max(curve_of(lost, "loss").values) == 20
    assert curve_of(lost, "loss").diverged and not curve_of(first, "loss").diverged
    names = [figure.name for figure in comparison_figures(found)]
    assert {"training-loss-mqar", "training-accuracy-mqar", "learning-rates-mqar"} <= set(names)


def test_runs_of_a_comparison_bring_their_curves(tmp_path):
    """Each run's directory is that with the config of its records."""
    runs = [result_of("gru", 1.0, lr=1e-3, seed=seed) for seed in (1, 2)]
    for results in runs:
        run = tmp_path / "gru" / f"seed-{results.source.seeds['model']}"
        run.mkdir(parents=True)
        (run / "config.json").write_text(json.dumps(results.source.config))
        row = dict(step=1, loss=float(results.source.seeds["model"]), accuracy=0.5)
        (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    records.write(tmp_path / records.NAME, runs)
    (member,) = collect([tmp_path]).members
    assert [curve_of(each, "loss").values for each in member.results] == [{1: 1.0}, {1: 2.0}]


def test_what_is_compared_is_told_with_what_is_equal(sweep):
    tables = {table.title: table for table in comparison_tables(collect([sweep]))}
    told = tables["What is compared"]
    assert "4 members, 8 runs on mqar" in told.caption
    assert "differ in model.mixer, optim.lr, seed.model." in told.caption
    assert "Equal within 5%: tokens of training." in told.caption
    both = [member_of("gru"), member_of("attention", "attention", state=0, growth=1024)]
    table = {each.title: each for each in comparison_tables(comparison_of(*both))}[
        "What is compared"
    ]
    shown = {row[0]: row[1:] for row in cells(table)}
    assert shown["parameters"] == ["654,321", "654,321", "1"]
    assert shown["state at 1,024 tokens"] == ["2 KiB", "1 MiB", "512"]
    assert "Equal within 5%: parameters." in table.caption


def test_runs_are_folded_in_a_page(sweep):
    page = html_page(comparison_page(collect([sweep])))
    assert page.count("<details>") == page.count("</details>") == 1
