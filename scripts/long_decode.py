"""Decodes a million tokens with each mixer and records memory and time per token.

    python scripts/long_decode.py

With a constant state, resident memory and the time per token stay as they are. A key/value cache
grows: attention gets caches that double, up to --cache_bytes; a real prefill fills each, and its
last tokens are decoded. Each mixer has a process of its own, so that none measures what another
left behind.

Writes OUT/records.jsonl after each mixer, and OUT/figures/long-decode.svg. Records of other mixers
that OUT has already stay.
"""

from pathlib import Path

from absl import flags

from _root import ROOT
from seqarch import records
from seqarch.config import parse
from seqarch.report.pages import write_svg
from seqarch.runtime import cli
from seqarch.runtime.accelerator import spare_accelerator
from studies import long_decode
from studies.decoding_page import decoding_page

spare_accelerator()
CONFIG = cli.define_config(
    str(ROOT / "configs/lm.py"), help="The model, with each of --mixers in turn."
)
MIXERS = flags.DEFINE_list(
    "mixers", ["gru", "linear_attention", "mamba", "attention"], "Mixers to decode with."
)
TOKENS = flags.DEFINE_integer(
    "tokens", 1_000_000, "Tokens of constant-state mixers.", lower_bound=long_decode.PIECE
)
CACHE = flags.DEFINE_integer("cache_bytes", 1 << 28, "The largest key/value cache.", lower_bound=1)
OUT = cli.define_path("out", "runs/long_decode", "The directory to write.")
flags.register_validator("mixers", bool, "give at least one")


def main() -> None:
    path = Path(OUT.value) / records.NAME
    found = long_decode.record_all(
        parse(CONFIG.value), MIXERS.value, TOKENS.value, CACHE.value, path
    )
    (figure,) = decoding_page(found, long_decode.TITLE).figures
    drawing = path.parent / "figures" / f"{figure.name}.svg"
    drawing.parent.mkdir(exist_ok=True)
    write_svg(figure, drawing)
    print(f"wrote {path} and {drawing}")


if __name__ == "__main__":
    cli.run(main)
