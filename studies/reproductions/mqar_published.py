"""Multi-query associative recall as Zoology trains it: fixed rows, no convolution, 64 epochs."""

import ml_collections

from configs import probes
from studies.reproductions.base import Criterion, Reproduction, Tier

ROWS, BATCH, EPOCHS = 100_000, 512, 64


def get_config() -> ml_collections.ConfigDict:
    config = probes.get_config("mqar(variant=zoology,vocab=8192),attention")
    config.model.conv = 0
    config.batch = BATCH
    config.steps = ROWS * EPOCHS // BATCH
    config.checkpoint.every = config.eval.every = ROWS // BATCH
    config.optim.warmup = config.steps // 10
    config.optim.final_lr = 0.0
    return config


REPRODUCTION = Reproduction(
    name="mqar_published",
    said="Attention solves multi-query associative recall without a convolution, given 64 epochs.",
    source="Arora et al. 2023, Zoology, figure 2",
    published="attention solves it at every width",
    setting=(
        "100,000 rows of 64 tokens, 4 pairs, vocabulary 8,192, 64 epochs in batches of 512, width "
        "64 and one head, as in the code of the source. It has learned positions and dropout of "
        "0.1, where these runs have rotary positions and none, and it chooses among four learning "
        "rates from 1e-4 to 1e-2."
    ),
    tier=Tier.HOURS,
    config=get_config,
    arms={"attention": {"model.mixer": "attention(heads=1)"}},
    seeds=1,
    lrs=(1e-3,),
    criteria=(
        Criterion("the run reaches 99%", lambda found: found.fit_rate("attention").fits == 1),
    ),
)
