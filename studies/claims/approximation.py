"""The claim that linear attention approximates softmax attention."""

import dataclasses
import math
from collections.abc import Iterator

from seqarch.records import Record, Results
from seqarch.report.tables import Column
from studies.claims import isolated
from studies.claims.base import Claim, Finding, verdict
from studies.claims.evidence import record, value
from studies.claims.setup import Setup

MIXERS = SOFTMAX, LINEAR = "attention(rope=None)", "linear_attention"
CLOSE = 0.05  # bits per byte
BITS = "bits_per_byte"


def measure(setup: Setup) -> Iterator[Record]:
    yield record("vocab", setup.trained.model.vocab)
    for mixer in MIXERS:
        model = dataclasses.replace(setup.trained.model, mixer=mixer)
        config = dataclasses.replace(setup.trained, model=model)
        setup.say(f"training {mixer} for {config.steps} steps")
        run, others = str(setup.workdir / "trained" / mixer), [by for by in MIXERS if by != mixer]
        for by, bits in setup.run_isolated(isolated.bits, config, run, others).items():
            yield record(BITS, bits, trained=mixer, read_by=by)


def judge(found: Results) -> Finding:
    rows = {}
    for mixer in MIXERS:
        rows[mixer] = [value(found, BITS, trained=mixer, read_by=by) for by in MIXERS]
    (kept, exchanged), (_, own) = rows[SOFTMAX], rows[LINEAR]
    uniform = math.log2(value(found, "vocab"))
    return Finding(
        verdict([exchanged - kept <= CLOSE]),
        f"{kept:.2f} bits per byte; with linear attention in the same weights {exchanged:.2f}; "
        f"trained with it {own:.2f}",
        "The two have the same parameters, so that one can stand in the other's place; neither "
        f"has positions. {uniform:.2f} bits would be a uniform guess. Linear attention with "
        "phi = elu + 1 (Katharopoulos et al. 2020) replaces the kernel exp(q.k) by another, "
        "phi(q).phi(k): it is no estimate of softmax's weights, so weights do not carry over. "
        "Trained as what it is, it is a model of its own right. Random features (Choromanski et "
        "al. 2020) do estimate softmax, with a variance that grows with the norms of q and k; "
        "they are not built here.",
        [Column(f"read by {by}", "bits") for by in MIXERS],
        {f"trained with {mixer}": row for mixer, row in rows.items()},
    )


CLAIMS = (
    Claim(
        "linear for softmax",
        "Linear attention approximates softmax attention.",
        (
            "Validation bits per byte of a trained attention model, of linear attention in its "
            "weights, and the other way round."
        ),
        measure,
        judge,
    ),
)
