"""Probes through the programs: trained, cut short, measured, compared."""

import dataclasses
import json
import signal
from pathlib import Path

import pytest

from configs import compare, probes
from seqarch import records
from seqarch.compare import commands, comparison, execution, spec
from seqarch.config import Config, parse
from seqarch.errors import Diverged, Stopped, UserError
from seqarch.evals.evaluate import evaluate
from seqarch.report.comparison import comparison_tables
from seqarch.report.probes import outcomes
from seqarch.runs import load_run
from seqarch.runtime.progress import Progress
from seqarch.tasks import make_task
from seqarch.tasks.mqar import MQAR
from seqarch.training import loop
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.logging import read_rows

TASK = "mqar(pairs=2,length=16,vocab=16)"
SMALL = {"steps": 4, "batch": 4, "log_every": 2, "model.dim": 16, "model.layers": 1}
SCORES = ("step", "loss", "accuracy", "grad_norm", "learning_rate", "refused")


def config() -> Config:
    given = probes.get_config(f"{TASK},gru")
    given.update_from_flattened_dict(SMALL)
    given.checkpoint.every = given.eval.every = 2
    given.evals = dict(accuracy=dict(rows=32, lengths=(32,), sizes=(1,)))
    return parse(given)


def quiet(line: str) -> None:
    del line


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("probe") / "whole"
    loop.train(config(), run, progress=quiet)
    return run


def rows(run: Path) -> list[dict]:
    found = read_rows(run)
    return [{name: row[name] for name in SCORES} for row in found]


def test_rows_have_accuracy_in_place_of_bits_per_byte(whole):
    last = read_rows(whole)[-1]
    assert 0 <= last["accuracy"] <= 1 and 0 <= last["validation_accuracy"] <= 1
    assert last["validation_loss"] > 0
    assert not {"bits_per_byte", "validation_bits_per_byte"} & last.keys()
    assert not (whole / "tokenizer.json").exists() and load_run(whole).tokenizer is None


def test_a_probe_that_was_stopped_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        asked = iter([0, signal.SIGTERM])
        patch.setattr(loop.StopRequests, "received", lambda self: next(asked))
        with pytest.raises(Stopped):
            loop.train(config(), tmp_path, progress=quiet)
    loop.train(config(), tmp_path, progress=quiet)
    assert rows(tmp_path) == rows(whole)
    assert read_rows(tmp_path)[-1]["validation_loss"] == read_rows(whole)[-1]["validation_loss"]


def test_another_task_is_another_run(whole):
    other = parse({**probes.get_config(f"{TASK},gru").to_dict(), "task": "mqar(pairs=2)"})
    with pytest.raises(UserError, match="the task mqar"):
        loop.train(other, whole, progress=quiet)


def test_a_run_is_measured_on_either_split(whole):
    found = evaluate(whole, split="test", progress=quiet)
    assert found.evaluators == ("accuracy",) and found.source.split == "test"
    took = sum(row["step_seconds"] for row in read_rows(whole))
    assert found.fact("training", "seconds") == took > 0
    assert found.find("accuracy", "accuracy").n == 64
    assert 0 < found.find("accuracy", "length_accuracy", context=32).n < 64
    assert found.find("accuracy", "size_accuracy", pairs=1).n == 32
    validation = evaluate(whole, progress=quiet)
    assert validation.value("accuracy", "accuracy") != found.value("accuracy", "accuracy")
    with pytest.raises(UserError, match="unknown split 'tset'; did you mean 'test'"):
        evaluate(whole, split="tset", progress=quiet)


def test_a_learning_rate_is_chosen_by_the_highest_accuracy(whole):
    found = execution.validated(whole, config(), Progress(1))
    assert found == -read_rows(whole)[-1]["validation_accuracy"]


@pytest.mark.slow
def test_members_are_compared_by_accuracy(tmp_path):
    given = compare.get_config()
    given.update_from_flattened_dict(SMALL | {"task": TASK, "length": 16, "model.vocab": 16})
    given.members, given.reference, given.model.mlp = ("gru",), "gru", 8
    given.evals = dict(accuracy=dict(rows=32))
    asked = spec.read(given.to_dict())
    said = []
    members = comparison.studies(asked, tmp_path)
    found, failures, *_ = comparison.run(asked, members, tmp_path, 1, said.append)
    assert not failures and not found.baselines and not any("baseline" in line for line in said)
    summary = comparison_tables(found)[0]
    assert [column.title for column in summary.columns][:2] == ["model", "accuracy"]
    run = records.read(tmp_path / "gru" / "seed-0" / records.NAME).results[0]
    assert summary.rows[0].cells[:2] == ("gru", run.value("accuracy", "accuracy"))


@pytest.fixture
def diverging(monkeypatch):
    """Makes the runs of these model seeds diverge at their last step."""

    def make(*seeds):
        def train(config, run, **options):
            loop.train(config, run, **options)
            if config.seed.model in seeds:
                path = run / "metrics.jsonl"
                *rows, last = path.read_text().splitlines()
                last = json.dumps(json.loads(last) | dict(refused=config.steps))
                path.write_text("\n".join([*rows, last]) + "\n")
                raise Diverged("training diverged")

        monkeypatch.setattr(execution, "train", train)

    return make


def of_seeds(*seeds):
    given = compare.get_config()
    given.update_from_flattened_dict(SMALL | {"task": TASK, "length": 16, "model.vocab": 16})
    given.members, given.reference, given.model.mlp = ("gru",), "gru", 8
    given.evals, given.seeds = dict(accuracy=dict(rows=32), flops=dict()), seeds
    return spec.read(given.to_dict())


@pytest.mark.slow
def test_a_diverged_seed_of_a_probe_is_a_failure(tmp_path, diverging):
    diverging(1, 3)
    for _ in range(2):  # the second time from what the directories hold
        members = comparison.studies(of_seeds(1, 2, 3), tmp_path)
        found, failures, *_ = comparison.run(of_seeds(1, 2, 3), members, tmp_path, 1, quiet)
        assert not failures and members[0].is_trained() and not members[0].left()
        statuses = [each.find("accuracy", "accuracy").status for each in found.models[0].results]
        assert statuses == ["diverged", "ok", "diverged"]
        assert found.models[0].results[1].evaluators == ("accuracy", "flops")
        (outcome,) = outcomes(found.models).values()
        assert outcome.rate.n == 3 and outcome.scores.count(None) == 2


@pytest.mark.slow
def test_the_only_seed_that_diverged_is_no_result(tmp_path, diverging):
    diverging(1)
    members = comparison.studies(of_seeds(1), tmp_path)
    found, failures, *_ = comparison.run(of_seeds(1), members, tmp_path, 1, quiet)
    assert not found.models and "gru is missing: training diverged" in failures[0]


def test_a_probes_command_names_its_config_file_and_task():
    file = commands.ConfigFile("configs/probes.py", probes.get_config, f"{TASK},")
    again = commands.command(config(), file, "RUN", "test")
    assert f"'--config=configs/probes.py:{TASK},gru' --config.steps=4 " in again
    assert "--config.task" not in again and "--config.model.vocab" not in again


@pytest.fixture
def solved_early(monkeypatch):
    """Tasks count as solved from an accuracy of 0 on."""
    monkeypatch.setattr(MQAR, "solved", 0.0)


def test_a_run_stops_where_its_task_is_solved(whole, solved_early, tmp_path, monkeypatch):
    """Two validations in a row say so. Such a run is the beginning of the whole one, and a kill
    before its checkpoint changes nothing.
    """
    stops = dataclasses.replace(config().eval, every=1, stop_when_solved=True)
    early = dataclasses.replace(config(), eval=stops)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            loop.train(early, tmp_path / "run", progress=quiet)
    found = execution.measured(tmp_path / "run", early, "validation", ("accuracy",), Progress(1))
    assert found.source.step == 2 and rows(tmp_path / "run") == rows(whole)[:2]
    assert execution.finished(tmp_path / "run", early)
    said = []
    loop.train(early, tmp_path / "run", progress=said.append)
    assert said[-1].endswith("is trained: 2 steps")
    again = execution.measured(tmp_path / "run", early, "validation", ("accuracy",), Progress(1))
    assert again == found
    loop.train(config(), tmp_path / "run", progress=quiet)
    assert rows(tmp_path / "run") == rows(whole)


def test_a_text_is_never_solved():
    given = compare.get_config("tour").eval.to_dict() | dict(stop_when_solved=True)
    with pytest.raises(UserError, match="the task text has no score from which it is solved"):
        make_task(parse(dict(eval=given)))
