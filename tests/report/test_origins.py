"""The report says how long the runs were trained."""

import pytest

from seqarch.evals.evaluator import SECONDS, TRAINING
from seqarch.report.members import Member
from seqarch.report.origin_tables import run_table
from tests.report.conftest import comparison_of, results_of


def trained(seconds, seed):
    results = results_of("gru", seed=seed)
    facts = {TRAINING: {SECONDS: seconds}} if seconds is not None else {}
    return results.with_source(facts=facts)


@pytest.mark.parametrize(
    "seconds, said",
    [
        ((1800.0, 5400.0), "All took 2.0 h of training, one after the other."),
        ((90.0, None), "1 of 2 took 1.5 min of training, one after the other."),
        ((None, None), "measures it again."),
    ],
)
def test_the_table_of_runs_says_how_long_they_were_trained(seconds, said):
    runs = tuple(trained(each, seed) for seed, each in enumerate(seconds))
    table = run_table(comparison_of(Member("gru", "run", runs)))
    assert table.caption.endswith(said)
