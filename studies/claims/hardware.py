"""Claims about what accelerators can hold."""

import itertools
from collections.abc import Iterator
from concurrent import futures

from seqarch.costs.devices import place
from seqarch.costs.memory import state_bytes
from seqarch.costs.roofline import bound
from seqarch.costs.spec import Failed, ProgramSpec
from seqarch.devices import DEVICES
from seqarch.errors import UserError
from seqarch.records import Record, Results
from seqarch.report.formats import format_bytes, needed
from seqarch.report.tables import Column
from studies.claims.base import Claim, Finding, verdict
from studies.claims.evidence import EVALUATOR, LOCAL, STATE, places, record, unmeasured, value
from studies.claims.setup import Setup
from studies.claims.states import GROUPED, MILLION

TOTAL, MEMORY, BOUND = "total_bytes", "device_bytes", "bound_tokens_per_s"
GRIDS = {  # by the number of a target's axes
    1: ("1", "2", "4", "8"),
    2: ("1", "2x2", "2x4"),
    3: ("1", "2x2x1", "2x2x2"),
}


def measure(setup: Setup) -> Iterator[Record]:
    """Yields what each target's grids need, up to the first that fits; two compile at once."""
    yield record(STATE, state_bytes(setup.large[GROUPED].model, MILLION), model=GROUPED)
    cases = list(itertools.product(setup.targets, (GROUPED, "mamba")))
    with futures.ThreadPoolExecutor(2) as pool:
        try:
            found = list(pool.map(lambda case: _grids(setup, *case), cases))
        except KeyboardInterrupt:
            setup.cache.end()
            raise
    yield from itertools.chain(*found)


def _grids(setup: Setup, target: str, name: str) -> list[Record]:
    """The records of a decoding step on ever more chips, up to the first that hold it."""
    found = []
    for chips in ("1",) if place(target).present else GRIDS[DEVICES[target].axes]:
        setup.say(f"{name} on {target}:{chips}")
        found += _program(setup, dict(model=name, target=target, chips=chips))
        if found[-1].status in ("ok", "not_run"):
            break
    return found


def _program(setup: Setup, at: dict[str, str]) -> list[Record]:
    """The records of a decoding step on some chips; the last is that of its bytes."""
    config = setup.large[at["model"]]
    try:
        placement = place("{target}:{chips}".format(**at))
        outcome = setup.cache.measure(ProgramSpec(config, "decode", 1, MILLION, placement.name))
    except UserError as error:
        return [unmeasured(TOTAL, "not_run", str(error), **at)]
    if isinstance(outcome, Failed):
        return [unmeasured(TOTAL, "failed", outcome.reason, **at)]
    found = [record(MEMORY, outcome.memory, **at)]
    if outcome.fits and (speed := bound(config, placement, outcome, 1)):
        found.append(record(BOUND, speed.tokens, **at))
    status = "ok" if outcome.fits else "oom"
    return [*found, Record(EVALUATOR, TOTAL, outcome.total, at, status=status)]


def judge(found: Results) -> Finding:
    last = {}
    for each in places(found, TOTAL, dict.fromkeys(("model", "target", "chips"), str)):
        last["{model}, {target}".format(**each.at)] = each
    grouped = {each.at["target"]: each.status for each in last.values() if _is_grouped(each)}
    here = {"ok": "does too", "oom": "does not"}.get(grouped.pop(LOCAL, ""))
    fits = [status == "ok" for status in grouped.values() if status in ("ok", "oom")]
    if not fits:
        raise UserError("no program could be compiled for an accelerator")
    return Finding(
        verdict(not each for each in fits),
        f"a cache of {format_bytes(value(found, STATE, model=GROUPED))}, which {sum(fits)} of the "
        f"{len(fits)} accelerators that could be compiled for hold on at most eight chips"
        f"{f'; the local device {here}' if here else ''}",
        "One sequence of 2^20 tokens, 8B parameters in float32, keys and values in bfloat16, "
        "eight key/value heads of 128; parameters are split over the devices, and the cache by "
        "its heads, so over no more devices than heads. The bound is the roofline's of a "
        "decoding step. What a million tokens need is a grouped cache and a handful of chips; "
        "Mamba's state does not know the length.",
        [Column("chips"), Column("each device"), Column("tokens/s at most", "rate")],
        {name: _cells(found, total) for name, total in last.items()},
    )


def _is_grouped(total: Record) -> bool:
    return total.at["model"] == GROUPED


def _cells(found: Results, total: Record) -> tuple[str, str, float | None]:
    """The chips, the bytes of each device and the speed of a program, or what it lacks."""
    if total.value is None:
        return "not measured", total.note, None
    chips = total.at["chips"] if total.status == "ok" else f"more than {total.at['chips']}"
    size = needed(total.value, value(found, MEMORY, **total.at))
    return chips, size, found.value(EVALUATOR, BOUND, **total.at)


CLAIMS = (
    Claim(
        "a million tokens",
        "Contexts of a million tokens are infeasible.",
        "The decoding step of a model of 8B parameters with grouped heads, compiled for each "
        "target on ever more chips.",
        measure,
        judge,
    ),
)
