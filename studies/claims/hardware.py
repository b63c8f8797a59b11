"""Claims about what accelerators can hold."""

import itertools
from concurrent import futures

from seqarch.costs.capacity import bound
from seqarch.costs.devices import place
from seqarch.costs.memory import Measurement, state_bytes
from seqarch.costs.spec import Failed, ProgramSpec
from seqarch.devices import DEVICES
from seqarch.errors import UserError
from seqarch.report.capacity import describe
from seqarch.report.formats import format_bytes
from studies.claims.base import Claim, Finding, Means, verdict
from studies.claims.states import GROUPED, MILLION

GRIDS = {
    1: ("1", "2", "4", "8"),
    2: ("1", "2x2", "2x4"),
    3: ("1", "2x2x1", "2x2x2"),
}  # by a target's axes


def million_tokens(means: Means) -> Finding:
    cases = list(itertools.product(means.targets, (GROUPED, "mamba")))
    with futures.ThreadPoolExecutor(2) as pool:
        try:
            found = dict(
                zip(cases, pool.map(lambda case: _smallest(means, *case), cases), strict=True)
            )
        except KeyboardInterrupt:
            means.cache.end()
            raise
    feasible = [
        fits for (_, name), (_, fits) in found.items() if name == GROUPED and fits is not None
    ]
    if not feasible:
        raise UserError("nothing could be compiled")
    cache = state_bytes(means.large[GROUPED], MILLION)
    return Finding(
        verdict([not each for each in feasible]),
        f"a cache of {format_bytes(cache)}, which {sum(feasible)} of the {len(feasible)} "
        "targets that could be measured hold on "
        "at most eight chips",
        "One sequence of 2^20 tokens, 8B parameters in float32, keys and values in bfloat16, "
        "eight key/value heads of 128; "
        "parameters are split over the devices, and the cache by its heads, so over no more "
        "devices than heads. The bound "
        "is the roofline's of a decoding step. What a million tokens need is a grouped cache "
        "and a handful of chips; "
        "Mamba's state does not know the length.",
        {f"{name}, {target}": cells for (target, name), (cells, _) in found.items()},
    )


def _smallest(means: Means, target: str, name: str) -> tuple[dict[str, str], bool | None]:
    """The smallest grid of chips on which one sequence decodes, or what the largest lacks, and
    whether there is one; None where that could not be measured.
    """
    config = means.large[name]
    try:
        for grid in ("1",) if place(target).present else GRIDS[DEVICES[target].axes]:
            placement = place(f"{target}:{grid}")
            means.say(f"{name} on {placement.name}")
            outcome = means.cache.measure(ProgramSpec(config, "decode", 1, MILLION, placement.name))
            if isinstance(outcome, Measurement) and outcome.fits:
                speed = bound(config, placement, outcome, 1)
                rate = f"{speed.tokens:,.0f}" if speed else "-"
                return {
                    "chips": grid,
                    "each device": describe(outcome),
                    "tokens/s at most": rate,
                }, True
    except UserError as error:
        return _unknown(str(error)), None
    if isinstance(outcome, Failed):
        return _unknown(outcome.reason), None
    return {
        "chips": f"more than {grid}",
        "each device": describe(outcome),
        "tokens/s at most": "-",
    }, False


def _unknown(why: str) -> dict[str, str]:
    return {"chips": "not measured", "each device": why, "tokens/s at most": "-"}


CLAIMS = (
    Claim(
        "Contexts of a million tokens are infeasible.",
        "The decoding step of a model of 8B parameters with grouped heads, compiled for each "
        "target on ever more chips.",
        million_tokens,
    ),
)
