"""Decodes a million tokens with each mixer and records memory and time a token: python
scripts/long_decode.py

Constant states stay as they are, and so do resident memory and the time of a token. A key/value
cache grows: attention gets caches that double, as far as --cache_bytes allow; a real prefill fills
each, and its last tokens are decoded. Writes OUT.json as it goes, and OUT.svg; what OUT.json has of
other mixers stays. Each mixer has a process of its own, so that none sees what another left behind.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from absl import flags

from _root import ROOT
from seqarch.config import Config, parse, to_dict
from seqarch.errors import UserError
from seqarch.files import write_json
from seqarch.patterns import parse_pattern
from seqarch.provenance import command, revision
from seqarch.report.figures import decoding_figure
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
OUT = cli.define_path("out", "runs/long_decode", "The files to write, without .json and .svg.")
flags.register_validator("mixers", bool, "give at least one")


def main() -> None:
    config = parse(CONFIG.value)
    out = Path(OUT.value)
    record, plot = (out.with_name(f"{out.name}.{kind}") for kind in ("json", "svg"))
    out.parent.mkdir(parents=True, exist_ok=True)
    for mixer in MIXERS.value:
        parse_pattern(mixer)
    records, source = long_decode.read(record) if record.exists() else {}, revision()
    for mixer in dict.fromkeys(MIXERS.value):
        with decoding(config, mixer) as process:
            about = json.loads(process.stdout.readline() or "{}")
            made = records[mixer] = about | source | dict(command=command(), points=[])
            for line in process.stdout:
                made["points"].append(json.loads(line))
                print(
                    f"{mixer}: {long_decode.describe(long_decode.Point(**made['points'][-1]))}",
                    flush=True,
                )
                write_json(record, dict(mixers=records))
        if process.returncode:
            raise UserError(
                f"decoding with {mixer!r} ended with exit code {process.returncode}; what it "
                "said stands above"
            )
    write_svg(decoding_figure({mixer: each["points"] for mixer, each in records.items()}), plot)
    print(f"wrote {record} and {plot}")


def decoding(config: Config, mixer: str) -> subprocess.Popen:
    """The process that decodes with a mixer; it prints what it is, then its points, as lines of
    JSON.
    """
    env = os.environ | dict(
        PYTHONPATH=os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    )
    asked = json.dumps(
        dict(config=to_dict(config), mixer=mixer, tokens=TOKENS.value, cache_bytes=CACHE.value)
    )
    command = [sys.executable, "-m", "studies.long_decode", asked]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)


if __name__ == "__main__":
    cli.run(main)
