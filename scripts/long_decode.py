"""Decodes a million tokens with each mixer and records memory and time a token.

    python scripts/long_decode.py

A constant state stays as it is, and so do resident memory and the time of a token. A key/value
cache grows: attention gets caches that double, up to --cache_bytes. A real prefill fills each, and
its last tokens are decoded. Each mixer has a process of its own, so that none sees what another
left behind.

Writes OUT/records.jsonl after each mixer, and OUT/figures/long-decode.svg. Records of other mixers
that OUT has already stay.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from _root import ROOT
from seqarch import records
from seqarch.config import parse, to_dict
from seqarch.errors import UserError
from seqarch.patterns import parse_pattern
from seqarch.provenance import command, revision
from seqarch.records import Results
from seqarch.report.pages import write_svg
from seqarch.runtime import cli
from seqarch.runtime.accelerator import spare_accelerator
from studies import long_decode

spare_accelerator()
CONFIG = cli.define_config(
    str(ROOT / "configs/lm.py"), help="The model, with each of --mixers in turn."
)
MIXERS = flags.DEFINE_list(
    "mixers", ["gru", "linear_attention", "mamba", "attention"], "What to decode with."
)
TOKENS = flags.DEFINE_integer(
    "tokens", 1_000_000, "Tokens of constant-state mixers.", lower_bound=long_decode.PIECE
)
CACHE = flags.DEFINE_integer("cache_bytes", 1 << 28, "The largest key/value cache.", lower_bound=1)
OUT = cli.define_path("out", "runs/long_decode", "The directory to write.")
flags.register_validator("mixers", bool, "give at least one")
TITLE = "Decoding a million tokens"


def main() -> None:
    config, source = to_dict(parse(CONFIG.value)), revision()
    for mixer in MIXERS.value:
        parse_pattern(mixer)
    path = Path(OUT.value) / records.NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    found = known(path)
    for mixer in dict.fromkeys(MIXERS.value):
        found[mixer] = decode(config, mixer, source)
        records.write(path, list(found.values()), dict(kind=long_decode.EVALUATOR, title=TITLE))
    (figure,) = long_decode.decoding_page(list(found.values()), TITLE).figures
    drawing = path.parent / "figures" / f"{figure.name}.svg"
    drawing.parent.mkdir(exist_ok=True)
    write_svg(figure, drawing)
    print(f"wrote {path} and {drawing}")


def known(path: Path) -> dict[str, Results]:
    """Returns what an earlier call measured, by mixer; raises UserError for another file."""
    if not path.exists():
        return {}
    long_decode.read(path)
    return {each.source.member: each for each in records.read(path).results}


def decode(config: Mapping[str, Any], mixer: str, source: Mapping[str, Any]) -> Results:
    """Returns the records of one mixer, measured in a process of its own.

    Args:
      source: the revision at which this program started.
    """
    points = []
    with start(config, mixer) as process:
        made = json.loads(process.stdout.readline() or "{}") | source | dict(command=command())
        for line in process.stdout:
            points.append(long_decode.Point(**json.loads(line)))
            print(f"{mixer}: {long_decode.describe(points[-1])}", flush=True)
    if process.returncode:
        raise UserError(
            f"decoding with {mixer!r} ended with exit code {process.returncode}; see what it said "
            "above"
        )
    return long_decode.results(config, mixer, made, points)


def start(config: Mapping[str, Any], mixer: str) -> subprocess.Popen:
    """Starts `studies.long_decode`, which prints its provenance and its points as lines of JSON."""
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    asked = dict(config=config, mixer=mixer, tokens=TOKENS.value, cache_bytes=CACHE.value)
    arguments = [sys.executable, "-m", "studies.long_decode", json.dumps(asked)]
    env = os.environ | dict(PYTHONPATH=path)
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=env)


if __name__ == "__main__":
    cli.run(main)
