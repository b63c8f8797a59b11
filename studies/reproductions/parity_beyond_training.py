"""Parity at lengths beyond training: Mamba, linear attention and attention stay at chance."""

from studies.reproductions.base import ACCURACY, Criterion, Reproduction, Tier, beyond, probe_config

LONG = beyond(256)
ARMS = {
    "Mamba": "mamba",
    "linear attention": "linear_attention(decay=data)",
    "attention": "attention",
}


REPRODUCTION = Reproduction(
    name="parity_beyond_training",
    said="Without negative eigenvalues, linear recurrences and attention do not learn parity.",
    source="Grazzi et al. 2025, Unlocking state-tracking in linear RNNs, section 5.1 and table 3",
    published="scaled accuracy (chance is 0) of the best of three runs 0.000 for Mamba, 0.022 for "
    "a Transformer",
    setting="Rows of 40 tokens with a label at every position, scored at positions 41 to 256.",
    tier=Tier.CPU,
    config=probe_config("parity(length=40),mamba", {"evals.accuracy.lengths": (256,)}),
    arms={name: {"model.mixer": mixer} for name, mixer in ARMS.items()},
    measures=(ACCURACY, LONG),
    lrs=(1e-3, 3e-3),
    criteria=tuple(
        Criterion(
            f"{name}: the median beyond training is at most 55%, where chance is 50%",
            lambda found, name=name: found.median(name, LONG) <= 0.55,
        )
        for name in ARMS
    ),
)
