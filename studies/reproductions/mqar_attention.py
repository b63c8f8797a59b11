"""Attention behind a short convolution solves multi-query associative recall in minutes."""

from studies.reproductions.base import Criterion, Reproduction, Tier, probe_config

REPRODUCTION = Reproduction(
    name="mqar_attention",
    said="Attention solves multi-query associative recall.",
    source="Arora et al. 2023, Zoology, figure 2",
    published="attention solves it at every width and length",
    setting=(
        "64 tokens, 4 pairs, vocabulary 256, new rows at every step, a short convolution "
        "(conv=4) and 400 steps of 64 rows; the source has vocabulary 8,192, no convolution, and "
        "64 epochs of 100,000 rows."
    ),
    tier=Tier.CPU,
    config=probe_config("mqar,attention"),
    arms={"attention, conv=4": {"model.mixer": "attention"}},
    criteria=(
        Criterion(
            "at least 8 of 10 runs reach 99%",
            lambda found: found.fit_rate("attention, conv=4").rate >= 0.8,
        ),
    ),
)
