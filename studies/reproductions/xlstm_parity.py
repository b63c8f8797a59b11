"""Parity with both cells of xLSTM: the sLSTM tracks a state, the mLSTM does not."""

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


REPRODUCTION = Reproduction(
    name="xlstm_parity",
    said="The sLSTM learns parity, and the mLSTM does not.",
    source="Beck et al. 2024, xLSTM, section 4.1 and figure 4; Grazzi et al. 2025, Unlocking "
    "state-tracking in linear RNNs, table 3",
    published="scaled accuracy (chance is 0) 1.00 for the sLSTM and 0.04 for the mLSTM by Beck et "
    "al., 1.000 and 0.087 by Grazzi et al.",
    setting="Two layers of width 64, rows of 40 tokens with a label at every position, 400 steps "
    "of 64 rows, scored at positions 41 to 256.",
    tier=Tier.CPU,
    config=probe_config("parity(length=40),slstm", {"evals.accuracy.lengths": (256,)}),
    arms={"sLSTM": {"model.mixer": "slstm"}, "mLSTM": {"model.mixer": "mlstm"}},
    measures=(ACCURACY, LONG),
    lrs=(1e-3, 3e-3),
    criteria=(
        solves("sLSTM", "solve it at 40 tokens"),
        Criterion(
            "sLSTM: the median beyond training is at least 90%",
            lambda found: found.median("sLSTM", LONG) >= 0.9,
        ),
        Criterion(
            "mLSTM: the median beyond training is at most 60%, where chance is 50%",
            lambda found: found.median("mLSTM", LONG) <= 0.6,
        ),
    ),
)
