"""The comparison: equal parameters, commands that repeat its rows, time left, and the whole program on tiny members."""

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

from configs import compare as compare_config
from scripts import compare
from seqarch.config import parse
from seqarch.data.prepare import prepare
from seqarch.errors import UserError
from seqarch.matching import TOLERANCE, count_parameters

ROOT = Path(__file__).parents[1]
TOUR = "tour: one learning rate, one seed, undertrained; not evidence"

TINY = """
from configs import compare

def get_config():
    config = compare.get_config()
    config.name = "tiny"
    config.members = ("gru", "second one = linear_attention")
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
    given = compare_config.get_config(budget).to_dict() | changes
    reference, names = given.pop("reference"), given.pop("members")
    given = {field: value for field, value in given.items() if field not in ("name", "notice")}
    return compare.match(parse(given), reference, names)


@pytest.mark.parametrize("budget", ["tour", "full"])
def test_members_have_equal_parameters_and_differ_in_nothing_else(budget):
    configs = members(budget)
    assert list(configs) == ["gru", "attention", "linear_attention", "mamba", "hybrid"]
    counts = {name: count_parameters(config.model) for name, config in configs.items()}
    assert all(abs(count - counts["attention"]) <= TOLERANCE * counts["attention"] for count in counts.values()), counts
    same = {dataclasses.replace(config, model=configs["gru"].model) for config in configs.values()}
    assert len(same) == 1
    if budget == "full":
        assert counts["attention"] == pytest.approx(125e6, rel=0.01)


def test_tour_says_what_it_is():
    assert compare_config.get_config().notice == TOUR


@pytest.mark.parametrize(
    "names, message", [(("gru", "gru = mamba"), "twice"), ((), "is empty"), (("grru",), "did you mean 'gru'")]
)
def test_wrong_members_are_told(names, message):
    with pytest.raises(UserError, match=message):
        members(members=names)


@pytest.mark.parametrize("name", ["gru", "linear_attention", "hybrid"])
def test_command_of_a_row_gives_its_config(name, monkeypatch):
    config = dataclasses.replace(members("full")[name], data=dataclasses.replace(parse({}).data, path="my texts"))
    train, evaluate = compare.command(config, "runs/again").split(" && ")
    python, program, *arguments = shlex.split(train)
    assert (python, program) == ("python", "train.py") and (ROOT / program).exists()
    assert shlex.split(evaluate) == ["python", "eval.py", "--workdir=runs/again"] and (ROOT / "eval.py").exists()

    values = flags.FlagValues()
    flag = config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [program, *arguments])
    values(sys.argv)
    assert parse(flag.value) == config
    assert values["workdir"].value == "runs/again"


def test_time_left_follows_from_the_work_done(monkeypatch, capsys):
    now = 1000.0
    monkeypatch.setattr(compare.time, "monotonic", lambda: now)
    progress = compare.Progress(["a", "b", "c"])
    progress.end("a", reused=True)
    progress.begin("b")
    now += 60 * compare.TRAINING  # half of the steps: at this pace a member takes two minutes
    progress.say("step 50/100")
    now += 30
    progress.say("measuring")
    progress.end("b")
    progress.begin("c")
    progress.say("going on from step 100 of 100")
    lines = capsys.readouterr().out.splitlines()
    assert "[1/3 a] is there already" in lines
    minutes = 4 - compare.TRAINING
    assert f"[2/3 b, {minutes:.1f} min left] step 50/100" in lines
    assert f"[2/3 b, {minutes - 0.5:.1f} min left] measuring" in lines
    whole = compare.TRAINING + 0.5  # minutes that member b took in the end
    assert f"[3/3 c, {whole * (1 - compare.TRAINING):.1f} min left] going on from step 100 of 100" in lines


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A function that runs scripts/compare.py on tiny members in one and the same directory."""
    directory = tmp_path_factory.mktemp("compare")
    for index in range(4):
        (directory / f"{index}.txt").write_text(f"work {index}: " + "to be or not to be, that is the question. " * 40)
    prepare(str(directory / "*.txt"), str(directory / "text"), validation=0.3, test=0.3)
    (directory / "tiny.py").write_text(TINY)

    def run(*arguments):
        command = [sys.executable, str(ROOT / "scripts/compare.py"), f"--config={directory / 'tiny.py'}"]
        command += [f"--config.data.path={directory / 'text'}", f"--workdir={directory / 'runs'}", *arguments]
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, cwd=directory, env=env), directory / "runs"

    first, runs = run()
    assert first.returncode == 0, first.stderr
    return first, runs, run


def test_whole_comparison_is_written(compared):
    result, runs, _ = compared
    assert TOUR in result.stdout and "min left] step 4/4" in result.stdout
    rows = list(csv.DictReader((runs / "results.csv").read_text().splitlines()))
    assert [row["name"] for row in rows][:2] == ["gru", "second one"]
    assert {row["kind"] for row in rows[2:]} == {"baseline"} and len(rows) > 3
    for row in rows:
        assert float(row["quality/bits_per_byte"]) > 0
        assert row["revision"] and row["command"] and row["notice"] == TOUR
    assert all(rows[0][key] for key in ("memory/state_bytes@32", "memory/train_bytes@32", "flops/train_per_token", "mlp_ratio"))
    for name in ("report.md", "report.html"):
        text = (runs / name).read_text()
        assert "second one" in text and TOUR in text and not re.search(r"\bnan\b", text)


def test_second_run_trains_nothing_and_says_the_same(compared):
    _, runs, run = compared
    before = (runs / "results.csv").read_text()
    result, _ = run()
    assert result.returncode == 0, result.stderr
    assert "is there already" in result.stdout and "step" not in result.stdout.replace("4 steps", "")
    assert (runs / "results.csv").read_text() == before


def test_other_steps_are_refused_in_one_line(compared):
    result, _ = compared[2]("--config.steps=8")
    assert result.returncode == 2
    assert "4 steps" in result.stderr and "--workdir" in result.stderr and len(result.stderr.splitlines()) == 1


def test_config_that_is_no_comparison_is_refused_in_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "scripts/compare.py"), "--config=configs/lm.py:gru", f"--workdir={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    assert "no name, notice, reference, members" in result.stderr and len(result.stderr.splitlines()) == 1


def test_interrupted_member_goes_on_and_is_measured_anew(compared):
    _, runs, run = compared
    (runs / "gru/eval.json").unlink()
    partly = json.loads((runs / "second one/eval.json").read_text())
    partly = {name: value for name, value in partly.items() if not name.startswith("speed/")}  # as eval.py --only leaves it
    (runs / "second one/eval.json").write_text(json.dumps(partly))
    result, _ = run("--config.eval.limit=100")
    assert result.returncode == 0, result.stderr
    assert "compiled in" not in result.stdout, "a trained member was trained again"
    scored = {json.loads((runs / name / "eval.json").read_text())["quality/bytes"] for name in ("gru", "second one")}
    assert len(scored) == 1 and scored.pop() % 100 == 0
