"""Writes a prepared directory, whose format is that of seqarch/tasks/text/tokens.py."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from seqarch.errors import UserError, naming
from seqarch.files import clear_partial, partial_name
from seqarch.tasks.base import SPLITS
from seqarch.tasks.text import tokens
from seqarch.tasks.text.tokenizer import BYTES, FILE, Tokenizer
from seqarch.tasks.text.tokens import layout

OLD = ".old"  # suffix of a directory that is being replaced


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
        described = layout(tokenizer.name, tokenizer.vocab, tokenizer.boundary)
        meta = {**described, "source": source, "splits": splits}
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
        described = layout(tokenizer.name, tokenizer.vocab, tokenizer.boundary)
        self.tokenizer, self.dtype = tokenizer, described["dtype"]
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
            with naming(name):
                content = self.tokenizer.encode(content)
        self._append(np.array([self.tokenizer.boundary]))
        for first in range(0, len(content), tokens.BLOCK):  # a long document is not copied whole
            self._append(content[first : first + tokens.BLOCK])
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
