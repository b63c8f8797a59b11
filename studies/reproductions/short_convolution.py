"""The short convolution is what makes recall easy."""

from studies.reproductions.base import Reproduction, Tier, more_solve, probe_config

WITH, WITHOUT = "conv=4", "conv=0"

REPRODUCTION = Reproduction(
    name="short_convolution",
    said="A short convolution before attention makes recall easy to learn.",
    source="Okpekpe and Orvieto 2025, Revisiting associative recall, arXiv 2508.19029, ablations",
    published="one layer of attention solves multi-query recall with a convolution on queries, "
    "keys and values, and not without",
    setting="Two layers of width 64, which need no convolution when trained for long, a "
    "convolution before each, 4 pairs in 64 tokens, vocabulary 256, 400 steps of 64 rows.",
    tier=Tier.CPU,
    config=probe_config("mqar,attention"),
    arms={WITH: {"model.conv": 4}, WITHOUT: {"model.conv": 0}},
    lrs=(1e-3, 3e-3, 1e-2),
    criteria=(more_solve(WITH, WITHOUT, "with it more runs solve the task than without"),),
)
