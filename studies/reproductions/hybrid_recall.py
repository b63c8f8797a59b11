"""Hybrids with few attention layers recover recall."""

from studies.reproductions.base import Criterion, Reproduction, Tier, more_solve, probe_config

REPRODUCTION = Reproduction(
    name="hybrid_recall",
    said="One attention layer among recurrent ones recovers recall.",
    source="Arora et al. 2023, Zoology, abstract",
    published="hybrids with sparse attention close 97.4% of the gap to attention",
    setting=(
        "4 pairs in 64 tokens, vocabulary 256, conv=4, 400 steps of 64 rows, two layers of width "
        "64: half of the hybrid's layers are attention."
    ),
    tier=Tier.CPU,
    config=probe_config("mqar,attention"),
    arms={
        "attention": {"model.mixer": "attention"},
        "hybrid": {"model.mixer": "mamba,attention"},
        "Mamba": {"model.mixer": "mamba"},
    },
    lrs=(3e-3, 1e-2),
    criteria=(
        more_solve("hybrid", "Mamba", "more runs of the hybrid than of Mamba solve it"),
        Criterion(
            "the hybrid's median is at most 2 points below attention's",
            lambda found: found.median("attention") - found.median("hybrid") <= 0.02,
        ),
    ),
)
