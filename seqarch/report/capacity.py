"""The capacity of a target (seqarch.costs.capacity) as lines of text."""

import functools
from collections.abc import Iterator

from seqarch.config import Config
from seqarch.costs import capacity, roofline
from seqarch.costs.capacity import ServingCapacity, TrainingCapacity
from seqarch.costs.devices import Placement
from seqarch.costs.roofline import Bound
from seqarch.costs.spec import Failed, Outcome
from seqarch.model import count_parameters
from seqarch.report.formats import format_bytes, format_si, needed


def heading(config: Config, placement: Placement, context: int) -> str:
    """Returns the line that says which model is placed where."""
    size = f"{format_si(count_parameters(config.model))} parameters, context {context:,}"
    return f"{config.model.mixer}: {size}, on {placement.name}"


def training_lines(
    config: Config,
    placement: Placement,
    context: int,
    found: TrainingCapacity,
    price: float | None,
) -> Iterator[str]:
    """Yields the attempts, the largest batch and the highest speed of training.

    Args:
      config: the run's config, as it was given.
      placement: the target.
      context: tokens of a row.
      found: what was found.
      price: that of a chip for one hour; None: costs are left out.
    """
    chosen, batch = found.chosen, found.chosen.config.batch
    if batch != config.batch:
        count = placement.count
        yield f"{config.batch} rows do not divide over {count} devices: {batch} are planned"
    for attempt in found.attempts:
        yield f"{batch} rows, {attempt.change}: {_fit(attempt.outcome)}"
    change = chosen.change if chosen.fits else "does not fit"
    yield f"{change}; most of the memory goes to {capacity.largest_part(chosen.outcome)}"
    more = f", {found.batch.beyond:,} do not" if found.batch.beyond else " or more"
    yield f"largest batch: {found.batch.size:,} rows fit{more}"
    speed = roofline.bound(config, placement, chosen.outcome, batch * context)
    if chosen.fits and speed:
        yield _rate("speed", placement, speed, price)


def serving_lines(
    config: Config,
    placement: Placement,
    context: int,
    found: ServingCapacity,
    price: float | None,
) -> Iterator[str]:
    """Yields what one sequence needs, how many fit at once, and the highest speeds.

    Args:
      config: the run's config.
      placement: the target.
      context: tokens of a sequence.
      found: what was found.
      price: that of a chip for one hour; None: costs are left out.
    """
    yield f"one sequence: {_fit(found.decode)}; its prefill: {_fit(found.prefill)}"
    if not found.sequences:
        yield _obstacle(found)
        return
    part = capacity.largest_part(found.decode_all)
    count = f"{'at least ' if found.capped else ''}{found.sequences:,}"
    yield f"{count} at once: {_fit(found.decode_all)}; most of it is {part}"
    for title, speed in _speeds(config, placement, context, found).items():
        if speed:
            yield _rate(title, placement, speed, price)
        else:
            yield f"{title}: no data sheet of this device, no bound"


def _obstacle(found: ServingCapacity) -> str:
    """Returns why not even one sequence is served."""
    lacking = found.prefill if found.decode.fits else found.decode
    if isinstance(lacking, Failed):
        return "it fails to compile"
    return f"does not fit; most of the memory goes to {capacity.largest_part(lacking)}"


def _speeds(
    config: Config, placement: Placement, context: int, found: ServingCapacity
) -> dict[str, Bound | None]:
    """Returns the highest speeds of prefill and decoding, by title."""
    segment = min(config.length, max(context // 2, 1))
    bound = functools.partial(roofline.bound, config, placement)
    speeds = {
        "prefill of one": bound(found.half_prefill, segment, unread=2),
        "decoding of one": bound(found.decode, 1),
    }
    count = found.sequences
    if count > 1:
        prefill = bound(found.half_prefill_all, count * segment, unread=2)
        speeds[f"prefill of {count:,}"] = prefill
        speeds[f"decoding of {count:,}"] = bound(found.decode_all, count)
    return speeds


def source_line(placement: Placement) -> str:
    """Returns where memory and rates of a target come from; "" where it has no data sheet."""
    target = placement.target
    if not target.source:
        return ""
    memory = "Memory is what libtpu offers; " if target.platform == "tpu" else "Memory, "
    rates = f"bandwidth and FLOP/s are those of {target.source}."
    return f"{memory}{rates} Bounds are rooflines, not forecasts."


def _fit(outcome: Outcome) -> str:
    """Returns "9.1 GiB of 16 GiB", what a program needs and does not get, or why it failed."""
    if isinstance(outcome, Failed):
        return outcome.reason
    available = f" of {format_bytes(outcome.memory)}" if outcome.fits else ""
    return describe(outcome) + available


def _rate(title: str, placement: Placement, speed: Bound, price: float | None) -> str:
    line = f"{title}: at most {format_si(speed.tokens)} tokens/s, limited by {speed.limit}"
    if price is None:
        return line
    return f"{line}; a million tokens cost at least {roofline.cost(placement, speed, price):.3g}"


def describe(outcome: Outcome) -> str:
    """Returns "1.2 GiB", "needs 136 GiB of 15.8 GiB", or that the program failed."""
    if isinstance(outcome, Failed):
        return "failed"
    return needed(outcome.total, outcome.memory)
