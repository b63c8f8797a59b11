"""Flip-flops: an LSTM makes no error, and a Transformer keeps some."""

from studies.reproductions.base import (
    ACCURACY,
    Criterion,
    Measure,
    Outcomes,
    Reproduction,
    Tier,
    probe_config,
)

SPARSE, DENSE = (
    Measure(f"accuracy at ignore={p}", "size_accuracy", {"ignore": p}) for p in (0.98, 0.1)
)
TESTS = (ACCURACY, DENSE, SPARSE)


def faultless(found: Outcomes, arm: str) -> int:
    """Returns the number of runs that answer every read of the three tests."""
    runs = zip(*(found.scores(arm, test) for test in TESTS))
    return sum(all(score == 1.0 for score in run) for run in runs)


REPRODUCTION = Reproduction(
    name="flipflop_glitches",
    said="An LSTM learns flip-flops without an error, and a Transformer keeps some.",
    source="Liu et al. 2023, Exposing attention glitches with flip-flop language modeling",
    published="an LSTM makes no error on any test, Transformers a long tail of them",
    setting="Two layers of width 64, rows of 512 tokens, 1,000 steps of 16 rows at an ignore of "
    "0.8; every read of 2,048 rows at 0.98, 0.8 and 0.1 is scored.",
    tier=Tier.HOURS,
    config=probe_config(
        "flipflop(length=512),lstm",
        {
            "batch": 16,
            "steps": 1000,
            "evals.accuracy.rows": 2048,
            "evals.accuracy.lengths": (),
            "evals.accuracy.sizes": (0.98, 0.1),
        },
    ),
    arms={"LSTM": {"model.mixer": "lstm"}, "attention": {"model.mixer": "attention"}},
    measures=TESTS,
    lrs=(1e-3, 3e-3),
    criteria=(
        Criterion(
            "LSTM: at least 8 of 10 runs make no error on the three tests",
            lambda found: faultless(found, "LSTM") >= 8,
        ),
        Criterion(
            "attention: at most 2 of 10 runs make no error on the three tests",
            lambda found: faultless(found, "attention") <= 2,
        ),
    ),
)
