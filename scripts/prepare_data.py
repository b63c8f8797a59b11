"""Prepares local text for training.

    python scripts/prepare_data.py --input='texts/**/*.txt' --output=DIR

Reads .txt (one document a file), .jsonl (one a line, in the field "text") and .gz of both, and
writes memory-mapped token files, split by whole documents; --config.data.path=DIR trains on them.
Tokens are bytes, or with --tokenizer=tokenizer.json those of Hugging Face's tokenizers. The files
of nanoGPT are read with the --tokenizer that made them: with --input='DIR/*.bin' train.bin, val.bin
and, if there is one, test.bin are the splits.
"""

import shlex

from absl import flags

import _root  # noqa: F401
from seqarch.runtime import cli

INPUT = flags.DEFINE_string("input", None, "Files to read, as a quoted pattern; ** is recursive.")
OUTPUT = cli.define_path("output", None, "The directory to write; a prepared one is replaced.")
TOKENIZER = cli.define_path("tokenizer", None, "A tokenizer.json; default: tokens are bytes.")
VALIDATION = flags.DEFINE_float("validation", 0.05, "Fraction of documents in validation.")
TEST = flags.DEFINE_float("test", 0.05, "Fraction of documents in test.")
SEED = flags.DEFINE_integer("seed", 0, "Seed of the split.", upper_bound=2**32 - 1)
flags.mark_flags_as_required(["input", "output"])


def main() -> None:
    from seqarch.tasks.text.prepare import prepare

    split = dict(validation=VALIDATION.value, test=TEST.value, seed=SEED.value)
    meta = prepare(INPUT.value, OUTPUT.value, tokenizer_path=TOKENIZER.value, **split)
    for name, summary in meta["splits"].items():
        line = f"{name}: {summary['documents']:,} documents, {summary['bytes']:,} bytes"
        per_token = summary["bytes"] / summary["tokens"]
        print(line + (f", {per_token:.3f} a token" if TOKENIZER.value else ""))
    more = f" --config.model.vocab={meta['vocab']}" if TOKENIZER.value else ""
    if meta["boundary"] != meta["vocab"] - 1:
        more += f" --config.model.boundary={meta['boundary']}"
    print(f"train on it with --config.data.path={shlex.quote(OUTPUT.value)}{more}")


if __name__ == "__main__":
    cli.run(main, device=False)
