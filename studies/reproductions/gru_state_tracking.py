"""A recurrent cell tracks a state, at sixteen times the length of training."""

from studies.reproductions.base import ACCURACY, Reproduction, Tier, beyond, probe_config, solves

LONG = beyond(1024)


REPRODUCTION = Reproduction(
    name="gru_state_tracking",
    said="A gated recurrent cell solves parity and the word problem of S3 at any length.",
    source="Delétang et al. 2023, table 2 (parity); Merrill et al. 2024, section 6 (groups)",
    published="RNN and LSTM 100% on parity at lengths up to 500, the best of ten runs",
    setting="A GRU of two layers and width 64, a label at every position, 64 tokens in training.",
    tier=Tier.CPU,
    config=probe_config("parity,gru", {"evals.accuracy.lengths": (1024,)}),
    arms={"parity": {"task": "parity"}, "S3": {"task": "group(name=S3)"}},
    measures=(ACCURACY, LONG),
    criteria=tuple(
        solves(arm, f"solve it at {length} tokens", measure)
        for arm in ("parity", "S3")
        for length, measure in (("64", ACCURACY), ("1,024", LONG))
    ),
)
