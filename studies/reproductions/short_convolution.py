"""The short convolution is what makes recall easy."""

from configs import probes
from seqarch.stats.fit_rate import fisher_exact
from studies.reproductions.base import Criterion, Reproduction, Tier

WITH, WITHOUT = "conv=4", "conv=0"

REPRODUCTION = Reproduction(
    name="short_convolution",
    said="A short convolution before attention makes recall easy to learn.",
    source="Arora et al. 2024, Based, section 3, and 2023, Zoology, section 3",
    published="short convolutions close most of the gap in recall",
    setting="4 pairs in 64 tokens, vocabulary 256, 400 steps of 64 rows, attention of width 64.",
    tier=Tier.CPU,
    config=lambda: probes.get_config("mqar,attention"),
    arms={WITH: {"model.conv": 4}, WITHOUT: {"model.conv": 0}},
    lrs=(1e-3, 3e-3, 1e-2),
    criteria=(
        Criterion(
            "with it more runs solve the task than without, by Fisher's exact test (p < 0.05)",
            lambda found: (
                found.fit_rate(WITH).rate > found.fit_rate(WITHOUT).rate
                and fisher_exact(found.fit_rate(WITH), found.fit_rate(WITHOUT)) < 0.05
            ),
        ),
    ),
)
