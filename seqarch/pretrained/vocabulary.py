"""The tokenizer.json of an imported model, as its run keeps it."""

import json
from pathlib import Path
from typing import Any

from seqarch.errors import UserError
from seqarch.tasks.text import tokenizer

LISTS = ("normalizers", "pretokenizers")  # of the parts in a sequence


def run_tokenizer(path: Path, vocab: int, boundary: int, end: int) -> str:
    """Returns the text of a tokenizer.json, with a model's boundary, that adds no space to texts.

    Args:
      path: the model's tokenizer.json.
      vocab: number of the model's tokens.
      boundary: the token that begins a document.
      end: the token that ends one.

    Raises:
      UserError: where there are more tokens than the model has.
    """
    found = tokenizer.load(path)
    if found.last >= vocab:
        raise UserError(
            f"{path} has {found.last + 1} tokens, its config.json has a vocab_size of {vocab}; "
            "give the files of one model"
        )
    spec = json.loads(found.spec)
    for name in ("normalizer", "pre_tokenizer"):
        spec[name] = _without_prefix(spec.get(name))
    spec[tokenizer.OURS] = dict(vocab=vocab, boundary=boundary, end=end)
    return json.dumps(spec, ensure_ascii=False)


def _without_prefix(part: Any) -> Any:
    """Returns a part of a tokenizer, or a sequence of parts, that puts no space before a text."""
    if not isinstance(part, dict) or part.get("type") == "Prepend":
        return None
    changed = dict(part)
    if "prepend_scheme" in part:
        changed["prepend_scheme"] = "never"
    if "add_prefix_space" in part:
        changed["add_prefix_space"] = False
    for name in LISTS:
        if name in part:
            kept = [_without_prefix(each) for each in part[name]]
            changed[name] = [each for each in kept if each is not None]
    return changed
