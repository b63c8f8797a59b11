"""The format of a prepared directory: tokens of text in memory-mapped files.

Each document is a boundary followed by its tokens. For each split there are `SPLIT.bin`, the tokens
of its documents as little-endian uint16, or uint32 where the vocabulary needs it, and
`SPLIT.names`, the documents' names, one per line. If tokens are not bytes, there is a
tokenizer.json. All splits share

    meta.json   {"format": 1, "tokenizer": "bytes", "vocab": 257, "boundary": 256, "dtype": "<u2",
                 "source": {...}, "splits": {"train": {"tokens": ..., "bytes": ...,
                                                       "documents": ..., "sha256": ...}, ...}}

Only the split "test" may be absent.
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
BLOCK = 1 << 24  # tokens that are scanned or written at once
OLD = ".old"  # suffix of a directory that is being replaced
_SPLIT = {"tokens": int, "bytes": int, "documents": int, "sha256": str}
META = {"vocab": int, "source": dict, "splits": {"*": _SPLIT}}  # shape of meta.json beside `layout`


class Document(NamedTuple):
    """The place of a document in the tokens of its split.

    name: of the document
    start: the place of its boundary, after which its tokens begin
    stop: the place after its last token
    """

    name: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True, eq=False)
class TokenFile:
    """One split of a prepared directory.

    directory: the prepared directory
    split: its name
    meta: the whole meta.json
    tokens: all tokens, memory-mapped and read-only
    """

    directory: Path
    split: str
    meta: dict
    tokens: np.ndarray

    @property
    def bytes(self) -> int:
        """The number of bytes of the split's documents."""
        return self.meta["splits"][self.split]["bytes"]

    @property
    def boundary(self) -> int:
        """The token that begins a document."""
        return self.meta["boundary"]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; raises UserError where it is not that of meta.json."""
        found = kept(self.directory)
        if found.vocab != self.meta["vocab"]:
            path, said = self.directory / FILE, self.meta["vocab"]
            raise UserError(
                f"{path} has {found.vocab} tokens, meta.json says {said}; prepare the text again"
            )
        return found

    @functools.cached_property
    def documents(self) -> list[Document]:
        """All documents in order, found by their boundaries.

        Raises:
          UserError: where SPLIT.names does not have one name for each.
        """
        path = self.directory / f"{self.split}.names"
        text = path.read_bytes() if path.is_file() else b""
        names = text.decode("utf-8", "surrogateescape").split("\n")[:-1]
        parts = []
        for first in range(0, len(self.tokens), BLOCK):
            block = self.tokens[first : first + BLOCK]
            parts.append(first + np.flatnonzero(block == self.boundary))
        starts = np.concatenate(parts)
        if len(names) != len(starts):
            wrong = f"{path} has {len(names)} names, {self.split}.bin {len(starts)} documents"
            raise UserError(f"{wrong}; remove {self.directory} and prepare it again")
        bounds = [*starts.tolist(), len(self.tokens)]
        return [Document(*fields) for fields in zip(names, bounds[:-1], bounds[1:], strict=True)]

    def read_tokens(self, document: Document, limit: int = 0) -> Int[np.ndarray, "T"]:
        """Returns a document's tokens.

        Args:
          document: of this split.
          limit: bytes; only tokens that are within the document's first bytes are returned, but
            at least one. 0: all tokens.
        """
        stop = min(document.stop, document.start + 1 + limit) if limit else document.stop
        tokens = in_vocabulary(self.tokens[document.start + 1 : stop], self.boundary)
        tokens = tokens.astype(np.int32)
        if not limit:
            return tokens
        ends = np.cumsum(self.tokenizer.sizes[tokens])
        return tokens[: max(1, np.searchsorted(ends, limit, "right"))]

    def read(self, document: Document, limit: int = 0) -> Int[np.ndarray, "S"]:
        """Returns the bytes, as uint8, of the tokens that `read_tokens` returns."""
        return self.tokenizer.symbols(self.read_tokens(document, limit)).astype(np.uint8)

    def last_symbols(self, count: int) -> Int[np.ndarray, "S"]:
        """Returns the split's last `count` symbols: bytes, and BOUNDARY for each boundary."""
        if self.tokenizer is BYTES:
            return in_vocabulary(self.tokens[-count:], self.boundary)
        parts, found, block = [], 0, min(BLOCK, 1 << 20)
        for stop in range(len(self.tokens), 0, -block):
            tokens = in_vocabulary(self.tokens[max(0, stop - block) : stop], self.boundary)
            parts.insert(0, self.tokenizer.symbols(tokens))
            found += len(parts[0])
            if found >= count:
                break
        return np.concatenate(parts)[-count:]


def in_vocabulary(tokens: np.ndarray, boundary: int) -> np.ndarray:
    """Returns `tokens`; raises UserError where one is above the boundary, the last token."""
    if tokens.size and tokens.max() > boundary:
        raise UserError(
            f"the text has a token {tokens.max()}, its vocabulary ends at {boundary}; prepare "
            "the text again"
        )
    return tokens


def read_meta(directory: Path) -> dict:
    """Returns the meta.json of a prepared directory.

    Raises:
      UserError: where there is none, or none that this version reads.
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
        matches = {name: meta[name] for name in expected} == expected
        matches &= meta["tokenizer"] in ("bytes", FILE)
        matches &= {"train", "validation"} <= set(meta["splits"]) <= set(SPLITS)
        matches &= has_shape(meta, META)
    except (ValueError, KeyError, TypeError):
        matches = False
    if not matches:
        raise UserError(f"{path} does not describe tokens of format 1; prepare the text again")
    return meta


def layout(tokenizer: str, vocab: int) -> dict:
    """Returns the fields of meta.json that describe tokens.

    Args:
      tokenizer: "bytes" or "tokenizer.json".
      vocab: number of tokens, the boundary included.
    """
    dtype = "<u2" if vocab <= 1 << 16 else "<u4"
    tokens = {"vocab": vocab, "boundary": vocab - 1, "dtype": dtype}
    return {"format": 1, "tokenizer": tokenizer} | tokens


def open_split(directory: Path | str, split: str) -> TokenFile:
    """Returns one split of a prepared directory, memory-mapped.

    Raises:
      UserError: where there is no such split, or a file is missing or truncated.
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
    """Writes a prepared directory and returns its meta.json.

    The directory appears whole or not at all. If the process is killed between the two renames of a
    replacement, the old directory is left as .NAME.*.old until another one is written.

    Args:
      output: the directory.
      documents: (split, name, content) of each, none of them empty; content is bytes, which
        `tokenizer` encodes, or its tokens.
      source: where the text is from, for meta.json.
      tokenizer: of the tokens.
      replace: whether a prepared directory that exists once this one is complete is replaced, or
        stays.

    Raises:
      UserError: where `output` has other files or cannot be written.
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
    """Appends documents to one split's files, and counts them."""

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
        for first in range(0, len(content), BLOCK):  # a long document is not copied whole
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
    """Renames `partial` to `output`, which succeeds only where `output` is missing or empty."""
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
    """Returns whether `path` has only files that `write` makes, so that it may be replaced."""
    found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    ours = {"meta.json", FILE}
    for split in SPLITS:
        ours |= {f"{split}.bin", f"{split}.names"}
    return {"meta.json", "train.names"} <= found <= ours


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
