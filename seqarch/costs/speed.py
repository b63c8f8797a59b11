"""Records of the time of programs: what compilers estimate, and what rooflines allow."""

import dataclasses
from collections.abc import Iterator

from seqarch.costs import roofline
from seqarch.costs.devices import Placement, place
from seqarch.costs.results import EVALUATOR, place_of
from seqarch.costs.spec import Failed, Outcome, ProgramSpec
from seqarch.costs.time import ESTIMATED, Timing
from seqarch.records import Record
from seqarch.training.meter import step_flops

UNREAD = {"train": 1, "prefill": 2, "decode": 1}  # tables of the vocabulary (`roofline.bound`)
SPENT = {  # the parts of an estimate, in words
    "computing": "computing",
    "bounded": "moving data",
    "copying": "waiting for memory",
    "linking": "waiting for other chips",
}


def tokens_of(spec: ProgramSpec) -> int:
    """Returns the tokens that a call of a program reads, or that one decoding step writes."""
    if spec.phase == "decode":
        return spec.batch
    whole = spec.phase == "train" or spec.config.model.encodes
    return spec.batch * (spec.length if whole else min(spec.config.length, spec.length))


def speed_records(
    spec: ProgramSpec, outcome: Outcome, timing: Timing | Failed | None, price: float | None
) -> Iterator[Record]:
    """Yields the roofline of a program, its estimated time, and what follows from both.

    Args:
      spec: the program.
      outcome: what it needs.
      timing: its estimated time, why there is none, or None where the compiler tells no times.
      price: that of a chip for an hour; None: there are no costs.
    """
    placement, at = place(spec.target), place_of(spec)
    tokens, unread = tokens_of(spec), UNREAD[spec.phase]
    if bound := roofline.bound(spec.config, placement, outcome, tokens, unread=unread):
        note = f"limited by {bound.limit}"
        yield Record(EVALUATOR, "bound_s", tokens / bound.tokens, at, note=note)
        yield Record(EVALUATOR, "bound_tokens_per_s", bound.tokens, at, note=note)
        if price is not None:
            cost = roofline.cost(placement, bound.tokens, price)
            yield Record(EVALUATOR, "million_tokens_cost", cost, at)
    if isinstance(timing, Failed):
        yield Record(EVALUATOR, "estimated_s", at=at, status="failed", note=timing.reason)
    elif timing is not None:
        yield from _estimated(spec, placement, outcome, timing, price)


def _estimated(
    spec: ProgramSpec, placement: Placement, outcome: Outcome, timing: Timing, price: float | None
) -> Iterator[Record]:
    at, speed = place_of(spec), tokens_of(spec) / timing.seconds
    yield Record(EVALUATOR, "estimated_s", timing.seconds, at, note=spent(timing))
    yield Record(EVALUATOR, "estimated_tokens_per_s", speed, at, note=ESTIMATED)
    rate = _model_flops(spec, outcome) / timing.seconds
    share = rate / (placement.chips * placement.target.flops)
    yield Record(EVALUATOR, "estimated_mfu", share, at, note=ESTIMATED)
    if price is not None:
        cost = roofline.cost(placement, speed, price)
        yield Record(EVALUATOR, "estimated_cost", cost, at, note=ESTIMATED)


def spent(timing: Timing) -> str:
    """Returns what most of an estimated time is spent on: "97 % computing, 3 % moving data"."""
    shares = {words: getattr(timing, part) / timing.seconds for part, words in SPENT.items()}
    shown = sorted((each for each in shares.items() if each[1] >= 0.005), key=lambda each: -each[1])
    return ", ".join(f"{100 * share:.0f} % {words}" for words, share in shown)


def _model_flops(spec: ProgramSpec, outcome: Outcome) -> float:
    """Returns the model FLOPs of a train step, and else the FLOPs of the program."""
    if spec.phase != "train":
        return outcome.flops
    return step_flops(dataclasses.replace(spec.config, batch=spec.batch, length=spec.length))


def is_timed(outcome: Outcome) -> bool:
    """Returns whether a program is worth a whole compilation: it fits."""
    return not isinstance(outcome, Failed) and outcome.fits
