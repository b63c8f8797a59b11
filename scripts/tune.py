"""Finds the fastest form of each mixer on this device, which method=auto then means here.

    python scripts/tune.py

Every form, in every size of chunks or blocks, is timed forward and backward at batch 8, length 512,
width 256, or with --config=configs/lm.py:mamba at those of the config, for the mixers of its
pattern. The choice is kept for this kind of device and version of jaxlib, in seqarch/forms.json in
the user's cache directory; $SEQARCH_FORMS names another file. A run that has begun keeps its forms,
which its run.json shows, and a config may name a method: mamba(method=chunked,chunk=128).
"""

import sys

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli

CONFIG = cli.define_config(
    help="A config whose shapes are tuned for; default: every mixer at 8 x 512."
)
DRY = flags.DEFINE_bool("dry_run", False, "Print the choice and do not keep it.")


def main() -> None:
    import jax

    from benchmarks.tables import measured_tables
    from benchmarks.tune import tune
    from seqarch import tuning
    from seqarch.config import Config, ModelConfig, parse
    from seqarch.mixers import MIXERS
    from seqarch.patterns import Layer
    from seqarch.records import Results, Source
    from seqarch.report.render import text_table

    every = Config(batch=8, length=512, model=ModelConfig(",".join(MIXERS), dim=256))
    config = parse(CONFIG.value) if CONFIG.value else every
    choices, timings = tune(config, say=lambda line: print(line, file=sys.stderr, flush=True))
    measured = tuple(record for timing in timings for record in timing.records())
    for table in measured_tables(Results(Source("seqarch", "benchmark"), measured)):
        if table.rows:
            print(text_table(table))
    for mixer, options in choices.items():
        print(f"chosen: {Layer(mixer, tuple(options.items()))}")
    if choices and not DRY.value:
        print(f"kept in {tuning.record(jax.devices()[0], choices)}")


if __name__ == "__main__":
    cli.run(main)
