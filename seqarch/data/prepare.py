"""Local files as a prepared directory: .txt (one document a file), .jsonl (one a line, field "text"), .gz of both.

The files are read as a stream, twice: once to rank the documents, once to write them; only one document and eight
bytes for every other are in memory. Contents are taken byte for byte, a JSON string in UTF-8. Empty documents are
skipped. A document's name is its path below the files' common directory, with the line's number in a .jsonl file.
"""

import glob
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seqarch.data import tokens
from seqarch.errors import UserError


def prepare(pattern: str, output: str, *, validation: float = 0.05, test: float = 0.05, seed: int = 0) -> dict:
    """Writes the files that match `pattern` as the prepared directory `output` and returns its meta.json.

    Documents are split whole, by the hash of (seed, content): those with the smallest hashes are held out, at least
    one for each of validation and test. So the split depends on neither names nor order, and copies of a document
    fall on the same side. `validation` and `test` are fractions of the distinct documents.
    """
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise UserError(f"validation {validation} and test {test} must be positive fractions with a sum below 1")
    paths = _match(pattern)

    def assigned() -> Iterator[tuple[str, str, bytes]]:
        bounds = _bounds(np.fromiter((_key(text, seed) for _, text in _read(paths)), np.uint64), validation, test)
        for name, text in _read(paths):
            split = ("validation", "test", "train")[np.searchsorted(bounds, np.uint64(_key(text, seed)))]
            yield split, name, text

    source = {"input": pattern, "files": len(paths), "validation": validation, "test": test, "seed": seed}
    return tokens.write(Path(output).expanduser().absolute(), assigned(), source, replace=True)


def _match(pattern: str) -> list[str]:
    paths = sorted(path for path in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(path))
    if not paths:
        raise UserError(f"no file matches {pattern!r}; give a path or a quoted pattern such as 'texts/**/*.txt'")
    for path in paths:
        if not path.removesuffix(".gz").endswith((".txt", ".jsonl")):
            raise UserError(f"cannot read {path}; expected .txt, .jsonl, .txt.gz or .jsonl.gz")
    return paths


def _read(paths: list[str]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every document that isn't empty."""
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    for path in paths:
        name = os.path.relpath(path, root)
        try:
            with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
                if path.removesuffix(".gz").endswith(".txt"):
                    documents = [(name, file.read())]
                else:
                    documents = ((f"{name}:{n}", _text(line, f"{path}, line {n}")) for n, line in enumerate(file, 1))
                yield from ((name, content) for name, content in documents if content)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"cannot read {path}: {error}") from error


def _text(line: bytes, where: str) -> bytes:
    """The UTF-8 bytes of a JSON line's field "text"; none for a blank line."""
    if not line.strip():
        return b""
    try:
        return json.loads(line)["text"].encode()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f'{where}: expected a JSON object with a string in the field "text"') from None


def _key(text: bytes, seed: int) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, key=str(seed).encode()).digest())


def _bounds(keys: np.ndarray, validation: float, test: float) -> np.ndarray:
    """The largest key of validation and the largest of test."""
    distinct = np.unique(keys)
    counts = [max(1, round(fraction * len(distinct))) for fraction in (validation, test)]
    if sum(counts) >= len(distinct):
        raise UserError(
            f"of {len(distinct)} distinct documents {counts[0]} for validation and {counts[1]} for test leave none to "
            "train on; give more documents (a .txt file is one, a line of .jsonl is one)"
        )
    return distinct[np.cumsum(counts) - 1]
