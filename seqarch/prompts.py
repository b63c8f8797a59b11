"""Prompts: lists of tokens, checked and padded to few different sizes."""

from collections.abc import Sequence

import numpy as np

from seqarch.errors import UserError
from seqarch.model import LanguageModel
from seqarch.types import Int


def prompt_tokens(prompt: Sequence[int], model: LanguageModel) -> np.ndarray:
    """Returns the prompt's tokens, or the document boundary where it has none."""
    tokens, size = np.asarray(prompt), model.embedding.shape[0]
    if tokens.ndim != 1:
        raise UserError(f"a prompt is {prompt!r}; give a list of prompts, each a list of tokens")
    if not tokens.size:
        return np.array([model.boundary])
    mixed = any(isinstance(token, (bool, np.bool_)) for token in prompt)
    if mixed or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(
            f"a prompt holds {tokens.flat[0]!r} as {tokens.dtype}; give whole numbers, the ids "
            "of tokens"
        )
    wrong = tokens[(tokens < 0) | (tokens >= size)]
    if wrong.size:
        raise UserError(
            f"a prompt has a token {wrong[0]}; the model's are 0 to {size - 1}; use the model's "
            "tokenizer"
        )
    return tokens


def pad(prompts: Sequence[np.ndarray], columns: int, value: int) -> Int[np.ndarray, "B T"]:
    """Returns prompts as rows of `columns` tokens, those behind a prompt being `value`."""
    tokens = np.full((len(prompts), columns), value, np.int32)
    for row, prompt in zip(tokens, prompts):
        row[: len(prompt)] = prompt
    return tokens


def bucket(size: int, *, least: int, parts: int) -> int:
    """Returns `size` rounded up to one of `parts` sizes per power of two, and to at least `least`.

    So few programs are compiled for all sizes.
    """
    unit = max(least, 2 ** (int(size - 1).bit_length() - 1) // parts) if size > least else least
    return int(-(-size // unit) * unit)
