"""Claims about what accelerators can hold."""

import itertools
from concurrent import futures

from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement, state_bytes
from seqarch.costs.roofline import bound
from seqarch.costs.spec import Failed, ProgramSpec
from seqarch.devices import DEVICES
from seqarch.errors import UserError
from seqarch.report.formats import format_bytes, needed
from studies.claims.base import Cell, Claim, Finding, Quantity, Setup, verdict
from studies.claims.states import GROUPED, MILLION

GRIDS = {  # by the number of a target's axes
    1: ("1", "2", "4", "8"),
    2: ("1", "2x2", "2x4"),
    3: ("1", "2x2x1", "2x2x2"),
}


def million_tokens(setup: Setup) -> Finding:
    found = _all_smallest(setup)
    feasible = []
    for (_, name), (_, fits) in found.items():
        if name == GROUPED and fits is not None:
            feasible.append(fits)
    if not feasible:
        raise UserError("nothing could be compiled")
    cache = state_bytes(setup.large[GROUPED], MILLION)
    return Finding(
        verdict([not each for each in feasible]),
        f"a cache of {format_bytes(cache)}, which {sum(feasible)} of the {len(feasible)} "
        "targets that could be measured hold on at most eight chips",
        "One sequence of 2^20 tokens, 8B parameters in float32, keys and values in bfloat16, "
        "eight key/value heads of 128; parameters are split over the devices, and the cache by "
        "its heads, so over no more devices than heads. The bound is the roofline's of a "
        "decoding step. What a million tokens need is a grouped cache and a handful of chips; "
        "Mamba's state does not know the length.",
        {f"{name}, {target}": cells for (target, name), (cells, _) in found.items()},
    )


Smallest = tuple[dict[str, Cell], bool | None]


def _all_smallest(setup: Setup) -> dict[tuple[str, str], Smallest]:
    """The smallest grid of each target and member; two compile at once."""
    cases = list(itertools.product(setup.targets, (GROUPED, "mamba")))
    with futures.ThreadPoolExecutor(2) as pool:
        try:
            found = list(pool.map(lambda case: _smallest(setup, *case), cases))
        except KeyboardInterrupt:
            setup.cache.end()
            raise
    return dict(zip(cases, found, strict=True))


def _smallest(setup: Setup, target: str, name: str) -> Smallest:
    """The smallest grid of chips on which one sequence decodes, as cells, and whether there is one.

    Where none is large enough the cells say what the largest lacks. Where that could not be
    measured they say why, and None stands for the answer.
    """
    config = setup.large[name]
    try:
        for grid in ("1",) if place(target).present else GRIDS[DEVICES[target].axes]:
            placement = place(f"{target}:{grid}")
            setup.say(f"{name} on {placement.name}")
            outcome = setup.cache.measure(ProgramSpec(config, "decode", 1, MILLION, placement.name))
            if isinstance(outcome, Measurement) and outcome.fits:
                speed = bound(config, placement, outcome, 1)
                rate = Quantity(speed.tokens, "rate") if speed else None
                return _cells(grid, needed(outcome.total, outcome.memory), rate), True
    except UserError as error:
        return _cells("not measured", str(error)), None
    if isinstance(outcome, Failed):
        return _cells("not measured", outcome.reason), None
    return _cells(f"more than {grid}", needed(outcome.total, outcome.memory)), False


def _cells(chips: str, each: str, rate: Quantity | None = None) -> dict[str, Cell]:
    return {"chips": chips, "each device": each, "tokens/s at most": rate}


CLAIMS = (
    Claim(
        "Contexts of a million tokens are infeasible.",
        "The decoding step of a model of 8B parameters with grouped heads, compiled for each "
        "target on ever more chips.",
        million_tokens,
    ),
)
