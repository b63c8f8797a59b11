"""Makes a prepared directory from local files.

Inputs are .txt (one document per file), .jsonl (one per line, in the field "text"), both also with
.gz, and nanoGPT's .bin, which hold tokens. Files are read as a stream, twice: once to rank the
documents, once to write them, so that memory holds one document and eight bytes for each other one.
Contents are taken byte for byte, a JSON string in UTF-8. Empty documents are skipped. A document's
name is its path below the common directory of the files, with the line's number for .jsonl.
"""

import glob
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seqarch.errors import UserError
from seqarch.files import has_shape, local_path, parse_json
from seqarch.runtime.progress import Say
from seqarch.tasks.base import SPLITS
from seqarch.tasks.text import tokenizer, tokens, writer
from seqarch.tasks.text.tokenizer import Tokenizer

# The split of a .bin file, by its name.
BIN_SPLITS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
# The first of these tokens that the tokenizer has ends a document in a .bin file.
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


def prepare(
    pattern: str,
    output: str,
    *,
    tokenizer_path: str | None = None,
    validation: float = 0.05,
    test: float = 0.05,
    seed: int = 0,
    say: Say = print,
) -> dict:
    """Writes the files that match a pattern as a prepared directory and returns its meta.json.

    Documents are split by the hash of (seed, content): those with the smallest hashes are held out,
    at least one for each of validation and test. So the split depends on neither names nor order,
    and copies of a document are in the same split. The .bin files are splits already.

    Args:
      pattern: a path or a glob pattern of the files.
      output: the prepared directory.
      tokenizer_path: a tokenizer.json; None: tokens are bytes.
      validation: fraction of the distinct documents for the validation split.
      test: fraction of the distinct documents for the test split.
      seed: of the split.
      say: is called with a warning where halves of surrogate pairs became U+FFFD.

    Raises:
      UserError: where the fractions, the files or the tokenizer cannot be used.
    """
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise UserError(
            f"validation {validation} and test {test} must be positive fractions with a sum below 1"
        )
    paths = _match(pattern)
    encoder = tokenizer.load(tokenizer_path) if tokenizer_path else tokenizer.BYTES
    target = local_path(output).absolute()
    if paths[0].endswith(".bin"):
        source = {"input": pattern, "files": len(paths)}
        return writer.write(target, _bins(paths, encoder), source, tokenizer=encoder, replace=True)

    encoder.encode("")  # raises an error before anything is read if its library is missing
    documents = _assigned(paths, (validation, test), seed, say)
    source = {"input": pattern, "files": len(paths)}
    source |= {"validation": validation, "test": test, "seed": seed}
    return writer.write(target, documents, source, tokenizer=encoder, replace=True)


def _assigned(
    paths: list[str], fractions: tuple[float, float], seed: int, say: Say
) -> Iterator[tuple[str, str, bytes]]:
    """Yields (split, name, content) for every document."""
    halves: list[str] = []
    keys = (_key(text, seed) for _, text in _read(paths, halves.append))
    bounds = _bounds(np.fromiter(keys, np.uint64), *fractions)
    if halves:
        say(
            f"warning: documents with half of a surrogate pair, which UTF-8 cannot write: "
            f"{len(halves)}, the first in {halves[0]}; U+FFFD takes its place"
        )
    for name, text in _read(paths):
        place = np.searchsorted(bounds, np.uint64(_key(text, seed)))
        yield ("validation", "test", "train")[place], name, text


def _match(pattern: str) -> list[str]:
    found = glob.glob(str(local_path(pattern)), recursive=True)
    paths = sorted(path for path in found if os.path.isfile(path))
    if not paths:
        raise UserError(
            f"no file matches {pattern!r}; give a path or a quoted pattern such as 'texts/**/*.txt'"
        )
    bins = paths[0].endswith(".bin")
    for path in paths:
        text = path.removesuffix(".gz").endswith((".txt", ".jsonl"))
        if not (path.endswith(".bin") if bins else text):
            raise UserError(
                f"cannot read {path}; expected .txt, .jsonl, .txt.gz and .jsonl.gz, or .bin "
                "files alone"
            )
    return paths


def _bins(paths: list[str], encoder: Tokenizer) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (split, name, tokens) for every document of .bin files that has a byte."""
    if encoder is tokenizer.BYTES:
        raise UserError(
            f"{paths[0]} holds tokens, of whose bytes only a tokenizer knows; give the "
            "--tokenizer that made them"
        )
    splits = [BIN_SPLITS.get(Path(path).stem, "") for path in paths]
    known = {"train", "validation"} <= set(splits) <= set(SPLITS)
    if not known or len(set(splits)) < len(splits):
        raise UserError(
            f"the input is {', '.join(paths)}; give train.bin and val.bin, and test.bin where "
            "there is one"
        )
    ends = [token for name in ENDS if (token := encoder.id(name)) is not None]
    end = [*ends, encoder.boundary][0]
    for path, split in zip(paths, splits, strict=True):
        stream = _stream(path, encoder)
        for number, document in enumerate(_cut(stream, end), 1):
            if len(document) and document.max() > encoder.last:
                raise UserError(
                    f"{path} has a token {document.max()}, the tokenizer's are 0 to "
                    f"{encoder.last}; give the --tokenizer that made the file"
                )
            if encoder.boundary <= encoder.last:
                document = document[document != encoder.boundary]
            if encoder.sizes[document].any():
                yield split, f"{Path(path).name}:{number}", document


def _stream(path: str, encoder: Tokenizer) -> np.ndarray:
    """Returns the tokens of a .bin file, as uint16 if that can hold the vocabulary, else as uint32.

    Raises:
      UserError: where the file's size is no multiple of that width, or it seems to be uint32.
    """
    size, width = os.path.getsize(path), 2 if encoder.last < 1 << 16 else 4
    if size % width or not size:
        raise UserError(
            f"{path} has {size} bytes; expected tokens of {width} bytes each, which a "
            f"vocabulary of {encoder.last + 1} needs; write them as uint{8 * width}"
        )
    tokens = np.memmap(path, f"<u{width}", "r")
    if width == 2 and len(tokens) > 2 and len(tokens) % 2 == 0 and not tokens[1::2].any():
        raise UserError(
            f"every second token of {path}, read as uint16, is 0: it seems to hold uint32; write "
            "it as uint16, which its vocabulary fits"
        )
    return tokens


def _cut(stream: np.ndarray, end: int) -> Iterator[np.ndarray]:
    """Yields the parts of `stream` between tokens `end`."""
    start = 0
    for first in range(0, len(stream), tokens.BLOCK):
        for stop in first + np.flatnonzero(stream[first : first + tokens.BLOCK] == end):
            yield stream[start:stop]
            start = stop + 1
    yield stream[start:]


def _read(paths: list[str], note_half: Say | None = None) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) for every document that isn't empty.

    Args:
      paths: the files.
      note_half: is called with the place of each text that has half of a surrogate pair.
    """
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    for path in paths:
        name = os.path.relpath(path, root)
        try:
            with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
                if path.removesuffix(".gz").endswith(".txt"):
                    documents = [(name, file.read())]
                else:
                    documents = (
                        (f"{name}:{n}", _text(line, f"{path}, line {n}", note_half))
                        for n, line in enumerate(file, 1)
                    )
                yield from ((name, content) for name, content in documents if content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"cannot read {path}: {error}") from error


def _text(line: bytes, where: str, note_half: Say | None) -> bytes:
    """Returns the UTF-8 bytes of a JSON line's field "text"; b"" for a blank line."""
    if not line.strip():
        return b""
    try:
        value = parse_json(line)
    except ValueError:
        value = None
    if not has_shape(value, {"text": str}):
        raise UserError(f'{where}: expected a JSON object with a string in the field "text"')
    try:
        return value["text"].encode()
    except UnicodeEncodeError:
        if note_half is not None:
            note_half(where)
        return re.sub("[\ud800-\udfff]", "\ufffd", value["text"]).encode()


def _key(text: bytes, seed: int) -> int:
    """Returns the hash of a document by which it is split."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=str(seed).encode()).digest())


def _bounds(keys: np.ndarray, validation: float, test: float) -> np.ndarray:
    """Returns the largest keys of the validation and of the test split."""
    distinct = np.unique(keys)
    counts = [max(1, round(fraction * len(distinct))) for fraction in (validation, test)]
    if sum(counts) >= len(distinct):
        raise UserError(
            f"of {len(distinct)} distinct documents {counts[0]} for validation and {counts[1]} "
            "for test leave none to train on; give more documents (a .txt file is one, a line of "
            ".jsonl is one)"
        )
    return distinct[np.cumsum(counts) - 1]
