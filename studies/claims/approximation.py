"""The claim that linear attention approximates softmax attention."""

import dataclasses
import math

from studies.claims import isolated
from studies.claims.base import Claim, Finding, Quantity, Setup, verdict

SOFTMAX, LINEAR = "attention(rope=None)", "linear_attention"
CLOSE = 0.05  # bits per byte


def swap(setup: Setup) -> Finding:
    runs, found = setup.workdir / "trained", {}
    for mixer, others in ((SOFTMAX, [LINEAR]), (LINEAR, [SOFTMAX])):
        model = dataclasses.replace(setup.trained.model, mixer=mixer)
        config = dataclasses.replace(setup.trained, model=model)
        setup.say(f"training {mixer} for {config.steps} steps")
        found[mixer] = setup.run_isolated(isolated.bits, config, str(runs / mixer), others)
    kept, exchanged, own = found[SOFTMAX][SOFTMAX], found[SOFTMAX][LINEAR], found[LINEAR][LINEAR]
    uniform = math.log2(setup.trained.model.vocab)
    evidence = {}
    for mixer, scores in found.items():
        cells = {f"read by {by}": Quantity(bits, "bits") for by, bits in sorted(scores.items())}
        evidence[f"trained with {mixer}"] = cells
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
        evidence,
    )


CLAIMS = (
    Claim(
        "Linear attention approximates softmax attention.",
        (
            "Validation bits per byte of a trained attention model, of linear attention in its "
            "weights, and the other way round."
        ),
        swap,
    ),
)
