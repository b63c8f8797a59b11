"""Times every form of every op, mixers, train steps, decoding and compilation: python
scripts/bench.py --out=FILE.json

Prints tables of figures and the ratios that are promised, with their targets. It takes minutes on
two quiet cores; --only=attention,gru measures some groups, --peers times PyTorch's layers in turn
with ours (requirements-peers.txt), --show=FILE.json prints the tables of an earlier run.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from absl import flags

from seqarch.errors import UserError
from seqarch.runtime import cli

ONLY = flags.DEFINE_list(
    "only",
    [],
    "Groups to measure: names of ops, mixers, train_step, decoding, compile, generation.",
)
PEERS = flags.DEFINE_bool(
    "peers", False, "Time PyTorch's layers beside ours too; --only=peers: nothing else."
)
OUT = cli.define_path("out", None, "The JSON file to write.")
SHOW = cli.define_path("show", None, "Print the tables of this JSON file instead of measuring.")


def main() -> None:
    import jax

    from benchmarks import bench, tables

    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured too
    if SHOW.value:
        print(tables.render(_read(Path(SHOW.value))))
        return
    say = lambda line: print(line, file=sys.stderr, flush=True)
    for result in bench.run(ONLY.value, say=say, peers=PEERS.value):
        result["ratios"] = tables.ratios(result)
        if OUT.value:  # as it grows: a run that is cut short leaves what it has
            _write(Path(OUT.value), result)
    print(tables.render(result))


def _read(path: Path) -> dict:
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read --show={path}: {error}; give a file that --out wrote"
        ) from error
    if not (isinstance(result, dict) and {"figures", "sizes", "limits", "versions"} <= set(result)):
        raise UserError(f"--show={path} is no benchmark; give a file that --out wrote")
    return result


def _write(path: Path, result: dict) -> None:
    try:
        path.write_text(json.dumps(result, indent=1) + "\n")
    except OSError as error:
        raise UserError(
            f"cannot write --out={path}: {error.strerror}; give a file in a directory that exists"
        ) from error


if __name__ == "__main__":
    cli.run(main)
