"""The comparison: equal parameters, commands that repeat its rows, time left, and the whole program
on tiny members.
"""

import csv
import dataclasses
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
from configs import lm
from seqarch import records
from seqarch.compare import comparison, spec
from seqarch.compare.commands import ConfigFile, command, with_command
from seqarch.compare.matching import DEPTH_TOLERANCE, TOLERANCE, count_parameters
from seqarch.compare.members import match_members
from seqarch.compare.study import Study
from seqarch.config import parse, to_dict
from seqarch.errors import NoResult, UserError
from seqarch.records import Results, Source
from seqarch.report.collect import collect
from seqarch.report.comparison import comparison_tables, significance
from seqarch.report.members import read
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
    config.evals.memory = dict(contexts=(64,), compiled=(32,))
    config.evals.speed = dict(contexts=(64,))
    tiny = "steps=2; batch=4; model.dim=16; model.layers=1; evals.accuracy.rows=8"
    config.probes = (f"tracking = parity(length=16); {tiny}",)
    return config
"""


def members(budget="tour", **changes):
    given = spec.read(compare_config.get_config(budget).to_dict() | changes)
    return match_members(given.base, given.reference, given.members, given.match)


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


LM = ConfigFile("configs/lm.py", lm.get_config)


@pytest.mark.parametrize("name", ["gru", "linear_attention", "hybrid"])
def test_command_of_a_row_gives_its_config(name, monkeypatch):
    config = dataclasses.replace(
        members("full")[name], data=dataclasses.replace(parse({}).data, path="my texts")
    )
    again = command(config, LM, "runs/again", "test")
    train, evaluate = again.split(" && ")
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
    def measure(study, _):
        if study.name != "mamba":
            raise NoResult("training diverged at every learning rate")
        return study.name

    monkeypatch.setattr(Study, "measure", measure)
    configs, given = members(), spec.read(compare_config.get_config("tour").to_dict())
    studies = [Study(name, config, given, tmp_path) for name, config in configs.items()]
    found, failures = comparison._measure(studies)
    assert found == ["mamba"] and len(failures) == len(configs) - 1
    assert "gru" in failures[0] and "training diverged at every learning rate" in failures[0]


def test_a_run_has_the_command_that_makes_it():
    config = to_dict(members()["gru"]) | dict(seed=dict(model=2, data=2))
    run = Results(Source("gru", config=config, split="test"), ())
    again = with_command(run, LM, "runs/tour/gru").source.provenance["again"]
    assert "--config.seed.model=2" in again and "runs/tour/gru/seed-2" in again


def arguments(directory: Path, workdir: str) -> list[str]:
    """Returns the arguments of a comparison of tiny members on a text in `directory`."""
    return [
        f"--config={directory / 'tiny.py'}",
        f"--config.data.path={directory / 'text'}",
        f"--workdir={directory / workdir}",
    ]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """What scripts/compare.py wrote of tiny members, one of the user's own, and its directory."""
    directory = tmp_path_factory.mktemp("compare")
    for index in range(8):
        (directory / f"{index}.txt").write_text(
            f"work {index}: " + "to be or not to be, that is the question. " * 40
        )
    prepare(str(directory / "*.txt"), str(directory / "text"), validation=0.25, test=0.25)
    (directory / "tiny.py").write_text(TINY)
    (directory / "mine.py").write_text(
        "from seqarch.mixers.linear_attention import LinearAttention\n\n"
        "class Mine(LinearAttention):\n    pass\n"
    )
    command = [sys.executable, str(ROOT / "scripts/compare.py"), *arguments(directory, "runs")]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=env)
    assert done.returncode == 0, done.stderr
    return done, directory / "runs"


@pytest.fixture
def run(compared, run_here):
    """A function that runs the same program in the same directory, in this process."""
    directory = compared[1].parent

    def run(*more, workdir="runs"):
        given = arguments(directory, workdir)
        return run_here("scripts/compare.py", *given, *more, cwd=directory)

    return run


def test_whole_comparison_is_written(compared):
    result, runs = compared
    assert TOUR in result.stdout
    assert re.search(r"gru, seed 0.*step 4/4", result.stdout), result.stdout
    found = read(runs / records.NAME)
    assert [member.name for member in found.models] == ["gru", "second one"]
    assert len(found.baselines) > 1 and found.notice == TOUR and found.command
    for member in found.members:
        assert member.value("quality", "bits_per_byte") > 0
        made = member.results[0].source.provenance
        assert made["revision"] and (made.get("again") or made["command"])
    gru = found.models[0]
    for name, metric, at in (
        ("memory", "state_bytes", {"context": 32}),
        ("memory", "train_bytes", {"context": 32}),
        ("speed", "decode_tokens_per_s", {"context": 64}),
        ("flops", "train_per_token", {}),
    ):
        assert gru.value(name, metric, **at) > 0, (name, metric)
    (probe,) = (each for each in found.probes if each.source.member == "second one")
    assert 0 <= probe.value("accuracy", "accuracy") <= 1 and probe.source.split == "test"
    again = shlex.join(["--config=configs/probes.py:parity(length=16),mine:Mine"])
    assert again in probe.source.provenance["again"]
    assert "second one/probes/tracking/seed-1" in probe.source.provenance["again"]
    with (runs / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(each.records) for each in found.results)
    for name in ("report.md", "report.html"):
        text = (runs / name).read_text()
        assert "second one" in text and TOUR in text and not re.search(r"\bnan\b", text)


def test_a_comparisons_directory_is_rendered_again_as_it_was(compared):
    _, runs = compared
    assert collect([runs]) == read(runs / records.NAME)


def test_second_run_trains_nothing_and_says_the_same(compared, run):
    _, runs = compared
    before = read(runs / records.NAME).members
    result = run("--minutes=0")
    assert result.returncode == 0, result.stderr
    assert "is there already" in result.stdout
    assert not re.search(r"step \d+/4", result.stdout), "a member was trained again"
    assert read(runs / records.NAME).members == before


def test_other_steps_are_refused_in_one_line(run):
    result = run("--config.steps=8")
    assert result.returncode == 2
    assert (
        "4 steps" in result.stderr
        and "--workdir" in result.stderr
        and len(result.stderr.splitlines()) == 1
    )


def test_another_text_is_refused_in_one_line(run, tmp_path):
    for index in range(8):
        (tmp_path / f"{index}.txt").write_text(
            f"work {index}: " + "all the world is a stage. " * 40
        )
    prepare(str(tmp_path / "*.txt"), str(tmp_path / "text"), validation=0.25, test=0.25)
    result = run(f"--config.data.path={tmp_path / 'text'}")
    assert result.returncode == 2
    assert (
        "another text" in result.stderr
        and "--workdir" in result.stderr
        and len(result.stderr.splitlines()) == 1
    )


def test_interrupted_member_goes_on_and_is_measured_anew(compared, run):
    _, runs = compared
    (runs / "gru/seed-0" / records.NAME).unlink()
    partly = runs / "second one/seed-0" / records.NAME
    (found,) = records.read(partly).results
    kept = tuple(each for each in found.records if each.evaluator != "speed")
    records.write(partly, [found._replace(records=kept)])  # as eval.py --only leaves it
    result = run("--config.eval.limit=100")
    assert result.returncode == 0, result.stderr
    assert not re.search(r"step \d+/4", result.stdout), "a trained member was trained again"
    sizes = {each.value("quality", "bytes") for each in read(runs / records.NAME).models}
    assert len(sizes) == 1 and sizes.pop() % 100 == 0
    assert read(runs / records.NAME).models[1].value("speed", "train_tokens_per_s") > 0


def test_evidence_is_a_learning_rate_from_a_grid_and_fresh_seeds_on_the_test_works(compared, run):
    """One worker is this process, which trains one run after the other."""
    choices = [
        "--workers=1",
        "--config.lrs=(1e-6, 3e-2, 30.0)",
        "--config.seeds=(1, 2)",
        "--config.split=test",
        "--config.evals.context.targets=2",
    ]
    choices += ["--config.eval.limit=400"]
    result, runs = run(*choices, workdir="evidence"), compared[1].parent / "evidence"
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (runs / "gru").iterdir()} == {
        "lr-1e-06",
        "lr-0.03",
        "lr-30",
        "seed-1",
        "seed-2",
        "probes",
    }
    found = read(runs / records.NAME)
    for member in found.models:
        _check_choice(runs, member)
        _check_seeds(runs, member)
    gru, linear = found.models
    judged = significance(found.models)
    behind = sorted(each.behind.mean for each in judged.values())
    bits = [each.value("quality", "bits_per_byte") for each in (gru, linear)]
    assert behind == pytest.approx([0, abs(bits[0] - bits[1])])
    titles = {table.title for table in comparison_tables(found)}
    assert {"Which differences are differences", "Learning rates", "Use of context"} <= titles
    again = run(*choices, workdir="evidence")
    assert again.returncode == 0 and "compiling" not in again.stdout
    assert read(runs / records.NAME).members == found.members


def _check_choice(runs, member):
    """The learning rate is the best of the grid, by validation windows alone."""
    assert member.config["optim"]["lr"] == 3e-2
    tried = {each.at["lr"]: each for each in member.search.records}
    finite = [each.value for each in tried.values() if each.value is not None]
    assert tried[3e-2].value == min(finite)
    for lr, record in tried.items():
        last = read_rows(runs / member.name / f"lr-{lr:g}")[-1]
        assert record.value == last.get("validation_bits_per_byte")
        assert record.status == ("ok" if record.value is not None else "diverged")
    assert not list((runs / member.name).glob(f"lr-*/{records.NAME}"))


def _check_seeds(runs, member):
    """Scores are means over the seeds; what a program needs is measured of the first."""
    assert [each.source.seeds["model"] for each in member.results] == [1, 2]
    assert {each.source.split for each in member.results} == {"test"}
    each = []
    for seed in (1, 2):
        each += records.read(runs / member.name / f"seed-{seed}" / records.NAME).results
    bits = [found.value("quality", "bits_per_byte") for found in each]
    assert member.value("quality", "bits_per_byte") == pytest.approx(sum(bits) / 2)
    assert ["memory" in found.evaluators for found in each] == [True, False]
    carried = [member.value("context", "carried", context=length) for length in (8, 256)]
    assert None not in carried and carried[0] != carried[1]
    assert member.value("context", "truncated", context=64) is None
