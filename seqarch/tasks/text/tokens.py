"""The format of a prepared directory: tokens of text in memory-mapped files.

Each document is a boundary followed by its tokens. For each split there are `SPLIT.bin`, the tokens
of its documents as little-endian uint16, or uint32 where the vocabulary needs it, and
`SPLIT.names`, the documents' names, one per line. If tokens are not bytes, there is a
tokenizer.json. All splits share

    meta.json   {"format": 1, "tokenizer": "bytes", "vocab": 257, "boundary": 256, "dtype": "<u2",
                 "source": {...}, "splits": {"train": {"tokens": ..., "bytes": ...,
                                                       "documents": ..., "sha256": ...}, ...}}

The boundary is the last token, unless the tokenizer.json is that of an imported model. Only the
split "test" may be absent.
"""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seqarch.errors import UserError, unknown
from seqarch.files import has_shape, read_json
from seqarch.tasks.base import SPLITS
from seqarch.tasks.text.tokenizer import BYTES, FILE, Tokenizer, kept
from seqarch.types import Int

BLOCK = 1 << 24  # tokens that are scanned or written at once
_SPLIT = {"tokens": int, "bytes": int, "documents": int, "sha256": str}
# The shape of meta.json, beside `layout`.
META = {"vocab": int, "boundary": int, "source": dict, "splits": {"*": _SPLIT}}


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

    @property
    def vocab(self) -> int:
        """The number of tokens, the boundary included."""
        return self.meta["vocab"]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; raises UserError where it is not that of meta.json."""
        found = kept(self.directory)
        for has, read, said in (
            (f"{found.vocab} tokens", found.vocab, self.vocab),
            (f"the boundary {found.boundary}", found.boundary, self.boundary),
        ):
            if read != said:
                raise UserError(
                    f"{self.directory / FILE} has {has}, meta.json says {said}; prepare the text "
                    "again"
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

    def windows(self, size: int, count: int) -> Int[np.ndarray, "B n"]:
        """Returns `count` windows of `size` tokens, evenly spaced over the split.

        Raises:
          UserError: where `count` is 0, as the split has no window, and where a token is outside
            the vocabulary.
        """
        if count < 1:
            raise UserError(
                f"the {self.split} split has {len(self.tokens)} tokens, fewer than the {size} of a "
                "row; give it more text"
            )
        starts = np.linspace(0, len(self.tokens) - size, count).astype(np.int64)
        found = self.tokens[starts[:, None] + np.arange(size)]
        return in_vocabulary(found, self.vocab).astype(np.int32)

    def read_tokens(self, document: Document, limit: int = 0) -> Int[np.ndarray, "T"]:
        """Returns a document's tokens.

        Args:
          document: of this split.
          limit: bytes; only tokens that are within the document's first bytes are returned, but
            at least one. 0: all tokens.
        """
        stop = min(document.stop, document.start + 1 + limit) if limit else document.stop
        tokens = in_vocabulary(self.tokens[document.start + 1 : stop], self.vocab)
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
            return in_vocabulary(self.tokens[-count:], self.vocab)
        parts, found, block = [], 0, min(BLOCK, 1 << 20)
        for stop in range(len(self.tokens), 0, -block):
            tokens = in_vocabulary(self.tokens[max(0, stop - block) : stop], self.vocab)
            parts.insert(0, self.tokenizer.symbols(tokens))
            found += len(parts[0])
            if found >= count:
                break
        return np.concatenate(parts)[-count:]


def in_vocabulary(tokens: np.ndarray, vocab: int) -> np.ndarray:
    """Returns `tokens`; raises UserError where one is not below `vocab`."""
    if tokens.size and tokens.max() >= vocab:
        raise UserError(
            f"the text has a token {tokens.max()}, its vocabulary ends at {vocab - 1}; prepare "
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
        expected = layout(meta["tokenizer"], meta["vocab"], meta["boundary"])
        matches = {name: meta[name] for name in expected} == expected
        matches &= 0 <= meta["boundary"] < meta["vocab"]
        matches &= meta["tokenizer"] in ("bytes", FILE)
        matches &= {"train", "validation"} <= set(meta["splits"]) <= set(SPLITS)
        matches &= has_shape(meta, META)
    except (ValueError, KeyError, TypeError):
        matches = False
    if not matches:
        raise UserError(f"{path} does not describe tokens of format 1; prepare the text again")
    return meta


def layout(tokenizer: str, vocab: int, boundary: int) -> dict:
    """Returns the fields of meta.json that describe tokens.

    Args:
      tokenizer: "bytes" or "tokenizer.json".
      vocab: number of tokens, the boundary included.
      boundary: the token that begins a document.
    """
    dtype = "<u2" if vocab <= 1 << 16 else "<u4"
    tokens = {"vocab": vocab, "boundary": boundary, "dtype": dtype}
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
