"""Whether a model trains and serves on a target, how, and how fast at most:

    python scripts/plan.py --config=configs/lm.py:mamba --target=tpu-v5e:2x2 --context=131072 --price=1.2

Programs are compiled for the target, which need not be here; see seqarch/measure/targets.py.
"""

import functools
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from absl import flags
from ml_collections import config_flags

from seqarch import cli
from seqarch.comparison.plan import FIELDS
from seqarch.config import Config, parse
from seqarch.errors import NoResult, UserError
from seqarch.matching import count_parameters
from seqarch.measure import planner
from seqarch.measure.cells import Outcome
from seqarch.measure.lab import Lab
from seqarch.measure.survey import describe
from seqarch.measure.tables import format_bytes, format_si
from seqarch.measure.targets import Placement, place

LOCAL = cli.spare_accelerator()  # of the workers
CONFIG = config_flags.DEFINE_config_file("config", None, "configs/FILE.py[:ARGUMENT]; fields are set by --config.FIELD=VALUE.")
TARGET = flags.DEFINE_string("target", "local", "A device with its chips, such as tpu-v5e:2x2 or gpu-h100:8.")
CONTEXT = flags.DEFINE_integer("context", None, "Tokens of a training row, and of a served sequence; default: config.length.")
PRICE = flags.DEFINE_float("price", None, "Of a chip and hour: adds what a million tokens cost at least.", lower_bound=0)
CACHE = cli.define_path("cache", str(ROOT / "runs/plan-cache"), "Where measurements are kept.")
flags.mark_flag_as_required("config")


def main() -> None:
    given = CONFIG.value.to_dict()
    # of a comparison or a survey, what its members share is planned
    config = parse({name: value for name, value in given.items() if name not in FIELDS})
    placement = place(TARGET.value)
    context = config.length if CONTEXT.value is None else CONTEXT.value
    if context < 1:
        raise UserError(f"--context is {context}; give a number of tokens of at least 1")
    size = f"{format_si(count_parameters(config.model))} parameters, context {context:,}, on {placement.name}"
    print(f"{config.model.mixer}: {size}")
    failures = []
    with Lab(Path(CACHE.value), platforms=LOCAL) as lab:
        for phase, plan, told in (("training", planner.plan_training, training), ("serving", planner.plan_serving, serving)):
            try:
                for line in told(config, placement, context, plan(lab, config, placement, context)):
                    print(f"{phase:<9} {line}", flush=True)
            except NoResult as error:
                failures.append(f"{phase}: {error}")
    if placement.target.source:
        memory = "Memory is what libtpu offers; " if placement.target.platform == "tpu" else "Memory, "
        print(f"{memory}bandwidth and FLOP/s are those of {placement.target.source}. Bounds are rooflines, not forecasts.")
    if failures:
        raise NoResult("; ".join(failures))


def training(config: Config, placement: Placement, context: int, plan: planner.Training) -> Iterator[str]:
    way, batch = plan.way, plan.way.config.batch
    if batch != config.batch:
        yield f"{config.batch} rows do not divide over {placement.count} devices: {batch} are planned"
    for tried in plan.tried:
        yield f"{batch} rows, {tried.change}: {fit(tried.outcome)}"
    yield f"{way.change if way.fits else 'does not fit'}; most of the memory goes to {planner.largest_part(way.outcome)}"
    more = f", {plan.rows.beyond:,} do not" if plan.rows.beyond else " or more"
    yield f"largest batch: {plan.rows.size:,} rows fit{more}"
    speed = planner.bound(config, placement, way.outcome, batch * context)
    if way.fits and speed:
        yield rate("speed", placement, speed)


def serving(config: Config, placement: Placement, context: int, plan: planner.Serving) -> Iterator[str]:
    yield f"one sequence: {fit(plan.one)}; its prefill: {fit(plan.prefill)}"
    if not plan.sequences:
        lacking = plan.prefill if plan.one.fits else plan.one
        failed = isinstance(lacking, planner.Failed)
        yield "it fails to compile" if failed else f"does not fit; most of the memory goes to {planner.largest_part(lacking)}"
        return
    yield f"{plan.sequences:,} at once: {fit(plan.many)}; most of it is {planner.largest_part(plan.many)}"
    segment = min(config.length, max(context // 2, 1))
    bound = functools.partial(planner.bound, config, placement)
    speeds = {
        "prefill of one": bound(plan.halfway, segment, unread=2),
        "decoding of one": bound(plan.one, 1),
    }
    if plan.sequences > 1:
        speeds |= {
            f"prefill of {plan.sequences:,}": bound(plan.many_halfway, plan.sequences * segment, unread=2),
            f"decoding of {plan.sequences:,}": bound(plan.many, plan.sequences),
        }
    for what, speed in speeds.items():
        yield rate(what, placement, speed) if speed else f"{what}: no data sheet of this device, no bound"


def fit(outcome: Outcome) -> str:
    """ "9.1 GiB of 16 GiB", what it needs and does not get, or why it failed."""
    if isinstance(outcome, planner.Failed):
        return outcome.reason
    return f"{describe(outcome)} of {format_bytes(outcome.memory)}" if outcome.fits else describe(outcome)


def rate(what: str, placement: Placement, speed: planner.Bound) -> str:
    line = f"{what}: at most {format_si(speed.tokens)} tokens/s, limited by {speed.limit}"
    if PRICE.value is None:
        return line
    return f"{line}; a million tokens cost at least {planner.cost(placement, speed, PRICE.value):.3g}"


if __name__ == "__main__":
    cli.run(main)
