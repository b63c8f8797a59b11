"""Tokenizers: the 256 bytes themselves, or the vocabulary of a Hugging Face tokenizer.json.

A token has the same bytes wherever it is, and the bytes of a document's tokens are the document.
Bytes are therefore counted, not estimated, and bits per byte compare across tokenizers. A tokenizer
that loses something, by lower case or unknown words, is refused at the first document that shows
it. One token is the boundary, which comes before each document and has no bytes. It is one more
than those of the vocabulary, the last, unless the tokenizer.json of an imported model says which
token that model reads as one:

    "seqarch": {"vocab": 50280, "boundary": 0, "end": 0}

`tokenizer.json` is read as data, and only `encode` needs the package `tokenizers`.
"""

import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqarch.errors import UserError, first_line
from seqarch.files import has_shape, local_path, parse_json
from seqarch.tasks.text.tokenizer_json import MOST_TOKENS, entries, token_bytes
from seqarch.types import Int

VOCAB = 257  # tokens: the bytes and their boundary
BOUNDARY = 256
FILE = "tokenizer.json"
OURS = "seqarch"  # what an import adds to a tokenizer.json: {"vocab", "boundary", "end"}


class Tokenizer:
    """A vocabulary, with the bytes of each token.

    Args:
      table: the bytes of each token.
      spec: the text of the tokenizer.json; None for bytes.
      boundary: the token of `table` that is the boundary; None: one more, the last.
      end: the token that a model predicts at the end of a document; None: the boundary.

    Attributes:
      boundary: the token that comes before each document.
      end: the token that a model predicts at the end of a document.
      last: the last token that is not an added boundary.
      sizes: Int32[Y], the number of bytes of each token.
    """

    def __init__(
        self,
        table: Sequence[bytes],
        spec: str | None = None,
        boundary: int | None = None,
        end: int | None = None,
    ):
        self.last, self.spec = len(table) - 1, spec
        self.boundary = len(table) if boundary is None else boundary
        table = [*table[: self.boundary], b"", *table[self.boundary + 1 :]]
        self.end = self.boundary if end is None else end
        self.sizes = np.array([*map(len, table)], np.int32)
        content = np.frombuffer(b"".join(table), np.uint8).astype(np.uint16)
        self._symbols = np.insert(content, self.sizes[: self.boundary].sum(), BOUNDARY)

    @property
    def vocab(self) -> int:
        """The number of tokens Y, the boundary included."""
        return len(self.sizes)

    @property
    def name(self) -> str:
        """The name in meta.json: "bytes" or "tokenizer.json"."""
        return "bytes" if self.spec is None else FILE

    def encode(self, text: bytes | str) -> Int[np.ndarray, "T"]:
        """Returns the tokens of a text, without a boundary.

        Raises:
          UserError: where the text is not UTF-8 and has to be, or its tokens have other bytes.
        """
        text = text.encode() if isinstance(text, str) else text
        if self.spec is None:
            return np.frombuffer(text, np.uint8).astype(np.int32)
        try:
            encoded = self._library.encode(text.decode(), add_special_tokens=False)
        except UnicodeDecodeError as error:
            raise UserError(
                f"{FILE} takes text in UTF-8, and here is none: {_around(text, error.start)}"
            ) from error
        tokens = np.array(encoded.ids, np.int32)
        if (back := self.decode(tokens)) != text:
            at = len(os.path.commonprefix([text, back]))
            raise UserError(
                f"{FILE} makes {_around(back, at)} of {_around(text, at)}; bits per byte need a "
                "tokenizer that changes nothing, such as a byte-level BPE"
            )
        return tokens

    def decode(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """Returns the bytes of tokens; a boundary has none."""
        symbols = self.symbols(np.asarray(tokens, np.int64))
        return symbols[symbols != BOUNDARY].astype(np.uint8).tobytes()

    def symbols(self, tokens: Int[np.ndarray, "T"]) -> Int[np.ndarray, "S"]:
        """Returns the bytes of tokens, with BOUNDARY for each boundary."""
        if self.spec is None:
            return tokens
        widths = self.sizes + (np.arange(self.vocab) == self.boundary)  # a boundary is one symbol
        first, taken = (np.cumsum(widths) - widths)[tokens], widths[tokens]
        offsets = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        return self._symbols[np.repeat(first, taken) + offsets]

    def save(self, directory: str | os.PathLike) -> None:
        """Writes tokenizer.json into a directory, where `kept` finds it; bytes need no file."""
        if self.spec is not None:
            (Path(directory) / FILE).write_text(self.spec, "utf-8")

    def id(self, content: str) -> int | None:
        """Returns the token with this content in tokenizer.json; None where there is none."""
        return None if self.spec is None else dict(entries(json.loads(self.spec))).get(content)

    @functools.cached_property
    def _library(self) -> Any:
        try:
            import tokenizers
        except ImportError as error:
            raise UserError(
                f"{FILE} needs the package tokenizers to encode text; pip install tokenizers"
            ) from error
        try:
            spec = {name: part for name, part in json.loads(self.spec).items() if name != OURS}
            library = tokenizers.Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises no other kind
            raise UserError(
                f"the package tokenizers cannot read this {FILE}: {first_line(error)}; give a file "
                "that it saved"
            ) from error
        library.encode_special_tokens = True  # the text of a special token is encoded as text
        library.no_truncation()
        library.no_padding()
        return library


BYTES = Tokenizer([bytes([value]) for value in range(256)])


def load(path: str | os.PathLike) -> Tokenizer:
    """Returns the tokenizer of a tokenizer.json; raises UserError where it cannot be read."""
    try:
        text = local_path(path).read_text("utf-8")
        spec = parse_json(text)
        return Tokenizer(*_imported(token_bytes(spec), text, spec.get(OURS)))
    except OSError as error:
        raise UserError(
            f"cannot read the tokenizer {path}: {error.strerror}; give a {FILE}"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is no {FILE} of Hugging Face's tokenizers; give a file that they saved"
        ) from error


def _imported(table: list[bytes], text: str, given: dict | None) -> tuple:
    """Returns the arguments of a Tokenizer, with what an import added to the tokenizer.json."""
    if given is None:
        return table, text
    if not has_shape(given, {name: int for name in ("vocab", "boundary", "end")}):
        raise ValueError(f"no tokens: {given!r}")
    vocab, boundary, end = (given[name] for name in ("vocab", "boundary", "end"))
    inside = 0 <= min(boundary, end) <= max(boundary, end) < vocab
    if not (len(table) <= vocab <= MOST_TOKENS and inside):
        raise ValueError(f"no tokens: {given!r}")
    return [*table, *[b""] * (vocab - len(table))], text, boundary, end


def kept(directory: str | os.PathLike) -> Tokenizer:
    """Returns the tokenizer of a prepared directory or a run: its tokenizer.json, or else bytes."""
    path = Path(directory) / FILE
    return load(path) if path.exists() else BYTES


def _around(text: bytes, at: int) -> str:
    """Returns the text around a byte, for an error."""
    return repr(text[max(0, at - 10) : at + 20].decode(errors="replace"))
