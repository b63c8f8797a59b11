"""A Transformer copies longer strings than a state-space model of the same size."""

from studies.reproductions.base import (
    ACCURACY,
    Criterion,
    Measure,
    Reproduction,
    Tier,
    probe_config,
)

EXACT = Measure("strings all right", "exact")


REPRODUCTION = Reproduction(
    name="copying",
    said="A Transformer copies strings that a state-space model of its size does not.",
    source="Jelassi et al. 2024, Repeat after me, section 3 and figure 1",
    published="Transformers copy more efficiently and generalize better than models of fixed state",
    setting=(
        "Strings of 1 to 31 letters, width 64, two layers, 1,000 steps of 64 rows. Mamba has more "
        "parameters at this width than attention."
    ),
    tier=Tier.CPU,
    config=probe_config("copy,attention", {"steps": 1000}),
    arms={"attention": {"model.mixer": "attention"}, "Mamba": {"model.mixer": "mamba"}},
    measures=(ACCURACY, EXACT),
    seeds=5,
    criteria=(
        Criterion(
            "attention: the median accuracy is at least 95%",
            lambda found: found.median("attention") >= 0.95,
        ),
        Criterion(
            "Mamba: the median accuracy is at least 10 points below attention's",
            lambda found: found.median("attention") - found.median("Mamba") >= 0.1,
        ),
    ),
)
