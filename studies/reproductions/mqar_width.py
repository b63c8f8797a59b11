"""Attention recalls at every width; a fixed state needs width to grow with the pairs."""

from studies.reproductions.base import Criterion, Outcomes, Reproduction, Tier, probe_config

MIXERS = {"attention": "attention", "Mamba": "mamba", "linear attention": "linear_attention"}
WIDTHS = (16, 32, 64)


def falls(found: Outcomes, name: str) -> bool:
    """Returns whether the narrowest model recalls less than the widest, by a tenth."""
    narrow, wide = (found.median(f"{name}, {width}") for width in (WIDTHS[0], WIDTHS[-1]))
    return wide - narrow >= 0.1


REPRODUCTION = Reproduction(
    name="mqar_width",
    said="Attention recalls at every width, while models with a fixed state need width to grow.",
    source="Arora et al. 2023, Zoology, figure 2",
    published="attention solves it at every width; gated convolutions need width to grow with the "
    "length of rows",
    setting=(
        "8 pairs in 64 tokens, vocabulary 256, conv=4, 400 steps of 64 rows, widths 16 to 64; the "
        "source has widths 64 to 512, up to 64 pairs in 512 tokens, and other mixers."
    ),
    tier=Tier.CPU,
    config=probe_config("mqar(pairs=8),attention"),
    arms={
        f"{name}, {width}": {"model.mixer": mixer, "model.dim": width}
        for name, mixer in MIXERS.items()
        for width in WIDTHS
    },
    lrs=(3e-3, 1e-2),
    selection_seeds=1,
    seeds=3,
    criteria=(
        Criterion(
            "attention: the median is at least 90% at every width",
            lambda found: all(found.median(f"attention, {width}") >= 0.9 for width in WIDTHS),
        ),
        Criterion(
            "Mamba: the median at width 16 is at least 10 points below that at 64",
            lambda found: falls(found, "Mamba"),
        ),
        Criterion("linear attention: the same", lambda found: falls(found, "linear attention")),
    ),
)
