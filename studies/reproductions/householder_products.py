"""The word problem of S3 in one layer: two steps of the delta rule a token, and one."""

from studies.reproductions.base import Criterion, Reproduction, Tier, probe_config, solves

ARMS = {"two steps": 2, "one step": 1}


REPRODUCTION = Reproduction(
    name="householder_products",
    said="One layer of DeltaProduct solves S3 with two steps a token, and not with one.",
    source="Siems et al. 2025, DeltaProduct, the experiments on word problems of groups",
    published="one layer solves S3 with two Householder products a token, and not with one",
    setting="One layer of width 64, eigenvalues in (-1, 1), rows of 64 tokens with a label at "
    "every position, 800 steps of 64 rows.",
    tier=Tier.CPU,
    config=probe_config("group(name=S3),deltaproduct", {"model.layers": 1, "steps": 800}),
    arms={name: {"model.mixer": f"deltaproduct(steps={n})"} for name, n in ARMS.items()},
    lrs=(1e-3, 3e-3),
    criteria=(
        solves("two steps"),
        Criterion("one step: no run solves it", lambda found: found.fit_rate("one step").rate == 0),
    ),
)
