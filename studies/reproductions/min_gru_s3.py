"""The word problem of S3: gates that do not see the state are not enough."""

from studies.reproductions.base import Criterion, Reproduction, Tier, probe_config, solves

REPRODUCTION = Reproduction(
    name="min_gru_s3",
    said="The GRU solves the word problem of S3, and the minGRU does not.",
    source="Grazzi et al. 2025, Unlocking state-tracking in linear RNNs (positive eigenvalues); "
    "Merrill et al. 2024, The illusion of state in state-space models",
    published="a linear recurrence with positive eigenvalues does not learn parity, which S3 holds",
    setting="Two layers of width 64, rows of 64 tokens with a label at every position, 400 steps "
    "of 64 rows.",
    tier=Tier.CPU,
    config=probe_config("group(name=S3),gru"),
    arms={"GRU": {"model.mixer": "gru"}, "minGRU": {"model.mixer": "min_gru"}},
    lrs=(1e-3, 3e-3),
    criteria=(
        solves("GRU"),
        Criterion("minGRU: no run solves it", lambda found: found.fit_rate("minGRU").rate == 0),
    ),
)
