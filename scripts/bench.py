"""Times every form of every op, the mixers, train steps, decoding and compilation: python scripts/bench.py --out=FILE.json

Prints tables of figures and the ratios that are promised, with their targets. It takes about seven minutes on two cores;
--only=attention,gru measures some groups, --show=FILE.json prints the tables of an earlier run.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from absl import flags  # noqa: E402

from seqarch import cli  # noqa: E402

ONLY = flags.DEFINE_list("only", [], "Groups to measure: names of ops, mixers, train_step, decoding, compile, generation.")
OUT = flags.DEFINE_string("out", None, "The JSON file to write.")
SHOW = flags.DEFINE_string("show", None, "Print the tables of this JSON file instead of measuring.")


def main() -> None:
    import jax

    from seqarch.errors import UserError
    from seqarch.measure import bench, bench_tables

    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured too
    try:
        if SHOW.value:
            result = json.loads(Path(SHOW.value).read_text())
        else:
            for result in bench.run(ONLY.value, say=lambda line: print(line, file=sys.stderr, flush=True)):
                result["ratios"] = bench_tables.ratios(result)
                if OUT.value:  # as it grows: a run that is cut short leaves what it has
                    Path(OUT.value).write_text(json.dumps(result, indent=1) + "\n")
    except (OSError, ValueError) as error:
        raise UserError(f"{error}; --show takes a file that --out wrote, --out one in a directory that exists") from error
    print(bench_tables.render(result))


if __name__ == "__main__":
    cli.run(main)
