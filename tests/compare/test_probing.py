"""Probes of a comparison: their configs, the choice of learning rates, deadlines, what reports
show.
"""

import dataclasses
import json
import math

import pytest

from configs import compare, probes
from seqarch import records
from seqarch.compare import comparison, execution, spec
from seqarch.compare.deadline import Deadline
from seqarch.compare.known import read_known
from seqarch.compare.probe_spec import read_probes
from seqarch.compare.probing import probe_studies, score_probes
from seqarch.config import parse
from seqarch.errors import Diverged, UserError
from seqarch.mixers import MIXERS
from seqarch.records import Record, Results
from seqarch.report import members
from seqarch.report.abilities import ability_tables
from seqarch.report.collect import collect
from seqarch.report.comparison import comparison_figures, comparison_tables
from seqarch.report.members import Comparison
from seqarch.report.notices import notices
from seqarch.report.pages import write_report
from seqarch.stats.learning_rates import half_octave_grid
from tests.report.conftest import member_of

TASK = "recall = mqar(pairs=2,length=16,vocab=16); steps=40"
GRID = "lrs=(1e-3, 2e-3, 4e-3); search_seeds=(1, 2); seeds=(3, 4, 5)"
ORDER = (1e-3, 2e-3, 4e-3)


def start(argument):
    return parse(probes.get_config(argument))


def given(*texts, **changes):
    return spec.read(
        compare.get_config().to_dict() | dict(probes=texts, members=("gru",)) | changes
    )


def test_a_member_is_an_encoder_decoder_on_probes_too(tmp_path):
    member = "a = gru; mlp=8; kind=encdec; encoder=attention(causal=False); source=summary"
    (study,) = probe_studies(given("reverse(length=16)", members=(member,)), tmp_path, start)
    model = study.config.model
    assert (model.kind, model.encoder, model.source, model.mlp) == (
        *("encdec", "attention(causal=False)", "summary"),
        0,
    )
    with pytest.raises(UserError, match="'a' on the probe 'parity': .* parity has no source"):
        probe_studies(given("parity", members=(member,)), tmp_path, start)


@pytest.mark.parametrize("field, value", [("members", "gru"), ("lrs", 3), ("seeds", 1)])
def test_one_value_for_several_is_refused(field, value):
    with pytest.raises(UserError, match=rf"config.{field} is '?{value}'?; give several, as \("):
        given(**{field: value})


@pytest.fixture
def trained(monkeypatch):
    """Runs get the score that `score(config, split)` says in place of training; None: diverged."""
    done = []

    def set_scores(score):
        def train(config, run, progress):
            done.append(run.name)
            run.mkdir(parents=True, exist_ok=True)
            execution.rundir.write_config(run, json.loads(json.dumps(execution.to_dict(config))))
            value = score(config, "validation")
            row = dict(step=config.steps, validation_accuracy=value, refused=0 if value else 99)
            lines = [row]
            if value is not None and value >= 0.99 and config.eval.stop_when_solved:
                lines = [row | dict(step=25), row | dict(step=50)]
            (run / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
            if value is None:
                raise Diverged("training diverged")

        def evaluate(run, split, only, keep, progress):
            config = execution.rundir.stored_config(run)
            step = execution.last_step(run, config)
            source = execution.source(run.name, config, step, split)
            found = [Record("accuracy", "accuracy", score(config, split), n=8)]
            found += [Record("accuracy", "solved", 0.99), Record("memory", "params", 1)]
            for context in config.evals["memory"]["contexts"]:
                found.append(Record("memory", "state_bytes", 512, {"context": context}))
            for length in config.evals["accuracy"]["lengths"]:
                at = {"context": length}
                found.append(Record("accuracy", "length_accuracy", score(config, length), at))
            records.write(run / records.NAME, [Results(source, tuple(found))])
            return Results(source, tuple(found))

        monkeypatch.setattr(execution, "train", train)
        monkeypatch.setattr(execution, "evaluate", evaluate)
        monkeypatch.setattr(execution, "write_evaluation", lambda *_: None)
        return done

    return set_scores


def compared(asked, workdir, **options):
    studies = probe_studies(asked, workdir, start, **options)
    return studies, Comparison("", "", "", (), score_probes(studies))


def cells(found):
    """The table of all probes, as texts by member, without states."""
    table = ability_tables(found)[0]
    texts = [index for index, column in enumerate(table.columns) if column.unit == "text"][1:]
    return {row.cells[0]: tuple(row.cells[index] for index in texts) for row in table.rows}


def test_a_probe_has_the_budget_of_its_config_file_and_the_pattern_of_the_member(tmp_path):
    text = "recall = mqar(pairs=4,length=64); steps=30; lengths=(128,); evals.accuracy.rows=64"
    asked = given(text, "parity", members=("a = gru; conv=2; mlp=0", "hybrid = gru,gru,mamba"))
    (recall, deep, parity, _) = probe_studies(asked, tmp_path, start)
    config = recall.config
    assert recall.directory == tmp_path / "a/probes/recall" and parity.probe.title == "parity"
    assert (config.batch, config.steps, config.model.conv, config.model.mlp) == (64, 30, 4, 0)
    assert (config.model.mixer, config.model.layers) == ("gru", 2) and deep.config.model.layers == 3
    assert config.evals["accuracy"] == dict(rows=64, lengths=(128,))
    assert config.evals["memory"] == dict(contexts=(128, 2**20), compiled=())
    assert not config.eval.stop_when_solved and parity.config.eval.stop_when_solved


@pytest.mark.parametrize(
    "text, message",
    [
        ("parity; stepz=3", "the probe 'parity': unknown config field 'stepz'"),
        ("parity; seeds=3", r"seeds=3; give several"),
        ("parity; lrs=(1e-2, 1e-3)", "rising learning rates"),
        ("parity; lrs=(1e-3, 1e-2); search_seeds=(1,)", "no learning rate was chosen"),
        (
            "parity; members=('grU',)",
            "unknown member of the probe parity 'grU'; did you mean 'gru'",
        ),
        ("a/b = parity", "no name that a directory can have"),
        ("text", "text is no probe"),
        ("mqar(pairs=99)", "99 queries needs a length of 396"),
        ("parity; lengths=(0,)", "give lengths beyond the 64 tokens of training"),
        ("parity; lengths=(64,)", "give lengths beyond the 64 tokens of training"),
        ("span_corruption", "is no probe; use configs/seq2seq.py"),
        ("parity; seeds=(1, 1)", r"seeds=\(1, 1\); give each once"),
        ("parity; task=mqar", "'parity' sets task, which comes from the probe itself"),
        ("parity; model.mixer=gru", "sets model.mixer, which comes from the member"),
        ("parity; seed.data=3", "sets seed.data, which comes from seeds"),
        ("parity; lrs=(1e-3, 1e-2); optim.lr=0.1", "sets optim.lr, which comes from lrs"),
    ],
)
def test_wrong_probes_are_told(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        probe_studies(given(text), tmp_path, start)


def test_a_name_is_that_of_one_model(tmp_path):
    again = ("gru = gru", "other = gru; mlp=0")
    assert len(probe_studies(given("parity", probe_members=again), tmp_path, start)) == 2
    for twice in [("gru = mamba",), ("a = gru", "a = mamba")]:
        with pytest.raises(UserError, match="give one of them another name"):
            probe_studies(given("parity", probe_members=twice), tmp_path, start)


def test_a_title_is_there_once():
    with pytest.raises(UserError, match="has 'parity' twice"):
        read_probes(("parity", "parity; steps=3"))


def test_probes_may_be_compared_without_a_text(tmp_path, trained):
    trained(lambda config, split: 1.0)
    asked = given(TASK, members=(), probe_members=("a = gru(hidden=32)",))
    assert comparison.studies(asked, tmp_path) == []
    probed = probe_studies(asked, tmp_path, start)
    made = comparison.run(asked, [], tmp_path, 1, print, probed).comparison
    write_report(made, tmp_path / "report")
    assert "a, recall" in (tmp_path / "report/runs.csv").read_text()
    table = comparison_tables(made)[0]
    assert [column.title for column in table.columns] == [
        *("model", "layers of", "recall", "state @ 16", "state @ 1,048,576")
    ]
    assert table.rows[0].cells == ("a", "gru(hidden=32)", "100.0%, 1 seed", 512, 512)
    probes = list(made.probes)
    source = dataclasses.replace(probes[0].source, member="b", provenance=dict(revision="other"))
    mixed = made._replace(probes=(*probes, probes[0]._replace(source=source)))
    assert "Records of 2 revisions are mixed" in notices(mixed)[0]
    assert [row.cells[0] for row in comparison_tables(mixed)[0].rows] == ["a [r1]", "b [r2]"]


def test_runs_are_known_by_the_records_that_they_left(tmp_path, trained):
    """The runs of a slice are gone; the next slice trains what is left, and reports all."""
    done = trained(lambda config, split: None if config.seed.model == 4 else 0.5)
    only = dict(members=(), probe_members=("gru",))
    asked = given(f"{TASK}; {GRID.replace('(3, 4, 5)', '(3, 4)')}", **only)
    studies = probe_studies(asked, tmp_path / "a", start)
    made = comparison.run(asked, [], tmp_path / "a", 1, print, studies)
    write_report(made.comparison, tmp_path / "report")
    done.clear()
    known = read_known([tmp_path / "report" / records.NAME])
    later = given(f"{TASK}; {GRID}", **only)
    (study,), found = compared(later, tmp_path / "b", known=known)
    assert done == ["seed-5"] and study.left() == 0
    scored = [each for each in found.probes if each.source.kind == "probe"]
    assert [each.source.config["seed"]["model"] for each in scored] == [3, 4, 5]
    assert [each.records[0].status for each in scored] == ["ok", "diverged", "ok"]
    (search,) = [each for each in found.probes if each.source.kind == "probe_search"]
    assert len(search.records) == 6
    wider = given(f"{TASK}; model.dim=8; {GRID}", **only)
    assert probe_studies(wider, tmp_path / "c", start, known=known)[0].left() == study.runs


def test_records_without_probes_are_refused(tmp_path):
    records.write(tmp_path / records.NAME, [Results(records.Source("a"), ())])
    with pytest.raises(UserError, match="has no records of probes; give records.jsonl"):
        read_known([tmp_path / records.NAME])


@pytest.mark.slow
def test_every_registered_mixer_gets_probes_without_a_line(tmp_path, monkeypatch):
    monkeypatch.setitem(MIXERS, "newcomer", MIXERS["gru"])
    asked = spec.read(compare.get_config("long").to_dict())
    names = [study.name for study in probe_studies(asked, tmp_path, start)]
    assert {"newcomer, recall", "newcomer, state tracking", "hybrid, copying"} <= set(names)
    assert "newcomer, copying" not in names and "gru-conv, recall" not in names


def test_learning_rates_are_chosen_by_fit_rate_on_seeds_that_are_not_reported(tmp_path, trained):
    """2e-3 has the higher median, and 4e-3 fits; test rows and seeds 3 to 5 choose nothing."""
    chosen = {1e-3: (0.1, 0.1), 2e-3: (0.98, 0.98), 4e-3: (1.0, None)}

    def score(config, split):
        if split == "test":
            return 1.0 if config.seed.model == 3 else 0.5
        if config.seed.model > 2:
            return None if config.seed.model == 5 else 0.5
        return chosen[config.optim.lr][config.seed.model - 1]

    done = trained(score)
    asked = given(f"{TASK}; {GRID}")
    (study,), found = compared(asked, tmp_path)
    assert study.is_trained() and len(done) == study.runs == 9
    runs = [each for each in found.probes if each.source.kind == "probe"]
    assert [each.source.config["optim"]["lr"] for each in runs] == [4e-3] * 3
    assert cells(found) == {"gru": ("50.0%, 1 of 3",)}
    search = found.probes[-1]
    assert search.find("search", "accuracy", lr=4e-3, seed=2).status == "diverged"
    assert search.value("search", "accuracy", lr=2e-3, seed=1) == 0.98
    again = compared(asked, tmp_path)[1]
    assert len(done) == 9 and again == found
    whole, path = found._replace(members=(member_of("gru"),)), tmp_path / records.NAME
    members.write(path, whole)
    assert members.read(path).probes == collect([path]).probes == found.probes
    assert "recall" in [column.title for column in comparison_tables(whole)[0].columns]
    assert [each.name for each in comparison_figures(whole)][:2][1] == "ability-against-state"
    titles = [table.title for table in ability_tables(found)]
    assert titles[0] == "What each can do"
    assert {"Fit rates: recall", "Learning rates: recall"} <= set(titles)


def test_one_seed_is_told_and_what_is_not_solved_is_not_within_this_budget(tmp_path, trained):
    trained(lambda config, split: 1.0 if config.model.mixer == "gru" else 0.25)
    text = "recall = mqar(pairs=2,length=16,vocab=16); members=('gru', 'mamba')"
    asked = given(text, "parity; members=('gru',)", members=("gru", "mamba"))
    found = compared(asked, tmp_path)[1]
    unsolved = "25.0%, 1 seed, not within this budget"
    assert cells(found) == {"gru": ("100.0%, 1 seed",) * 2, "mamba": (unsolved, "not run")}
    assert {each.source.step for each in found.probes} == {50, 400}


def test_beyond_training_the_longest_length_is_reported_and_training_goes_on(tmp_path, trained):
    trained(lambda config, split: 0.5 if split == 64 else 1.0)
    found = compared(given(f"{TASK}; lengths=(64, 32)"), tmp_path)[1]
    assert cells(found) == {"gru": ("50.0%, 1 seed, not within this budget",)}
    assert found.probes[0].source.step == 40


def test_divergence_at_every_learning_rate_is_a_result(tmp_path, trained):
    trained(lambda config, split: None)
    (study,), found = compared(given(f"{TASK}; {GRID}"), tmp_path)
    assert study.is_trained()
    assert cells(found) == {"gru": ("diverged, 1 seed, not within this budget",)}


def test_at_the_deadline_finished_runs_are_reported_and_the_rest_is_left(tmp_path, trained):
    done = trained(lambda config, split: 1.0)
    asked, over = given(f"{TASK}; {GRID}"), Deadline(-math.inf)
    (study,), found = compared(asked, tmp_path, deadline=over)
    assert study.left() == 9 and not done and cells(found) == {"gru": ("not run",)}
    compared(asked, tmp_path)
    (tmp_path / "gru/probes/recall/seed-5" / records.NAME).unlink()
    (study,), found = compared(asked, tmp_path, deadline=over)
    assert study.left() == 1 and cells(found) == {"gru": ("100.0%, 2 of 2",)}


def test_the_window_of_learning_rates_is_told_with_its_censored_edges(tmp_path, trained):
    """Of a half-octave grid with five seeds; the grid of the other probe is coarser."""
    trained(lambda config, split: 1.0 if config.optim.lr >= 2e-3 else 0.25)
    fine = f"lrs={half_octave_grid(1e-3, 4e-3)}; search_seeds=(1, 2, 3, 4, 5); seeds=(6,)"
    asked = given(f"{TASK}; {fine}", f"parity; {GRID}")
    found = compared(asked, tmp_path)[1]
    (row,), (coarse,) = (
        table.rows for table in ability_tables(found) if table.title.startswith("Learning rates")
    )
    edge = "5 from 0.001 to 0.004"
    assert row.cells == (
        "gru",
        "0.002828",
        edge,
        5,
        "0.002 to \N{GREATER-THAN OR EQUAL TO} 0.004",
        "\N{GREATER-THAN OR EQUAL TO} 1.0",
    )
    assert coarse.cells[3:] == (2, None, None)
