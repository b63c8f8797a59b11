"""Text as tokens: the 256 bytes and one document boundary, in memory-mapped files.

A document is stored as BOUNDARY followed by its bytes. A prepared directory holds for each split `SPLIT.bin`, its
documents' tokens one after the other as little-endian uint16, and `SPLIT.names`, their names, one a line; and for all:

    meta.json   {"format": 1, "tokenizer": "bytes", "vocab": 257, "boundary": 256, "dtype": "<u2", "source": {...},
                 "splits": {"train": {"tokens": ..., "bytes": ..., "documents": ..., "sha256": ...}, ...}}
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqarch.errors import UserError, unknown

VOCAB = 257
BOUNDARY = 256
SPLITS = ("train", "validation", "test")
DTYPE = np.dtype("<u2")
BLOCK = 1 << 24  # tokens scanned at once
LAYOUT = {"format": 1, "tokenizer": "bytes", "vocab": VOCAB, "boundary": BOUNDARY, "dtype": DTYPE.str}


def encode(text: bytes | str) -> np.ndarray:
    """Tokens Int32[T] of the text's bytes (UTF-8), without a boundary."""
    return np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int32)


def decode(tokens: Sequence[int] | np.ndarray) -> bytes:
    """The bytes of `tokens`; a boundary has none."""
    tokens = np.asarray(tokens)
    return tokens[tokens != BOUNDARY].astype(np.uint8).tobytes()


class Document(NamedTuple):
    """`tokens[start:stop]` of its split: the boundary at `start`, then the bytes."""

    name: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class TokenFile:
    """One split of a prepared directory. `tokens` is memory-mapped and read-only; `meta` is the whole meta.json."""

    directory: Path
    split: str
    meta: dict
    tokens: np.ndarray

    @property
    def bytes(self) -> int:
        return self.meta["splits"][self.split]["bytes"]

    @functools.cached_property
    def documents(self) -> list[Document]:
        """All documents in order, found by scanning for boundaries: the tokens alone say where they begin."""
        names = (self.directory / f"{self.split}.names").read_text("utf-8", "surrogateescape").split("\n")[:-1]
        blocks = range(0, len(self.tokens), BLOCK)
        starts = np.concatenate([lo + np.flatnonzero(self.tokens[lo : lo + BLOCK] == BOUNDARY) for lo in blocks])
        bounds = [*starts.tolist(), len(self.tokens)]
        return [Document(*fields) for fields in zip(names, bounds[:-1], bounds[1:], strict=True)]

    def read(self, document: Document, limit: int = 0) -> np.ndarray:
        """The document's bytes UInt8[T], or with a `limit` its first `limit` bytes."""
        stop = min(document.stop, document.start + 1 + limit) if limit else document.stop
        return self.tokens[document.start + 1 : stop].astype(np.uint8)


def read_meta(directory: Path) -> dict:
    """The meta.json of a prepared directory; raises UserError where there is none that this version reads."""
    path = directory / "meta.json"
    if not path.is_file():
        raise UserError(
            f"no prepared text in {directory} (it has no meta.json); "
            "give 'shakespeare' or a directory written by scripts/prepare_data.py"
        )
    try:
        meta = json.loads(path.read_bytes())
        matches = {name: meta[name] for name in LAYOUT} == LAYOUT and set(meta["splits"]) == set(SPLITS)
    except (ValueError, KeyError, TypeError):
        matches = False
    if not matches:
        raise UserError(f"{path} does not describe byte tokens of format {LAYOUT['format']}; prepare the text again")
    return meta


def open_split(directory: Path | str, split: str) -> TokenFile:
    """Maps one split of a prepared directory; raises UserError where a file is missing or has lost its end."""
    directory = Path(directory)
    meta = read_meta(directory)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    path = directory / f"{split}.bin"
    size = path.stat().st_size if path.is_file() else 0
    expected = meta["splits"][split]["tokens"] * DTYPE.itemsize
    if size != expected:
        raise UserError(f"{path} has {size} bytes, meta.json says {expected}; remove {directory} and prepare it again")
    return TokenFile(directory, split, meta, np.asarray(np.memmap(path, DTYPE, "r")))


def write(output: Path, documents: Iterable[tuple[str, str, bytes]], source: dict, *, replace: bool) -> dict:
    """Writes a prepared directory from (split, name, content) and returns its meta.json.

    The directory appears whole or not at all. Where a prepared one stands when ours is complete, `replace` says which
    of the two stays. No document may be empty, and none of the splits.
    """
    if output.exists() and not (output / "meta.json").is_file() and not _is_empty(output):
        raise UserError(f"{output} exists and is no prepared directory; give another output or remove it")
    partial = output.with_name(f".{output.name}.{uuid.uuid4().hex}")
    try:
        partial.mkdir(parents=True)
        meta = {**LAYOUT, "source": source, "splits": _write_splits(partial, documents)}
        (partial / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        _publish(partial, output, replace)
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror or error}; give another place") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return meta


class _SplitWriter:
    """Appends documents to one split's files, and keeps count."""

    def __init__(self, directory: Path, split: str, files: contextlib.ExitStack):
        self.tokens = files.enter_context(open(directory / f"{split}.bin", "wb"))
        self.names = files.enter_context(open(directory / f"{split}.names", "w", -1, "utf-8", "surrogateescape", "\n"))
        self.digest = hashlib.sha256()
        self.bytes = self.documents = 0

    def add(self, name: str, content: bytes) -> None:
        tokens = np.empty(1 + len(content), DTYPE)
        tokens[0] = BOUNDARY
        tokens[1:] = np.frombuffer(content, np.uint8)
        self.tokens.write(tokens)
        self.digest.update(tokens)
        self.names.write(name.replace("\n", " ") + "\n")
        self.bytes += len(content)
        self.documents += 1

    def summary(self) -> dict:
        return {
            "tokens": self.bytes + self.documents,
            "bytes": self.bytes,
            "documents": self.documents,
            "sha256": self.digest.hexdigest(),
        }


def _write_splits(directory: Path, documents: Iterable[tuple[str, str, bytes]]) -> dict[str, dict]:
    with contextlib.ExitStack() as files:
        writers = {split: _SplitWriter(directory, split, files) for split in SPLITS}
        for split, name, content in documents:
            writers[split].add(name, content)
    return {split: writer.summary() for split, writer in writers.items()}


def _publish(partial: Path, output: Path, replace: bool) -> None:
    """Gives `partial` the name `output`. Renaming a directory succeeds only where nothing or an empty one stands."""
    try:
        os.rename(partial, output)
    except OSError:
        if not (output / "meta.json").is_file():
            raise
        if replace:
            old = partial.with_name(partial.name + ".old")
            os.rename(output, old)
            os.rename(partial, output)
            shutil.rmtree(old)


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
