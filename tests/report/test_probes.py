"""Reports of probes: fit rates, letters, verdicts, and a point for every seed."""

import re

import pytest

from seqarch.records import Record, Results, Source
from seqarch.report.comparison import comparison_figures, comparison_tables
from seqarch.report.formats import show
from seqarch.report.members import Member
from seqarch.report.probes import fit_figure, outcomes, verdict
from seqarch.report.render import cells
from seqarch.stats.fit_rate import fit_rate
from tests.report.conftest import comparison_of, member_of


def run_of(name, accuracy, *, seed=0, task="mqar", solved=0.99, status="ok"):
    seeds, found = dict(model=seed, data=seed), []
    if accuracy is None:
        found.append(Record("accuracy", "accuracy", status="diverged"))
    else:
        found.append(Record("accuracy", "accuracy", accuracy, n=512, status=status))
        found.append(Record("accuracy", "solved", solved))
        found.append(Record("accuracy", "chance", 1 / 64))
    config = dict(task=task, steps=400, model=dict(mixer="gru"), seed=seeds)
    return Results(Source(name, "run", config, 400, "test", seeds), tuple(found))


def probe_of(name, accuracies, **options):
    runs = (run_of(name, each, seed=seed, **options) for seed, each in enumerate(accuracies, 1))
    return Member(name, "run", tuple(runs))


ALL, SOME, NONE = [1.0] * 10, [1.0, 0.99, 0.995, 1.0] + [0.3] * 6, [0.2, 0.4] * 5


@pytest.fixture(scope="module")
def probed():
    return comparison_of(probe_of("attention", ALL), probe_of("mamba", SOME), probe_of("gru", NONE))


def by_title(table):
    """The cells of each member by the titles of their columns."""
    titles = [column.title for column in table.columns]
    return {row[0]: dict(zip(titles, row, strict=True)) for row in cells(table)}


def test_the_summary_has_n_median_fit_rate_and_letters(probed):
    table = comparison_tables(probed)[0]
    titles = [column.title for column in table.columns]
    assert titles[:2] == ["model", "layers of"]
    assert titles[2:6] == ["n", "median accuracy", "fit rate", "not told apart"]
    found = by_title(table)
    assert found["attention"]["fit rate"] == "1.00 [0.72, 1.00]"
    assert found["mamba"]["fit rate"] == "0.40 [0.17, 0.69]"
    assert found["gru"]["fit rate"] == "0.00 [0.00, 0.28]"
    assert [each["n"] for each in found.values()] == ["10"] * 3
    assert found["gru"]["median accuracy"] == "30.0%"
    assert "unadjusted" in table.caption


def test_letters_are_corrected_over_all_pairs(probed):
    """Four of ten and ten of ten differ on their own (p = 0.011), and not among ten pairs."""
    letters = {name: each.letters for name, each in outcomes(probed.models).items()}
    assert letters == {"attention": "a", "mamba": "b", "gru": "b"}
    more = comparison_of(*probed.models, probe_of("x", SOME), probe_of("y", SOME))
    letters = {name: each.letters for name, each in outcomes(more.models).items()}
    assert letters == {"attention": "a", "mamba": "a b", "gru": "b", "x": "a b", "y": "a b"}


def test_a_member_with_few_seeds_has_no_letter_and_no_verdict(probed):
    models = (probe_of("attention", ALL[:9]), *probed.models[1:])
    found = outcomes(models)
    assert found["attention"].letters == "" and found["gru"].letters
    assert verdict(found["attention"].rate) == "9 of 9 solved it; a verdict needs 10 seeds"


@pytest.mark.parametrize(
    "k, text",
    [
        (0, "0 of 10 solved it, so a rate of up to 0.28 is compatible"),
        (4, "4 of 10 solved it, so rates from 0.17 to 0.69 are compatible"),
        (10, "10 of 10 solved it, so a rate of 0.72 or more is compatible"),
    ],
)
def test_a_verdict_says_which_rates_are_compatible(k, text):
    assert verdict(fit_rate([1.0] * k + [0.0] * (10 - k), 0.99)) == text


def test_a_diverged_run_is_a_failure_and_one_that_was_not_measured_is_none():
    half = probe_of("gru", [1.0] * 4 + [None] * 6)
    unmeasured = run_of("gru", 1.0, status="failed")
    member = half._replace(results=(*half.results, unmeasured))
    (found,) = outcomes([member]).values()
    assert found.rate[:2] == (4, 10) and found.scores.count(None) == 6
    assert found.median is None
    tables = {table.title: table for table in comparison_tables(comparison_of(member))}
    shown = by_title(tables["Fit rates"])["gru"]
    assert (shown["diverged"], shown["lowest"], shown["median accuracy"]) == ("6", "100.0%", "–")
    (found,) = outcomes([probe_of("gru", [None] * 10)]).values()
    assert found.rate.fits == 0 and found.rate.n == 10
    assert comparison_figures(comparison_of(probe_of("gru", [None] * 10)))


def test_the_threshold_is_the_tasks():
    (found,) = outcomes([probe_of("gru", [0.9] * 10, solved=0.9)]).values()
    assert found.rate.fits == 10


def test_members_with_other_tasks_have_no_letters():
    found = outcomes([probe_of("a", ALL), probe_of("b", NONE, task="parity")])
    assert [each.letters for each in found.values()] == ["", ""]
    assert [each.rate.fits for each in found.values()] == [10, 0]


def test_one_seed_and_text_are_shown_as_before(comparison):
    one = comparison_of(probe_of("gru", [0.5]))
    assert outcomes(one.models) == {} == outcomes(comparison.models)
    titles = [column.title for column in comparison_tables(one)[0].columns]
    assert titles[:2] == ["model", "accuracy"]
    assert "fit-rate" not in {each.name for each in comparison_figures(comparison)}
    assert not outcomes([member_of("gru")]) and fit_figure(comparison, {}) is None


def test_every_seed_is_a_point(probed):
    """Points and crosses are <use> elements in the member's colour."""
    (drawn,) = (each for each in comparison_figures(probed) if each.name == "fit-rate")
    assert drawn.title == "How often is the task solved?"
    assert all(member.name in drawn.svg for member in probed.models)
    for accuracies in (SOME, [*SOME[:-3], None, None, None]):
        svg = fit_figure(*_of(probe_of("gru", accuracies))).svg
        assert len(re.findall("<use [^>]*#0072b2", svg)) == 10


def _of(member):
    comparison = comparison_of(member)
    return comparison, outcomes(comparison.models)


def test_a_fit_rate_is_shown_with_its_interval():
    assert show(fit_rate([1.0] * 3 + [None], 0.99), "fit_rate") == "0.75 [0.30, 0.95]"
