"""Recurrent models recall in a narrow window of learning rates; attention in a wide one."""

from seqarch.stats.learning_rates import WINDOW_SEEDS, half_octave_grid
from studies.reproductions.base import Criterion, Outcomes, Reproduction, Tier, probe_config


def octaves(found: Outcomes, arm: str) -> float:
    """Returns the width of an arm's window; -1 where it has none."""
    window = found.window(arm)
    return window.octaves if window else -1.0


REPRODUCTION = Reproduction(
    name="recall_window",
    said="Recurrent models recall in a narrow window of learning rates, attention in a wide one.",
    source="Okpekpe and Orvieto 2025, Revisiting associative recall, arXiv 2508.19029",
    published="the window of learning rates is relatively narrow for Mamba and Hyena, wide for "
    "attention",
    setting="4 pairs in 64 tokens, vocabulary 256, conv=4, 400 steps of 64 rows.",
    tier=Tier.HOURS,
    config=probe_config("mqar,attention"),
    arms={
        "attention": {"model.mixer": "attention"},
        "Mamba": {"model.mixer": "mamba"},
        "linear attention": {"model.mixer": "linear_attention(decay=data)"},
    },
    lrs=half_octave_grid(5e-4, 3.2e-2),
    selection_seeds=WINDOW_SEEDS,
    seeds=0,
    criteria=(
        Criterion(
            "Mamba's window is at least an octave narrower than attention's",
            lambda found: octaves(found, "attention") - octaves(found, "Mamba") >= 1,
        ),
    ),
)
