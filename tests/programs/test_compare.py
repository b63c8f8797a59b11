"""The comparison: equal parameters, commands that repeat its rows, time left, and the whole program
on tiny members.
"""

import csv
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags
from seqarch.compare.member_study import Study

from configs import compare as compare_config
from scripts import compare
from seqarch.compare import spec
from seqarch.compare.matching import DEPTH_TOLERANCE, TOLERANCE, count_parameters
from seqarch.compare.members import match_members
from seqarch.config import parse
from seqarch.errors import NoResult, UserError
from seqarch.report.pages import read_results
from seqarch.tasks.text.prepare import prepare
from seqarch.training.logging import read_rows

ROOT = Path(__file__).parents[2]
TOUR = "tour: one learning rate, one seed, undertrained; not evidence"

TINY = """
from configs import compare

def get_config():
    config = compare.get_config()
    config.name = "tiny"
    config.members = ("gru", "second one = mine:Mine")
    config.steps = 4
    config.batch = 4
    config.length = 32
    config.model.layers = 1
    config.model.dim = 16
    config.model.mlp = 48
    config.checkpoint.every = 2
    config.eval.batch = 4
    config.eval.limit = 200
    config.eval.compiled_contexts = (32,)
    config.eval.speed_contexts = (64,)
    return config
"""


def members(budget="tour", **changes):
    given = spec.read(compare_config.get_config(budget).to_dict() | changes)
    return match_members(given.base, given.reference, given.members)


@pytest.mark.parametrize("budget", ["tour", "full"])
def test_members_have_equal_parameters_and_differ_in_nothing_else(budget):
    configs = members(budget)
    assert list(configs) == ["gru", "attention", "linear_attention", "mamba", "hybrid"]
    counts = {name: count_parameters(config.model) for name, config in configs.items()}
    assert all(
        abs(count - counts["attention"]) <= TOLERANCE * counts["attention"]
        for count in counts.values()
    ), counts
    same = {dataclasses.replace(config, model=configs["gru"].model) for config in configs.values()}
    assert len(same) == 1
    if budget == "full":
        assert counts["attention"] == pytest.approx(125e6, rel=0.01)


def test_long_comparison_has_two_matchings_and_a_convolution_for_every_mixer():
    configs = {name: config.model for name, config in members("long").items()}
    counts = {name: count_parameters(model) for name, model in configs.items()}
    for name, count in counts.items():
        tolerance = TOLERANCE if configs[name].mlp else DEPTH_TOLERANCE
        assert abs(count - counts["attention"]) <= tolerance * counts["attention"], (name, counts)
    for name in ("gru", "attention", "linear_attention", "mamba"):
        convolved = configs[f"{name}-conv"]
        assert (configs[name].conv, convolved.conv, convolved.mixer) == (0, 4, configs[name].mixer)
    bare = [configs["gru-bare"], configs["mamba-bare"]]
    assert all(model.mlp == 0 and model.layers > configs["attention"].layers for model in bare)


def test_tour_says_what_it_is():
    assert compare_config.get_config().notice == TOUR


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(members=("gru; conv 4",)), "cannot read 'conv 4'"),
        (dict(members=("gru; cnov=4",)), "did you mean 'model.conv'"),
        (dict(members=("gru; conv=four",)), "model.conv is 'four', a str"),
        (dict(members=("gru(hidden=512); mlp=0",)), "cannot come within 10%"),
        (dict(lrs=(1e-2, 1e-3)), "rising learning rates"),
        (dict(lrs=(1e-3, 1e-2)), "give fresh ones"),
        (dict(seeds=()), "at least one seed"),
        (dict(split="tset"), "did you mean 'test'"),
    ],
)
def test_wrong_plans_are_told(changes, message):
    with pytest.raises(UserError, match=message):
        members(**changes)


@pytest.mark.parametrize("name", ["gru", "linear_attention", "hybrid"])
def test_command_of_a_row_gives_its_config(name, monkeypatch):
    config = dataclasses.replace(
        members("full")[name], data=dataclasses.replace(parse({}).data, path="my texts")
    )
    train, evaluate = compare.command(config, "runs/again", "test").split(" && ")
    python, program, *arguments = shlex.split(train)
    assert (python, program) == ("python", "train.py") and (ROOT / program).exists()
    assert (
        shlex.split(evaluate) == ["python", "eval.py", "--workdir=runs/again", "--split=test"]
        and (ROOT / "eval.py").exists()
    )

    values = flags.FlagValues()
    flag = config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    values(sys.argv)
    assert parse(flag.value) == config
    assert values["workdir"].value == "runs/again"


def test_members_without_a_result_do_not_end_the_comparison(monkeypatch, tmp_path):
    def row(study, _):
        if study.name != "mamba":
            raise NoResult("training diverged at every learning rate")
        return study.name

    monkeypatch.setattr(compare, "member_row", row)
    configs, given = members(), spec.read(compare_config.get_config("tour").to_dict())
    rows, without = compare.member_rows(
        [Study(name, config, given, tmp_path) for name, config in configs.items()]
    )
    assert (
        rows == ["mamba"]
        and without[0] == "gru is missing: training diverged at every learning rate"
    )
    assert len(without) == len(configs) - 1


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A function that runs scripts/compare.py on tiny members, one of the user's own, in one and
    the same directory.
    """
    directory = tmp_path_factory.mktemp("compare")
    for index in range(8):
        (directory / f"{index}.txt").write_text(
            f"work {index}: " + "to be or not to be, that is the question. " * 40
        )
    prepare(str(directory / "*.txt"), str(directory / "text"), validation=0.25, test=0.25)
    (directory / "tiny.py").write_text(TINY)
    (directory / "mine.py").write_text(
        "from seqarch.mixers import LinearAttention\n\nclass Mine(LinearAttention):\n    pass\n"
    )

    def run(*arguments, workdir="runs"):
        command = [
            sys.executable,
            str(ROOT / "scripts/compare.py"),
            f"--config={directory / 'tiny.py'}",
        ]
        command += [
            f"--config.data.path={directory / 'text'}",
            f"--workdir={directory / workdir}",
            *arguments,
        ]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, capture_output=True, text=True, cwd=directory, env=env
        ), directory / workdir

    first, runs = run()
    assert first.returncode == 0, first.stderr
    return first, runs, run


def test_whole_comparison_is_written(compared):
    result, runs, _ = compared
    assert TOUR in result.stdout and re.search(r"\[1/[12] gru, seed 0\] step 4/4", result.stdout)
    rows = list(csv.DictReader((runs / "results.csv").read_text().splitlines()))
    assert [row["name"] for row in rows][:2] == ["gru", "second one"]
    assert {row["kind"] for row in rows[2:]} == {"baseline"} and len(rows) > 3
    for row in rows:
        assert float(row["quality/bits_per_byte"]) > 0
        assert row["revision"] and row["command"] and row["notice"] == TOUR
    assert all(
        rows[0][key]
        for key in (
            "memory/state_bytes@32",
            "memory/train_bytes@32",
            "flops/train_per_token",
            "mlp_ratio",
        )
    )
    for name in ("report.md", "report.html"):
        text = (runs / name).read_text()
        assert "second one" in text and TOUR in text and not re.search(r"\bnan\b", text)


def test_second_run_trains_nothing_and_says_the_same(compared):
    _, runs, run = compared
    before = (runs / "results.csv").read_text()
    result, _ = run()
    assert result.returncode == 0, result.stderr
    assert "is there already" in result.stdout and "step" not in result.stdout.replace(
        "4 steps", ""
    )
    assert (runs / "results.csv").read_text() == before


def test_other_steps_are_refused_in_one_line(compared):
    result, _ = compared[2]("--config.steps=8")
    assert result.returncode == 2
    assert (
        "4 steps" in result.stderr
        and "--workdir" in result.stderr
        and len(result.stderr.splitlines()) == 1
    )


def test_another_text_is_refused_in_one_line(compared, tmp_path):
    for index in range(8):
        (tmp_path / f"{index}.txt").write_text(
            f"work {index}: " + "all the world is a stage. " * 40
        )
    prepare(str(tmp_path / "*.txt"), str(tmp_path / "text"), validation=0.25, test=0.25)
    result, _ = compared[2](f"--config.data.path={tmp_path / 'text'}")
    assert result.returncode == 2
    assert (
        "another text" in result.stderr
        and "--workdir" in result.stderr
        and len(result.stderr.splitlines()) == 1
    )


def test_interrupted_member_goes_on_and_is_measured_anew(compared):
    _, runs, run = compared
    (runs / "gru/seed-0/eval.json").unlink()
    partly = json.loads((runs / "second one/seed-0/eval.json").read_text())
    partly = {
        name: value for name, value in partly.items() if not name.startswith("speed/")
    }  # as eval.py --only leaves it
    (runs / "second one/seed-0/eval.json").write_text(json.dumps(partly))
    result, _ = run("--config.eval.limit=100")
    assert result.returncode == 0, result.stderr
    assert "compiled in" not in result.stdout, "a trained member was trained again"
    scored = {
        json.loads((runs / name / "seed-0/eval.json").read_text())["quality/bytes"]
        for name in ("gru", "second one")
    }
    assert len(scored) == 1 and scored.pop() % 100 == 0


def test_evidence_is_a_learning_rate_from_a_grid_and_fresh_seeds_on_the_test_works(compared):
    choices = [
        "--config.lrs=(1e-6, 3e-2, 30.0)",
        "--config.seeds=(1, 2)",
        "--config.split=test",
        "--config.eval.targets=2",
    ]
    choices += ["--config.eval.limit=400"]
    result, runs = compared[2](*choices, workdir="evidence")
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (runs / "gru").iterdir()} == {
        "lr-1e-06",
        "lr-0.03",
        "lr-30",
        "seed-1",
        "seed-2",
    }
    found = read_results(runs / "results.json")
    gru, linear = found.rows[:2]
    for row in (gru, linear):
        values = row.values
        assert row.config["optim"]["lr"] == 3e-2 and values["search"]["0.03"] == min(
            filter(None, values["search"].values())
        )
        chosen = [
            read_rows(runs / row.name / f"lr-{lr}")[-1] for lr in ("1e-06", "0.03", "30")
        ]  # on validation windows alone
        assert list(values["search"].values()) == [
            each.get("validation_bits_per_byte") for each in chosen
        ]
        assert not list((runs / row.name).glob("lr-*/eval.json"))
        assert values["quality/split"] == "test" and row.seeds == {"seed": "1, 2"}
        each = [
            json.loads((runs / row.name / f"seed-{seed}/eval.json").read_text()) for seed in (1, 2)
        ]
        assert values["quality/bits_per_byte"] == pytest.approx(
            sum(e["quality/bits_per_byte"] for e in each) / 2
        )
        assert (
            values["context/carried@8"] != values["context/carried@256"]
            and "context/truncated@64" not in values
        )
        assert any(name.startswith("memory/") for name in each[0]) and not any(
            n.startswith("memory/") for n in each[1]
        )
    behind = sorted(row.values["evidence/behind"] for row in (gru, linear))
    assert behind[0] == 0 and behind[1] == pytest.approx(
        abs(gru.values["quality/bits_per_byte"] - linear.values["quality/bits_per_byte"])
    )
    page = (runs / "report.md").read_text()
    for title in ("Which differences are differences", "Learning rates", "Use of context"):
        assert f"## {title}" in page
    again, _ = compared[2](*choices, workdir="evidence")
    assert (
        again.returncode == 0
        and "compiling" not in again.stdout
        and read_results(runs / "results.json") == found
    )
