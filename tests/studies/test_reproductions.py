"""Reproductions: verdicts follow from records, every one can be planned, and one runs."""

from pathlib import Path

import pytest

from configs import probes
from seqarch.config import parse
from seqarch.errors import UserError
from seqarch.records import Record, Results, Source
from seqarch.report.render import cells
from seqarch.sweep import hyper
from seqarch.sweep.plan import plan
from seqarch.tasks import make_task
from studies.reproductions import run
from studies.reproductions.base import (
    Criterion,
    Outcomes,
    Reproduction,
    Status,
    Tier,
    beyond,
)
from studies.reproductions.page import REPRODUCTIONS, reproductions_page, verdict_of


def result(arm: str, score: float | None, kind: str = "run", lr: float = 3e-3, seed: int = 0):
    reached = dict(value=score) if score is not None else dict(status="diverged")
    found = [Record("accuracy", "accuracy", **reached)]
    if score is not None:
        found.append(Record("accuracy", "solved", 0.99))
        found.append(Record("accuracy", "length_accuracy", score / 2, {"context": 1024}))
    facts = {run.FACTS: dict(name="gru_state_tracking", seconds=30.0)}
    seeds = dict(model=seed, data=seed)
    return Results(Source(arm, kind, dict(optim=dict(lr=lr)), seeds=seeds, facts=facts), (*found,))


def results(*scores: float | None) -> list[Results]:
    """Fresh runs of both arms."""
    arms = REPRODUCTIONS["gru_state_tracking"].arms
    return [result(arm, x, seed=seed) for arm in arms for seed, x in enumerate(scores)]


@pytest.mark.parametrize(
    "scores, verdict, holds",
    [
        ([1.0] * 8 + [0.5, None], Status.PARTLY, [True, False, True, False]),
        ([1.0] * 7 + [0.5] * 3, Status.FAILED, [False] * 4),
    ],
)
def test_a_verdict_follows_from_the_criteria(scores, verdict, holds):
    assert verdict_of(REPRODUCTIONS["gru_state_tracking"], results(*scores)) == (verdict, holds, "")


def test_runs_that_are_missing_are_told():
    only = [each for each in results(1.0) if each.source.member == "parity"]
    verdict, _, why = verdict_of(REPRODUCTIONS["gru_state_tracking"], only)
    assert (verdict, why) == (Status.OPEN, "S3 has no runs")


def test_a_diverged_run_is_a_failure_and_counts_as_nothing():
    found = Outcomes(results(1.0, None, 0.4))
    assert found.scores("parity") == [1.0, None, 0.4]
    assert found.median("parity") == 0.4
    assert (found.fit_rate("parity").fits, found.fit_rate("parity").n) == (1, 3)
    assert found.median("parity", beyond(1024)) == 0.2


def test_the_search_chooses_the_rate_at_which_most_seeds_fit():
    scores = {1e-3: (0.5, 1.0), 3e-3: (1.0, 0.99), 1e-2: (None, 1.0)}
    searched = [
        result("a", x, "search", lr, seed)
        for lr, found in scores.items()
        for seed, x in enumerate(found)
    ]
    assert Outcomes(searched).learning_rate("a") == 3e-3
    assert Outcomes(searched).search("a") == {lr: list(x) for lr, x in scores.items()}


def test_the_page_has_every_result_and_says_what_was_not_run():
    page = reproductions_page(results(1.0, 0.98, None))
    glance, table, section = page.tables
    shown = {row[-1].removeprefix("python scripts/reproduce.py "): row for row in cells(table)}
    assert shown.keys() == REPRODUCTIONS.keys()
    assert shown["mqar_published"][4] == "not run"
    assert [row[0] for row in cells(glance)] == [REPRODUCTIONS["gru_state_tracking"].said]
    assert "98.0%, 1 of 3" in shown["gru_state_tracking"][3]
    assert section.rows[0].cells[:3] == ("parity", "0.003", 3)
    assert section.rows[0].cells[5] == "98.0 100.0 diverged"
    assert "at least 8 of 10 runs solve it at 64 tokens: no" in section.caption


@pytest.mark.parametrize("study", REPRODUCTIONS.values(), ids=REPRODUCTIONS)
def test_every_reproduction_can_be_planned(study, tmp_path):
    assert study.criteria and (study.seeds or study.searches)
    sweep = hyper.product([list(study.arms.values()), hyper.sweep("optim.lr", study.lrs)])
    for each in plan(parse(study.config().to_dict()), sweep, tmp_path, "test", ("accuracy",)):
        task, asked = make_task(each.config), each.config.evals["accuracy"]
        measured = [{}, *({"context": length} for length in asked["lengths"])]
        measured += [{task.size: size} for size in asked["sizes"]]
        assert all(dict(measure.at) in measured for measure in study.measures)


@pytest.mark.slow
def test_a_reproduction_chooses_a_rate_and_reports_fresh_seeds(tmp_path):
    def get_config():
        config = probes.get_config("parity(length=8),gru")
        config.steps, config.batch, config.eval.batch, config.model.dim = 2, 4, 4, 8
        config.evals.accuracy.rows, config.evals.accuracy.lengths = 4, ()
        return config

    study = Reproduction(
        *("tiny", "a result", "a source", "a number", "small", Tier.CPU, get_config),
        arms={"GRU": {"model.layers": 1}},
        criteria=(Criterion("it solves it", lambda found: found.fit_rate("GRU").rate == 1),),
        lrs=(1e-3, 1e-2),
        selection_seeds=1,
        seeds=2,
    )
    found = run.reproduce(study, tmp_path / "runs", 1, lambda line: None)
    assert [each.source.kind for each in found] == ["search"] * 2 + ["run"] * 2
    assert {each.source.split for each in found} == {"validation", "test"}
    chosen = Outcomes(found).learning_rate("GRU")
    fresh = found[2:]
    assert {each.source.config["optim"]["lr"] for each in fresh} == {chosen}
    assert [each.source.seeds["data"] for each in fresh] == [0, 1]
    assert all(each.fact(run.FACTS, "seconds") > 0 for each in found)
    again = run.reproduce(study, tmp_path / "runs", 1, lambda line: None)
    assert again == found

    path = Path(tmp_path / "records.jsonl")
    run.write(path, found)
    run.write(path, [result("a", 1.0)])
    run.write(path, found[2:])
    kept = run.by_reproduction(run.records.read(path).results)
    assert {name: len(each) for name, each in kept.items()} == {"gru_state_tracking": 1, "tiny": 2}


def test_an_unknown_arm_is_told():
    with pytest.raises(UserError, match="nothing has no runs"):
        Outcomes([]).scores("nothing")
