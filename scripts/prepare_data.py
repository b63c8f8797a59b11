"""Prepares local text for training: python scripts/prepare_data.py --input='texts/**/*.txt'
--output=DIR

Reads .txt (one document a file), .jsonl (one a line, in the field "text") and .gz of both, and
writes memory-mapped token files, split by whole documents; --config.data.path=DIR trains on them.
Tokens are bytes, or with --tokenizer=tokenizer.json those of Hugging Face's tokenizers. With the
--tokenizer that made them, nanoGPT's files are read
as well: --input='DIR/*.bin', train.bin, val.bin and perhaps test.bin being the splits.
"""

import argparse
import sys
from typing import NoReturn

import _root  # noqa: F401
from seqarch.errors import UserError
from seqarch.tasks.text.prepare import prepare


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.error = fail
    parser.add_argument(
        "--input", required=True, metavar="GLOB", help="files to read, quoted; ** is recursive"
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="DIR",
        help="directory to write; a prepared one is replaced",
    )
    parser.add_argument(
        "--tokenizer", metavar="FILE", help="a tokenizer.json (default: tokens are bytes)"
    )
    parser.add_argument(
        "--validation",
        type=float,
        default=0.05,
        help="fraction of documents (default: %(default)s)",
    )
    parser.add_argument(
        "--test", type=float, default=0.05, help="fraction of documents (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split (default: %(default)s)")
    args = parser.parse_args()
    try:
        split = dict(validation=args.validation, test=args.test, seed=args.seed)
        meta = prepare(args.input, args.output, tokenizer_path=args.tokenizer, **split)
    except UserError as error:
        fail(str(error))
    for split, summary in meta["splits"].items():
        line = f"{split}: {summary['documents']:,} documents, {summary['bytes']:,} bytes"
        print(line + f", {summary['bytes'] / summary['tokens']:.3f} a token" * bool(args.tokenizer))
    vocab = f" --config.model.vocab={meta['vocab']}" * bool(args.tokenizer)
    print(f"train on it with --config.data.path={args.output}{vocab}")


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
