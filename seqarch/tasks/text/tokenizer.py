"""What tokens say, byte for byte: the 256 bytes themselves, or the vocabulary of a Hugging Face
tokenizer.json.

A token stands for the same bytes wherever it is, and a document's tokens, one after the other, give
the document: so bytes are counted and never estimated, and bits per byte compare across tokenizers.
A tokenizer that loses something, by lower case or unknown words, is refused at the first document
that shows it. The last token is always the boundary, which stands before each document and has no
bytes; `tokenizer.json` is read as data, and only `encode` needs the package `tokenizers`.
"""

import functools
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqarch.errors import UserError, first_line
from seqarch.files import local_path, parse_json
from seqarch.types import Int

VOCAB = 257  # of the bytes and their boundary
BOUNDARY = 256
FILE = "tokenizer.json"
MOST_TOKENS = 1 << 24  # of a vocabulary; a file that says more would fill the memory


class Tokenizer:
    """table: the bytes of each token but the boundary, which comes last; spec: the tokenizer.json;
    bytes have none.

    sizes: Int32[Y], the bytes of each token
    """

    def __init__(self, table: Sequence[bytes], spec: str | None = None):
        self.boundary, self.spec = len(table), spec
        self.sizes = np.array([*map(len, table), 0], np.int32)
        self._symbols = np.append(np.frombuffer(b"".join(table), np.uint8), BOUNDARY).astype(
            np.uint16
        )

    @property
    def vocab(self) -> int:
        return self.boundary + 1

    @property
    def name(self) -> str:
        return "bytes" if self.spec is None else FILE

    def encode(self, text: bytes | str) -> Int[np.ndarray, "T"]:
        """Tokens of the text, without a boundary; raises UserError where they would not give it
        back.
        """
        text = text.encode() if isinstance(text, str) else text
        if self.spec is None:
            return np.frombuffer(text, np.uint8).astype(np.int32)
        try:
            tokens = np.array(
                self._library.encode(text.decode(), add_special_tokens=False).ids, np.int32
            )
        except UnicodeDecodeError as error:
            raise UserError(
                f"{FILE} takes text in UTF-8, and here is none: {_around(text, error.start)}"
            ) from error
        if (back := self.decode(tokens)) != text:
            at = next(
                (i for i, pair in enumerate(zip(text, back)) if pair[0] != pair[1]),
                min(len(text), len(back)),
            )
            raise UserError(
                f"{FILE} makes {_around(back, at)} of {_around(text, at)}; bits per byte need a "
                "tokenizer that changes "
                "nothing, such as a byte-level BPE"
            )
        return tokens

    def decode(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """The bytes of `tokens`; a boundary has none."""
        symbols = self.symbols(np.asarray(tokens, np.int64))
        return symbols[symbols != BOUNDARY].astype(np.uint8).tobytes()

    def symbols(self, tokens: Int[np.ndarray, "T"]) -> Int[np.ndarray, "S"]:
        """The same text in bytes and BOUNDARY."""
        if self.spec is None:
            return tokens
        widths = np.append(self.sizes[:-1], 1)  # of the tokens in symbols: a boundary is one
        first, taken = (np.cumsum(widths) - widths)[tokens], widths[tokens]
        offsets = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        return self._symbols[np.repeat(first, taken) + offsets]

    def save(self, directory: str | os.PathLike) -> None:
        """So that `kept` finds it there; of bytes nothing needs to be kept."""
        if self.spec is not None:
            (Path(directory) / FILE).write_text(self.spec, "utf-8")

    def id(self, content: str) -> int | None:
        """The token that has this name in tokenizer.json."""
        return None if self.spec is None else dict(_entries(json.loads(self.spec))).get(content)

    @functools.cached_property
    def _library(self) -> Any:
        try:
            import tokenizers
        except ImportError as error:
            raise UserError(
                f"{FILE} needs the package tokenizers to encode text; pip install tokenizers"
            ) from error
        try:
            library = tokenizers.Tokenizer.from_str(self.spec)
        except Exception as error:  # the library raises no other kind
            raise UserError(
                f"the package tokenizers cannot read this {FILE}: {first_line(error)}; give a file "
                "that it saved"
            ) from error
        library.encode_special_tokens = True  # what looks like one in a text is text
        library.no_truncation()
        library.no_padding()
        return library


BYTES = Tokenizer([bytes([value]) for value in range(256)])


def load(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a tokenizer.json; raises UserError."""
    try:
        spec = local_path(path).read_text("utf-8")
        return Tokenizer(_table(parse_json(spec)), spec)
    except OSError as error:
        raise UserError(
            f"cannot read the tokenizer {path}: {error.strerror}; give a {FILE}"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no {FILE} of Hugging Face's tokenizers; give a file that they saved"
        ) from error


def kept(directory: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a prepared directory or of a run: that of its tokenizer.json, or bytes where
    it has none.
    """
    path = Path(directory) / FILE
    return load(path) if path.exists() else BYTES


def _table(spec: dict) -> list[bytes]:
    """Bytes by token. Special tokens have none: `encode` never takes them for text, and a .bin
    means none by them.
    """
    kinds = {
        part["type"]
        for name in ("decoder", "pre_tokenizer")
        for part in _parts(spec.get(name) or {})
    }
    special = {token["id"] for token in spec.get("added_tokens", ()) if token.get("special")}
    added = {token["id"] for token in spec.get("added_tokens", ())}
    entries = list(_entries(spec))
    for content, index in entries:
        if not (isinstance(content, str) and type(index) is int and 0 <= index < MOST_TOKENS):
            raise ValueError(f"no token: {content!r} {index!r}")
    table = [b""] * (1 + max(index for _, index in entries))
    for content, index in entries:
        if index not in special:
            table[index] = content.encode() if index in added else _bytes(content, kinds)
    return table


def _entries(spec: dict) -> Iterator[tuple[str, int]]:
    """(content, token) of the model's vocabulary and of what was added to it."""
    vocab = spec["model"][
        "vocab"
    ]  # {content: token}, or of a unigram model [[content, score], ...]
    yield from (
        ((entry[0], i) for i, entry in enumerate(vocab))
        if isinstance(vocab, list)
        else vocab.items()
    )
    yield from ((token["content"], token["id"]) for token in spec.get("added_tokens", ()))


def _bytes(content: str, kinds: set[str]) -> bytes:
    """What an entry of the vocabulary stands for, by the kinds of the tokenizer's parts."""
    if "ByteLevel" in kinds:
        return b"".join(
            bytes([_BYTE_LEVEL[c]]) if c in _BYTE_LEVEL else c.encode() for c in content
        )
    if "ByteFallback" in kinds and re.fullmatch("<0x[0-9A-F]{2}>", content):
        return bytes([int(content[3:5], 16)])
    return (
        content.replace("\u2581", " ") if {"Metaspace", "Replace"} & kinds else content
    ).encode()


def _parts(part: dict) -> Iterator[dict]:
    """A decoder or pre-tokenizer, or those in a sequence of them."""
    if "type" in part:
        yield part
    for inner in part.get("decoders", part.get("pretokenizers", ())):
        yield from _parts(inner)


def _byte_level() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for: bytes that print are
    themselves, the others the characters from 256 on (Radford et al. 2019, `bytes_to_unicode` of
    GPT-2's encoder).
    """
    prints = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("\u00a1"), ord("\u00ac") + 1),
        *range(ord("\u00ae"), 256),
    ]
    hidden = [value for value in range(256) if value not in prints]
    return {chr(value): value for value in prints} | {
        chr(256 + i): value for i, value in enumerate(hidden)
    }


_BYTE_LEVEL = _byte_level()


def _around(text: bytes, at: int) -> str:
    return repr(text[max(0, at - 10) : at + 20].decode(errors="replace"))
