"""Whether a model trains and serves on a target, how, and how fast at most:

    python scripts/plan.py --config=configs/lm.py:mamba --target=tpu-v5e:2x2 --context=131072

Programs are compiled for the target, which need not be here; see seqarch/costs/devices.py.
"""

import functools
import sys
from pathlib import Path

from absl import flags

from _root import ROOT
from seqarch.compare.spec import FIELDS
from seqarch.config import parse
from seqarch.costs import capacity
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place
from seqarch.errors import NoResult, UserError
from seqarch.model import count_parameters
from seqarch.report.capacity import serving_lines, training_lines
from seqarch.report.formats import format_si
from seqarch.runtime import cli
from seqarch.runtime.accelerator import spare_accelerator

LOCAL = spare_accelerator()  # of the workers
CONFIG = cli.define_config()
TARGET = flags.DEFINE_string(
    "target", "local", "A device with its chips, such as tpu-v5e:2x2 or gpu-h100:8."
)
CONTEXT = flags.DEFINE_integer(
    "context", None, "Tokens of a training row, and of a served sequence; default: config.length."
)
PRICE = flags.DEFINE_float(
    "price", None, "Of a chip and hour: adds what a million tokens cost at least.", lower_bound=0
)
CACHE = cli.define_path("cache", str(ROOT / "runs/plan-cache"), "Where measurements are kept.")
flags.mark_flag_as_required("config")
PHASES = {
    "training": (capacity.plan_training, training_lines),
    "serving": (capacity.plan_serving, serving_lines),
}


def main() -> None:
    given = CONFIG.value.to_dict()
    # of a comparison, what its members share is planned
    config = parse({name: value for name, value in given.items() if name not in FIELDS})
    placement = place(TARGET.value)
    context = config.length if CONTEXT.value is None else CONTEXT.value
    if context < 1:
        raise UserError(f"--context is {context}; give a number of tokens of at least 1")
    size = (
        f"{format_si(count_parameters(config.model))} parameters, context {context:,}, on "
        f"{placement.name}"
    )
    print(f"{config.model.mixer}: {size}")
    failures = []
    say = functools.partial(print, file=sys.stderr, flush=True)
    with MeasurementCache(Path(CACHE.value), platforms=LOCAL, say=say) as cache:
        for phase, (plan, told) in PHASES.items():
            try:
                for line in told(
                    config, placement, context, plan(cache, config, placement, context), PRICE.value
                ):
                    print(f"{phase:<9} {line}", flush=True)
            except NoResult as error:
                failures.append(f"{phase}: {error}")
    if placement.target.source:
        memory = (
            "Memory is what libtpu offers; " if placement.target.platform == "tpu" else "Memory, "
        )
        print(
            f"{memory}bandwidth and FLOP/s are those of {placement.target.source}. Bounds are "
            "rooflines, not forecasts."
        )
    if failures:
        raise NoResult("; ".join(failures))


if __name__ == "__main__":
    cli.run(main)
