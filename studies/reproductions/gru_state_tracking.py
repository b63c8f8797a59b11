"""A recurrent cell tracks a state, at sixteen times the length of training."""

import ml_collections

from configs import probes
from studies.reproductions.base import ACCURACY, Criterion, Reproduction, Tier, beyond

LONG = beyond(1024)


def get_config() -> ml_collections.ConfigDict:
    config = probes.get_config("parity,gru")
    config.evals.accuracy.lengths = (1024,)
    return config


REPRODUCTION = Reproduction(
    name="gru_state_tracking",
    said="A gated recurrent cell solves parity and the word problem of S3 at any length.",
    source="Delétang et al. 2023, table 2 (parity); Merrill et al. 2024, section 6 (groups)",
    published="RNN and LSTM 100% on parity at lengths up to 500, the best of ten runs",
    setting="A GRU of two layers and width 64, a label at every position, 64 tokens in training.",
    tier=Tier.CPU,
    config=get_config,
    arms={"parity": {"task": "parity"}, "S3": {"task": "group(name=S3)"}},
    measures=(ACCURACY, LONG),
    criteria=tuple(
        Criterion(
            f"{arm}: at least 8 of 10 runs solve it at {length} tokens",
            lambda found, arm=arm, measure=measure: found.fit_rate(arm, measure).rate >= 0.8,
        )
        for arm in ("parity", "S3")
        for length, measure in (("64", ACCURACY), ("1,024", LONG))
    ),
)
