"""Text as tokens in memory-mapped files: each document is a boundary followed by its tokens, bytes
unless said otherwise.

A prepared directory holds for each split `SPLIT.bin`, its documents' tokens one after the other as
little-endian uint16, or uint32 where the vocabulary needs it, and `SPLIT.names`, their names, one a
line; and for all, beside the tokenizer.json of tokens that are no bytes:

    meta.json   {"format": 1, "tokenizer": "bytes", "vocab": 257, "boundary": 256, "dtype": "<u2",
                 "source": {...}, "splits": {"train": {"tokens": ..., "bytes": ...,
                                                       "documents": ..., "sha256": ...}, ...}}

Of the splits only "test" may be absent.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqarch.errors import UserError, unknown
from seqarch.files import clear_partial, has_shape, partial_name, read_json
from seqarch.tasks.text.tokenizer import BYTES, FILE, Tokenizer, kept
from seqarch.types import Int

SPLITS = ("train", "validation", "test")
BLOCK = 1 << 24  # tokens scanned or written at once
OLD = ".old"  # ends the name of a directory that is being replaced
_SPLIT = {"tokens": int, "bytes": int, "documents": int, "sha256": str}
META = {"vocab": int, "source": dict, "splits": {"*": _SPLIT}}  # of a meta.json, beside `layout`


class Document(NamedTuple):
    """`tokens[start:stop]` of its split: the boundary at `start`, then what it says."""

    name: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class TokenFile:
    """One split of a prepared directory. `tokens` is memory-mapped and read-only; `meta` is the
    whole meta.json.
    """

    directory: Path
    split: str
    meta: dict
    tokens: np.ndarray

    @property
    def bytes(self) -> int:
        return self.meta["splits"][self.split]["bytes"]

    @property
    def boundary(self) -> int:
        return self.meta["boundary"]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        found = kept(self.directory)
        if found.vocab != self.meta["vocab"]:
            path, said = self.directory / FILE, self.meta["vocab"]
            raise UserError(
                f"{path} has {found.vocab} tokens, meta.json says {said}; prepare the text again"
            )
        return found

    @functools.cached_property
    def documents(self) -> list[Document]:
        """All documents in order, found by scanning for boundaries: the tokens alone say where they
        begin.

        Raises UserError where SPLIT.names has not a name for each.
        """
        path = self.directory / f"{self.split}.names"
        names = (
            path.read_bytes().decode("utf-8", "surrogateescape").split("\n")[:-1]
            if path.is_file()
            else []
        )
        blocks = range(0, len(self.tokens), BLOCK)
        starts = np.concatenate(
            [lo + np.flatnonzero(self.tokens[lo : lo + BLOCK] == self.boundary) for lo in blocks]
        )
        if len(names) != len(starts):
            wrong = f"{path} has {len(names)} names, {self.split}.bin {len(starts)} documents"
            raise UserError(f"{wrong}; remove {self.directory} and prepare it again")
        bounds = [*starts.tolist(), len(self.tokens)]
        return [Document(*fields) for fields in zip(names, bounds[:-1], bounds[1:], strict=True)]

    def read_tokens(self, document: Document, limit: int = 0) -> Int[np.ndarray, "T"]:
        """The document's tokens, or with a `limit` those that lie whole in its first `limit` bytes,
        at least one.
        """
        stop = min(document.stop, document.start + 1 + limit) if limit else document.stop
        tokens = in_vocabulary(self.tokens[document.start + 1 : stop], self.boundary).astype(
            np.int32
        )
        if not limit:
            return tokens
        ends = np.cumsum(self.tokenizer.sizes[tokens])
        return tokens[: max(1, np.searchsorted(ends, limit, "right"))]

    def read(self, document: Document, limit: int = 0) -> Int[np.ndarray, "S"]:
        """The bytes UInt8 of these tokens."""
        return self.tokenizer.symbols(self.read_tokens(document, limit)).astype(np.uint8)

    def last_symbols(self, count: int) -> Int[np.ndarray, "S"]:
        """The split's last `count` bytes, a boundary counted as one; boundaries are BOUNDARY,
        whatever the tokenizer.
        """
        if self.tokenizer is BYTES:
            return in_vocabulary(self.tokens[-count:], self.boundary)
        parts, found, block = [], 0, min(BLOCK, 1 << 20)
        for stop in range(len(self.tokens), 0, -block):
            parts.insert(
                0,
                self.tokenizer.symbols(
                    in_vocabulary(self.tokens[max(0, stop - block) : stop], self.boundary)
                ),
            )
            found += len(parts[0])
            if found >= count:
                break
        return np.concatenate(parts)[-count:]


def in_vocabulary(tokens: np.ndarray, boundary: int) -> np.ndarray:
    """`tokens` as they are; raises UserError where one is beyond the boundary, the vocabulary's
    last.
    """
    if tokens.size and tokens.max() > boundary:
        raise UserError(
            f"the text has a token {tokens.max()}, its vocabulary ends at {boundary}; prepare "
            "the text again"
        )
    return tokens


def read_meta(directory: Path) -> dict:
    """The meta.json of a prepared directory; raises UserError where there is none that this version
    reads.
    """
    path = directory / "meta.json"
    if not path.is_file():
        raise UserError(
            f"no prepared text in {directory} (it has no meta.json); "
            "give 'shakespeare' or a directory written by scripts/prepare_data.py"
        )
    try:
        meta = read_json(path)
        expected = layout(meta["tokenizer"], meta["vocab"])
        matches = {name: meta[name] for name in expected} == expected and meta["tokenizer"] in (
            "bytes",
            FILE,
        )
        matches &= {"train", "validation"} <= set(meta["splits"]) <= set(SPLITS)
        matches &= has_shape(meta, META)
    except (ValueError, KeyError, TypeError):
        matches = False
    if not matches:
        raise UserError(f"{path} does not describe tokens of format 1; prepare the text again")
    return meta


def layout(tokenizer: str, vocab: int) -> dict:
    """What meta.json says of the tokens of a vocabulary."""
    dtype = "<u2" if vocab <= 1 << 16 else "<u4"
    return {
        "format": 1,
        "tokenizer": tokenizer,
        "vocab": vocab,
        "boundary": vocab - 1,
        "dtype": dtype,
    }


def open_split(directory: Path | str, split: str) -> TokenFile:
    """Maps one split of a prepared directory; raises UserError where a file is missing or has lost
    its end.
    """
    directory = Path(directory)
    meta = read_meta(directory)
    if split not in meta["splits"]:
        raise unknown("split", split, meta["splits"])
    dtype = np.dtype(meta["dtype"])
    path = directory / f"{split}.bin"
    size = path.stat().st_size if path.is_file() else 0
    expected = meta["splits"][split]["tokens"] * dtype.itemsize
    if size != expected:
        raise UserError(
            f"{path} has {size} bytes, meta.json says {expected}; remove {directory} and "
            "prepare it again"
        )
    return TokenFile(directory, split, meta, np.asarray(np.memmap(path, dtype, "r")))


def write(
    output: Path,
    documents: Iterable[tuple[str, str, bytes | np.ndarray]],
    source: dict,
    *,
    tokenizer: Tokenizer = BYTES,
    replace: bool,
) -> dict:
    """Writes a prepared directory from (split, name, content) and returns its meta.json.

    The directory appears whole or not at all. Where a prepared one stands when ours is complete,
    `replace` says which of the two stays; killed between the two renames of that, the old one is
    left as .NAME.*.old, until another is written. No document may be empty, and of the splits only
    "test".

    content: bytes, which `tokenizer` encodes, or tokens of it
    """
    output = Path(os.path.realpath(output))
    clear_partial(output.parent, output.name)
    if output.exists() and not _is_prepared(output) and not _is_empty(output):
        raise UserError(
            f"{output} exists and is no prepared directory, or holds other files too; give "
            "another output or remove it"
        )
    if output.exists() and _is_prepared(output):
        clear_partial(output.parent, output.name, OLD)
    partial = output.with_name(partial_name(output.name))
    try:
        partial.mkdir(parents=True)
        tokenizer.save(partial)
        splits = _write_splits(partial, documents, tokenizer)
        meta = {**layout(tokenizer.name, tokenizer.vocab), "source": source, "splits": splits}
        (partial / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        _publish(partial, output, replace)
    except OSError as error:
        raise UserError(
            f"cannot write {output}: {error.strerror or error}; give another place"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return meta


class _SplitWriter:
    """Appends documents to one split's files, and keeps count."""

    def __init__(
        self, directory: Path, split: str, tokenizer: Tokenizer, files: contextlib.ExitStack
    ):
        self.tokenizer, self.dtype = tokenizer, layout(tokenizer.name, tokenizer.vocab)["dtype"]
        self.file = files.enter_context(open(directory / f"{split}.bin", "wb"))
        self.names = files.enter_context(
            open(directory / f"{split}.names", "w", -1, "utf-8", "surrogateescape", "\n")
        )
        self.digest = hashlib.sha256()
        self.tokens = self.bytes = self.documents = 0

    def add(self, name: str, content: bytes | np.ndarray) -> None:
        if isinstance(content, bytes) and self.tokenizer is BYTES:
            content = np.frombuffer(content, np.uint8)
        elif isinstance(content, bytes):
            try:
                content = self.tokenizer.encode(content)
            except UserError as error:
                raise UserError(f"{name}: {error}") from error
        self._append(np.array([self.tokenizer.boundary]))
        for first in range(0, len(content), BLOCK):  # of a long document no second copy is made
            self._append(content[first : first + BLOCK])
        self.names.write(name.replace("\n", " ") + "\n")
        self.documents += 1

    def _append(self, content: np.ndarray) -> None:
        tokens = content.astype(self.dtype)
        self.file.write(tokens)
        self.digest.update(tokens)
        self.tokens += len(tokens)
        self.bytes += int(self.tokenizer.sizes[tokens].sum())

    def summary(self) -> dict:
        return {
            "tokens": self.tokens,
            "bytes": self.bytes,
            "documents": self.documents,
            "sha256": self.digest.hexdigest(),
        }


def _write_splits(
    directory: Path, documents: Iterable[tuple[str, str, bytes | np.ndarray]], tokenizer: Tokenizer
) -> dict[str, dict]:
    writers: dict[str, _SplitWriter] = {}
    with contextlib.ExitStack() as files:
        for split, name, content in documents:
            if split not in writers:
                writers[split] = _SplitWriter(directory, split, tokenizer, files)
            writers[split].add(name, content)
    return {split: writers[split].summary() for split in SPLITS if split in writers}


def _publish(partial: Path, output: Path, replace: bool) -> None:
    """Gives `partial` the name `output`. Renaming a directory succeeds only where nothing or an
    empty one stands.
    """
    try:
        os.rename(partial, output)
    except OSError:
        if not _is_prepared(output):
            raise
        if replace:
            old = partial.with_name(partial.name + OLD)
            os.rename(output, old)
            os.rename(partial, output)
            shutil.rmtree(old)


def _is_prepared(path: Path) -> bool:
    """Whether what `write` made is in `path`, and nothing else: only then may it be replaced."""
    found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    ours = {"meta.json", FILE} | {
        f"{split}.{kind}" for split in SPLITS for kind in ("bin", "names")
    }
    return {"meta.json", "train.names"} <= found <= ours


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
