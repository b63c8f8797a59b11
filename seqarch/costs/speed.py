"""Records of the time of programs: measured, estimated by compilers, and allowed by rooflines."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from seqarch.costs import roofline
from seqarch.costs.clock import REPEATS, Timing
from seqarch.costs.devices import Placement, place
from seqarch.costs.results import EVALUATOR, place_of
from seqarch.costs.schedule import Seconds
from seqarch.costs.spec import Failed, Outcome, ProgramSpec
from seqarch.costs.time import ESTIMATED
from seqarch.records import Record
from seqarch.training.meter import step_flops

UNREAD = {"train": 1, "prefill": 2, "decode": 1}  # tables of the vocabulary (`roofline.bound`)
COSTS = {  # metric of the cost of a million tokens, by that of the speed
    "bound_tokens_per_s": "million_tokens_cost",
    "estimated_tokens_per_s": "estimated_cost",
    "measured_tokens_per_s": "measured_cost",
}
SPENT = {  # the parts of an estimate, in words
    "computing": "computing",
    "bounded": "moving data",
    "kernels": "kernels",
    "copying": "waiting for memory",
    "linking": "waiting for other chips",
}


def tokens_of(spec: ProgramSpec) -> int:
    """Returns the tokens that a call of a program reads, or that one decoding step writes."""
    if spec.phase == "decode":
        return spec.batch
    whole = spec.phase == "train" or spec.config.model.encodes
    return spec.batch * (spec.length if whole else min(spec.config.length, spec.length))


def speed_bound(spec: ProgramSpec, outcome: Outcome) -> roofline.HighestSpeed | None:
    """Returns the highest speed of a program; None where `roofline.bound` has none."""
    unread = UNREAD[spec.phase]
    return roofline.bound(spec.config, place(spec.target), outcome, tokens_of(spec), unread=unread)


def speed_records(
    spec: ProgramSpec,
    outcome: Outcome,
    timing: Seconds | Failed | None,
    ran: Timing | Failed | None = None,
    sheet: str | None = None,
) -> Iterator[Record]:
    """Yields the roofline of a program, its estimated and measured time, and its speed by them.

    Args:
      spec: the program.
      outcome: what it needs.
      timing: its estimated time, why there is none, or None where the compiler tells no times.
      ran: its measured time, why there is none, or None where it was not run.
      sheet: the target whose data sheet applies (`sheet_of`); None: that of the spec.
    """
    at, spec = place_of(spec), spec._replace(target=sheet or spec.target)
    if bound := speed_bound(spec, outcome):
        note = f"limited by {bound.limit}"
        yield Record(EVALUATOR, "bound_s", tokens_of(spec) / bound.tokens, at, note=note)
        yield Record(EVALUATOR, "bound_tokens_per_s", bound.tokens, at, note=note)
    if timing is not None:
        yield from estimate_records(spec, outcome, timing, at)
    if isinstance(ran, Failed):
        yield Record(EVALUATOR, "measured_s", at=at, status="failed", note=ran.reason)
    elif ran is not None:
        yield Record(EVALUATOR, "measured_s", ran.median, at, n=REPEATS, note=ran.note)
        yield from _rates("measured", spec, outcome, ran.median, at)


def estimate_records(
    spec: ProgramSpec, outcome: Outcome, timing: Seconds | Failed, at: Mapping[str, Any]
) -> Iterator[Record]:
    """Yields the estimated time of a program with its speed and MFU, or why there is none.

    The arguments are those of `speed_records`; `at` is what the records are measured at.
    """
    if isinstance(timing, Failed):
        yield Record(EVALUATOR, "estimated_s", at=at, status="failed", note=timing.reason)
        return
    yield Record(EVALUATOR, "estimated_s", timing.total, at, note=spent(timing))
    yield from _rates("estimated", spec, outcome, timing.total, at, note=ESTIMATED)


def _rates(
    kind: str,
    spec: ProgramSpec,
    outcome: Outcome,
    seconds: float,
    at: Mapping[str, Any],
    note: str = "",
) -> Iterator[Record]:
    """Yields the speed of a call that takes so long, and its MFU where a data sheet has a peak."""
    yield Record(EVALUATOR, f"{kind}_tokens_per_s", tokens_of(spec) / seconds, at, note=note)
    placement = place(spec.target)
    if peak := placement.target.flops:
        share = _model_flops(spec, outcome) / seconds / (placement.chips * peak)
        yield Record(EVALUATOR, f"{kind}_mfu", share, at, note=note)


def with_costs(
    found: Iterable[Record], placement: Placement, price: float | None
) -> Iterator[Record]:
    """Yields records and, behind each speed, what a million tokens cost at it.

    Args:
      found: the records of programs on a target.
      placement: the target.
      price: that of a chip for one hour; None: there are no costs.
    """
    for record in found:
        yield record
        if price is not None and record.metric in COSTS and record.value:
            cost = roofline.cost(placement, record.value, price)
            note = record.note if record.note == ESTIMATED else ""
            yield Record(EVALUATOR, COSTS[record.metric], cost, record.at, note=note)


def spent(timing: Seconds) -> str:
    """Returns what most of an estimated time is spent on: "97 % computing, 3 % moving data"."""
    shares = {words: getattr(timing, part) / timing.total for part, words in SPENT.items()}
    shown = sorted((each for each in shares.items() if each[1] >= 0.005), key=lambda each: -each[1])
    return ", ".join(f"{100 * share:.0f} % {words}" for words, share in shown)


def _model_flops(spec: ProgramSpec, outcome: Outcome) -> float:
    """Returns the model FLOPs of a train step, and else the FLOPs of the program."""
    if spec.phase != "train":
        return outcome.flops
    return step_flops(dataclasses.replace(spec.config, batch=spec.batch, length=spec.length))
