"""What the planner found (seqarch.costs.capacity), in lines."""

import functools
from collections.abc import Iterator

from seqarch.config import Config
from seqarch.costs import capacity
from seqarch.costs.devices import Placement
from seqarch.costs.spec import Outcome
from seqarch.report.formats import format_bytes, format_si


def training_lines(
    config: Config, placement: Placement, context: int, plan: capacity.Training, price: float | None
) -> Iterator[str]:
    """What a training plan says: the ways that were tried, the largest batch, and the speed at
    most.
    """
    way, batch = plan.way, plan.way.config.batch
    if batch != config.batch:
        yield (
            f"{config.batch} rows do not divide over {placement.count} devices: {batch} are planned"
        )
    for tried in plan.tried:
        yield f"{batch} rows, {tried.change}: {_fit(tried.outcome)}"
    yield (
        f"{way.change if way.fits else 'does not fit'}; most of the memory goes to "
        f"{capacity.largest_part(way.outcome)}"
    )
    more = f", {plan.rows.beyond:,} do not" if plan.rows.beyond else " or more"
    yield f"largest batch: {plan.rows.size:,} rows fit{more}"
    speed = capacity.bound(config, placement, way.outcome, batch * context)
    if way.fits and speed:
        yield _rate("speed", placement, speed, price)


def serving_lines(
    config: Config, placement: Placement, context: int, plan: capacity.Serving, price: float | None
) -> Iterator[str]:
    """What a serving plan says: one sequence, how many at once, and the speeds at most."""
    yield f"one sequence: {_fit(plan.one)}; its prefill: {_fit(plan.prefill)}"
    if not plan.sequences:
        lacking = plan.prefill if plan.one.fits else plan.one
        failed = isinstance(lacking, capacity.Failed)
        yield (
            "it fails to compile"
            if failed
            else f"does not fit; most of the memory goes to {capacity.largest_part(lacking)}"
        )
        return
    count = f"{'at least ' if plan.capped else ''}{plan.sequences:,}"
    yield f"{count} at once: {_fit(plan.many)}; most of it is {capacity.largest_part(plan.many)}"
    segment = min(config.length, max(context // 2, 1))
    bound = functools.partial(capacity.bound, config, placement)
    speeds = {
        "prefill of one": bound(plan.halfway, segment, unread=2),
        "decoding of one": bound(plan.one, 1),
    }
    if plan.sequences > 1:
        speeds |= {
            f"prefill of {plan.sequences:,}": bound(
                plan.many_halfway, plan.sequences * segment, unread=2
            ),
            f"decoding of {plan.sequences:,}": bound(plan.many, plan.sequences),
        }
    for what, speed in speeds.items():
        yield (
            _rate(what, placement, speed, price)
            if speed
            else f"{what}: no data sheet of this device, no bound"
        )


def _fit(outcome: Outcome) -> str:
    """ "9.1 GiB of 16 GiB", what it needs and does not get, or why it failed."""
    if isinstance(outcome, capacity.Failed):
        return outcome.reason
    return (
        f"{describe(outcome)} of {format_bytes(outcome.memory)}"
        if outcome.fits
        else describe(outcome)
    )


def _rate(what: str, placement: Placement, speed: capacity.Bound, price: float | None) -> str:
    line = f"{what}: at most {format_si(speed.tokens)} tokens/s, limited by {speed.limit}"
    if price is None:
        return line
    return f"{line}; a million tokens cost at least {capacity.cost(placement, speed, price):.3g}"


def describe(outcome: Outcome) -> str:
    """Returns "1.2 GiB", "needs 136 GiB of 15.8 GiB", or that the program failed."""
    if isinstance(outcome, capacity.Failed):
        return "failed"
    if outcome.fits:
        return format_bytes(outcome.total)
    return f"needs {format_bytes(outcome.total)} of {format_bytes(outcome.memory)}"
