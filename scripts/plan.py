"""Says whether a model trains and serves on a target, how, and how fast at most.

    python scripts/plan.py --config=configs/lm.py:mamba --target=tpu-v5e:2x2 --context=131072
    python scripts/plan.py "--config=configs/probes.py:mqar,linear_attention(decay=data)" --facts=4
    python scripts/plan.py --hf=config.json --target=gpu-h100

Programs are compiled for the target, which need not be here; see seqarch/costs/devices.py. With
--time the compiler of a TPU also estimates how long they take. With --out=DIR the numbers are also
written as records, to DIR/records.jsonl.

--facts asks instead how much state the recall of so many facts needs, by a law that
scripts/frontier.py fitted to runs. Nothing is compiled then.

--hf asks what a Hugging Face model needs, by its config.json alone: parameters, the state of a
sequence at --contexts, and how many sequences fit --target. It is arithmetic: nothing is compiled.
"""

import functools
import sys
from pathlib import Path

from absl import flags

from _root import ROOT
from seqarch import records
from seqarch.compare.facts import needed, read_frontiers
from seqarch.compare.spec import FIELDS
from seqarch.config import parse
from seqarch.costs import capacity
from seqarch.costs.cache import MeasurementCache
from seqarch.costs.devices import place
from seqarch.costs.hf.families import read_model
from seqarch.costs.hf.plan import outside_records, outside_source
from seqarch.costs.results import program_source
from seqarch.costs.speed import with_costs
from seqarch.errors import NoResult, UserError
from seqarch.records import Results
from seqarch.report.capacity import heading, serving_lines, source_line, training_lines
from seqarch.report.facts import need_lines
from seqarch.report.outside import outside_heading, outside_notes, outside_tables
from seqarch.report.render import text_table
from seqarch.runtime import cli
from seqarch.runtime.accelerator import spare_accelerator
from seqarch.runtime.overrides import missing_config

LOCAL = spare_accelerator()  # JAX_PLATFORMS of the workers
CONFIG = cli.define_config()
TARGET = flags.DEFINE_string(
    "target", "local", "A device with its chips, such as tpu-v5e:2x2 or gpu-h100:8."
)
CONTEXT = flags.DEFINE_integer(
    "context", None, "Tokens of a training row, and of a served sequence; default: config.length."
)
TIME = flags.DEFINE_boolean(
    "time", False, "Also estimate the time of what fits a TPU, which compiles it whole."
)
PRICE = flags.DEFINE_float(
    "price", None, "Dollars of a chip for an hour: adds the least cost of a million tokens.", 0
)
CACHE = cli.define_path("cache", str(ROOT / "runs/plan-cache"), "Where measurements are kept.")
OUT = cli.define_path("out", None, "The directory of records.jsonl; default: none is written.")
FACTS = flags.DEFINE_integer(
    "facts", None, "Number of facts to recall: says how much state they need, and stops.", 1
)
LAW = cli.define_path(
    "law", str(ROOT / "docs/frontier/records.jsonl"), "Records of the law that --facts asks."
)
HF = cli.define_path("hf", None, "config.json of a Hugging Face model, in place of --config.")
CONTEXTS = flags.DEFINE_list(
    "contexts", ["4096", "131072", "1048576"], "Tokens at which --hf counts the state."
)
PHASES = {
    "training": (capacity.training_capacity, training_lines),
    "serving": (capacity.serving_capacity, serving_lines),
}


def main() -> None:
    if OUT.value:
        Path(OUT.value).mkdir(parents=True, exist_ok=True)
    if HF.value is not None:
        plan_outside(Path(HF.value))
        return
    if CONFIG.value is None:
        raise missing_config(sys.argv)
    given = CONFIG.value.to_dict()
    # Of a comparison, what its members share is planned.
    config = parse({name: value for name, value in given.items() if name not in FIELDS})
    if FACTS.value is not None:
        laws = read_frontiers(Path(LAW.value))
        print("\n".join(need_lines(needed(laws, config, FACTS.value))))
        return
    placement = place(TARGET.value)
    context = config.length if CONTEXT.value is None else CONTEXT.value
    if context < 1:
        raise UserError(f"--context is {context}; give a number of tokens of at least 1")
    results = Results(program_source(config.model.mixer, config), ())
    results = results.with_found(capacity.target_facts(config, placement, context))
    print(title := heading(results))
    failures = []
    say = functools.partial(print, file=sys.stderr, flush=True)
    with MeasurementCache(Path(CACHE.value), platforms=LOCAL, say=say) as cache:
        for phase, (measure, lines) in PHASES.items():
            found = measure(cache, config, placement, context, timed=TIME.value)
            try:
                for record in with_costs(found, placement, PRICE.value):
                    results = results.with_found([record])
                for line in lines(results):
                    print(f"{phase:<9} {line}", flush=True)
            except NoResult as error:
                failures.append(f"{phase}: {error}")
    if line := source_line(results):
        print(line)
    write_records(results, title)
    if failures:
        raise NoResult("; ".join(failures))


def plan_outside(path: Path) -> None:
    """Prints what a Hugging Face model needs."""
    for name in ("config", "context", "facts", "law", "price", "time"):
        if flags.FLAGS[name].present:
            raise UserError(f"--hf and --{name} cannot be combined; leave one of them out")
    contexts = cli.read_lengths(CONTEXTS.value, "contexts")
    placement = place(TARGET.value) if flags.FLAGS["target"].present else None
    model = read_model(path)
    results = Results(outside_source(model, path), ())
    results = results.with_found(outside_records(model, contexts, placement))
    print(title := outside_heading(results))
    for table in outside_tables(results):
        print(f"\n{text_table(table)}")
    print()
    for line in outside_notes(results):
        print(line)
    write_records(results, title)


def write_records(results: Results, title: str) -> None:
    """Writes records to --out where it is given."""
    if OUT.value:
        path = Path(OUT.value) / records.NAME
        records.write(path, [results], dict(kind="capacity", title=title))
        print(f"wrote {path}")


if __name__ == "__main__":
    cli.run(main)
