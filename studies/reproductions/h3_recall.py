"""Associative recall as H3 defines it: one query at the end of 40 tokens."""

from studies.reproductions.base import Criterion, Reproduction, Tier, probe_config, solves

REPRODUCTION = Reproduction(
    name="h3_recall",
    said="Attention solves associative recall with one query; a plain recurrence falls behind.",
    source="Fu et al. 2023, Hungry hungry hippos, table 2",
    published="attention 100.0%, S4D 86.0%, gated state spaces 78.0%, H3 99.8%",
    setting=(
        "40 tokens of a vocabulary of 20, where the source has 20 of 10; conv=4 before each mixer "
        "and 800 steps of 64 new rows; the loss is that of the answer alone. The plain recurrence "
        "is a GRU, in place of S4D and gated state spaces."
    ),
    tier=Tier.CPU,
    config=probe_config("recall,attention", {"steps": 800}),
    arms={
        "attention": {"model.mixer": "attention"},
        "Mamba": {"model.mixer": "mamba"},
        "GRU": {"model.mixer": "gru"},
    },
    criteria=(
        solves("attention", "reach 99%"),
        Criterion(
            "GRU: the median is at least 5 points below attention's",
            lambda found: found.median("attention") - found.median("GRU") >= 0.05,
        ),
    ),
)
