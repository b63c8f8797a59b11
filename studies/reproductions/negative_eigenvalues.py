"""Parity with DeltaNet: it takes transitions whose eigenvalues reach to -1."""

from studies.reproductions.base import (
    ACCURACY,
    Criterion,
    Reproduction,
    Tier,
    beyond,
    probe_config,
    solves,
)

LONG = beyond(256)
BELOW, ABOVE = "eigenvalues in (-1, 1)", "eigenvalues in (0, 1)"


REPRODUCTION = Reproduction(
    name="negative_eigenvalues",
    said="DeltaNet learns parity once its eigenvalues reach to -1.",
    source="Grazzi et al. 2025, Unlocking state-tracking in linear RNNs, section 5.1 and table 3",
    published="scaled accuracy (chance is 0) of the best of three runs 0.017 for DeltaNet, 1.000 "
    "with negative eigenvalues",
    setting="Two layers of width 64, rows of 40 tokens with a label at every position, 400 steps "
    "of 64 rows, scored at positions 41 to 256.",
    tier=Tier.CPU,
    config=probe_config("parity(length=40),deltanet", {"evals.accuracy.lengths": (256,)}),
    arms={
        BELOW: {"model.mixer": "deltanet(negative_eigenvalues=True)"},
        ABOVE: {"model.mixer": "deltanet"},
    },
    measures=(ACCURACY, LONG),
    lrs=(1e-3, 3e-3),
    criteria=(
        solves(BELOW, "solve it at 40 tokens"),
        Criterion(
            f"{BELOW}: the median beyond training is at least 90%",
            lambda found: found.median(BELOW, LONG) >= 0.9,
        ),
        Criterion(
            f"{ABOVE}: the median beyond training is at most 60%, where chance is 50%",
            lambda found: found.median(ABOVE, LONG) <= 0.6,
        ),
    ),
)
