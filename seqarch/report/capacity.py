"""Whether a run trains and serves on a target, as lines of text.

The records are those of seqarch.costs.capacity.
"""

from collections.abc import Iterator

from seqarch.costs.results import EVALUATOR
from seqarch.costs.time import ESTIMATED
from seqarch.records import Record, Results
from seqarch.report.formats import format_bytes, format_found, format_si, needed, show

PARTS = {  # of the bytes of a program, in words
    "parameters": "parameters",
    "optimizer": "the optimizer",
    "state": "the state",
    "working": "activations, gradients and other temporaries",
}
CALLS = {"prefill": "a segment", "decode": "a token"}
SERVING = {"prefill": "prefill", "decode": "decoding"}  # its phases, in words


def heading(results: Results) -> str:
    """Returns the line that says which model is placed where."""
    size, context = results.value(EVALUATOR, "params"), results.fact(EVALUATOR, "context")
    shown = f"{format_si(size)} parameters, context {context:,}"
    return f"{results.source.member}: {shown}, on {results.fact(EVALUATOR, 'target')}"


def training_lines(results: Results) -> Iterator[str]:
    """Yields the attempts, the largest batch and the highest speed of training."""
    attempts = results.all(EVALUATOR, "total_bytes", phase="train")
    batch, given = attempts[0].at["batch"], results.source.config["batch"]
    if batch != given:
        count = results.fact(EVALUATOR, "devices")
        yield f"{given} rows do not divide over {count} devices: {batch} are planned"
    for attempt in attempts:
        yield f"{batch} rows, {_change(attempt)}: {_fit(results, attempt)}"
    (largest,) = results.all(EVALUATOR, "largest_batch")
    (chosen,) = (each for each in attempts if each.at["change"] == largest.at["change"])
    if chosen.status == "ok":
        yield f"{_change(chosen)}; most of the memory goes to {_largest_part(results, chosen)}"
    else:
        yield _obstacle(results, chosen)
    beyond = results.value(EVALUATOR, "batch_beyond", **largest.at)
    more = f", {beyond:,} do not" if beyond else " or more"
    yield f"largest batch: {largest.value:,} rows fit{more}"
    speed = results.find(EVALUATOR, "bound_tokens_per_s", **chosen.at)
    if speed and speed.value:
        yield f"speed: {_rate(results, speed)}"
    yield from _estimated(results, chosen, "a step")


def serving_lines(results: Results) -> Iterator[str]:
    """Yields what one sequence needs, how many fit at once, and the highest speeds."""
    (most,) = results.all(EVALUATOR, "sequences")
    decode, prefill = (_serving_total(results, phase, 1, most) for phase in ("decode", "prefill"))
    yield f"one sequence: {_fit(results, decode)}; its prefill: {_fit(results, prefill)}"
    if not most.value:
        yield _obstacle(results, prefill if decode.status == "ok" else decode)
        return
    every = _serving_total(results, "decode", most.value, most)
    part = _largest_part(results, every)
    yield f"{format_found(most)} at once: {_fit(results, every)}; most of it is {part}"
    for speed in results.all(EVALUATOR, "bound_tokens_per_s"):
        if (phase := speed.at["phase"]) in SERVING:
            rows = "one" if speed.at["batch"] == 1 else f"{speed.at['batch']:,}"
            yield f"{SERVING[phase]} of {rows}: {_rate(results, speed)}"
            yield from _estimated(results, speed, CALLS[phase])


def source_line(results: Results) -> str:
    """Returns where memory and rates of a target come from; "" where it has no data sheet."""
    sheet, source = (results.fact(EVALUATOR, name) for name in ("data_sheet", "memory_source"))
    if not sheet:
        return ""
    memory = "Memory, " if source == sheet else f"Memory is what {source} offers; "
    return (
        f"{memory}bandwidth and FLOP/s are those of {sheet}. Bounds are rooflines, not forecasts."
    )


def _serving_total(results: Results, phase: str, rows: int, most: Record) -> Record:
    """Returns the bytes of a program at the target and the context of `most`."""
    return results.find(EVALUATOR, "total_bytes", phase=phase, batch=rows, **most.at)


def _change(attempt: Record) -> str:
    return attempt.at["change"] or "as configured"


def _fit(results: Results, total: Record) -> str:
    """Returns "9.1 GiB of 16 GiB", what a program needs and does not get, or why it failed."""
    if total.status == "failed":
        return total.note
    memory = results.value(EVALUATOR, "device_bytes", **total.at)
    available = f" of {format_bytes(memory)}" if total.status == "ok" else ""
    return needed(total.value, memory) + available


def _obstacle(results: Results, total: Record) -> str:
    """Returns why a program does not run."""
    if total.status == "failed":
        return "it fails to compile"
    return f"does not fit; most of the memory goes to {_largest_part(results, total)}"


def _largest_part(results: Results, total: Record) -> str:
    """Returns what needs most of a program's memory, in words."""
    part = max(PARTS, key=lambda name: results.value(EVALUATOR, f"{name}_bytes", **total.at))
    return PARTS[part]


def _rate(results: Results, speed: Record) -> str:
    """Returns the highest speed, what limits it and what tokens cost, or why there is none."""
    if speed.value is None:
        return f"{speed.note}, no bound"
    line = f"at most {format_si(speed.value)} tokens/s, {speed.note}"
    cost = results.value(EVALUATOR, "million_tokens_cost", **speed.at)
    return line if cost is None else f"{line}; a million tokens cost at least {show(cost, 'price')}"


def _estimated(results: Results, place: Record, call: str) -> Iterator[str]:
    """Yields the estimated time of the program at a record's place, or why there is none."""
    time = results.find(EVALUATOR, "estimated_s", **place.at)
    if time is None:
        return
    if time.value is None:
        yield f"no time is {ESTIMATED}: {time.note}"
        return
    names = ("estimated_tokens_per_s", "estimated_mfu", "estimated_cost")
    speed, share, cost = (results.value(EVALUATOR, name, **place.at) for name in names)
    line = f"{ESTIMATED}: {show(time.value, 'duration')} {call}, {format_si(speed)} tokens/s"
    line += f", MFU {show(share, 'percent')}; {time.note}"
    yield line if cost is None else f"{line}; a million tokens cost {show(cost, 'price')}"
