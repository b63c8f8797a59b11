"""A new mixer is in the benchmark by its line in MIXERS, whether or not it has forms."""

import jax.numpy as jnp
import numpy as np

from benchmarks import programs
from seqarch.mixers import MIXERS
from seqarch.mixers.gru import GRU
from tests.benchmarks.test_bench import TINY


class Formless(GRU):
    """A mixer of one form, as one of a user's own often is."""

    forms = None

    def __init__(self, dim, *, dtype=jnp.float32, rngs):
        super().__init__(dim, dtype=dtype, rngs=rngs)


def test_a_new_mixer_without_forms_is_measured_by_its_line_in_the_registry(monkeypatch):
    monkeypatch.setitem(MIXERS, "formless", f"{__name__}:Formless")
    for group in ("mixers", "train_step", "decoding", "generation"):
        forms = [case.form for together in programs.GROUPS[group](TINY) for case in together]
        assert "formless" in forms
    (case, *_), *_ = (
        each for each in programs.GROUPS["mixers"](TINY) if each[0].form == "formless"
    )
    ready = case.start()
    assert np.isfinite(ready.run(ready.prepare())).all()
