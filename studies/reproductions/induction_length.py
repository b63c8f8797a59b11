"""Mamba extrapolates induction heads far beyond training; rotary attention does not."""

from studies.reproductions.base import ACCURACY, Criterion, Reproduction, Tier, beyond, probe_config

TWICE, FAR = beyond(512), beyond(4096)


REPRODUCTION = Reproduction(
    name="induction_length",
    said="Mamba trained on induction heads at 256 tokens holds far beyond; rotary attention fails.",
    source="Gu and Dao 2023, Mamba, section 4.1.2 and table 11",
    published="Mamba 100% up to 2^20 tokens; attention with rotary positions fails past 2 x 256",
    setting="conv=4 before each mixer, 400 steps of 64 rows; the source trains on many more rows.",
    tier=Tier.CPU,
    config=probe_config(
        "induction,mamba",
        {"evals.accuracy.lengths": (512, 1024, 4096), "evals.accuracy.rows": 256, "eval.batch": 16},
    ),
    arms={"Mamba": {"model.mixer": "mamba"}, "attention": {"model.mixer": "attention"}},
    measures=(ACCURACY, TWICE, beyond(1024), FAR),
    seeds=5,
    criteria=(
        Criterion(
            "Mamba: the median is at least 99% at 256 tokens",
            lambda found: found.median("Mamba") >= 0.99,
        ),
        Criterion(
            "Mamba: the median is at least 90% at 4,096 tokens",
            lambda found: found.median("Mamba", FAR) >= 0.9,
        ),
        Criterion(
            "attention: the median is at least 99% at 256 tokens and below 50% at 4,096",
            lambda found: (
                found.median("attention") >= 0.99 and found.median("attention", FAR) < 0.5
            ),
        ),
    ),
    explained="Within these steps Mamba does not leave chance at 256 tokens, which says nothing of "
    "longer rows. docs/abilities.md has it after training on 64 tokens.",
)
