"""Rows of tokens: those that continue and begin documents, and those outside the vocabulary."""

import jax
import numpy as np

from seqarch.errors import UserError
from seqarch.types import Array, Bool, Int


def document_lengths(
    shape: tuple[int, int], starts: Bool[Array, "B T"] | None, lengths: Int[Array, "B"] | None
) -> tuple[Array | None, Array | None]:
    """Returns how many tokens of each row continue a document, and begin one.

    Args:
      shape: B and T.
      starts: whether a token is the first of a document; None: no token is.
      lengths: tokens of each row before its padding; None: T.

    Returns:
      Int[Array, "B"] tokens before the first start, and Int[Array, "B"] tokens of the longest
      document that begins in the row, None where there are no `starts`. Both are None where an
      argument is traced.
    """
    if any(isinstance(x, jax.core.Tracer) for x in (starts, lengths)):
        return None, None
    index = np.arange(shape[1])[None]
    lengths = np.full(shape[0], shape[1]) if lengths is None else np.asarray(lengths)
    valid = index < lengths[:, None]
    if starts is None:
        return valid.sum(1), None
    begin = np.maximum.accumulate(np.where(np.asarray(starts) & valid, index, -1), axis=1)
    after = np.where(valid & (begin >= 0), index - begin + 1, 0)
    return (valid & (begin < 0)).sum(1), after.max(1, initial=0)


def check_tokens(tokens: Int[Array, "..."], vocab: int) -> None:
    """Raises UserError for no tokens, and one outside the vocabulary; traced ones are not read."""
    if 0 in tokens.shape:
        raise UserError(f"the tokens have the shape {tokens.shape}; give at least one of them")
    if isinstance(tokens, jax.core.Tracer):
        return
    given = np.asarray(tokens)
    if (wrong := given[(given < 0) | (given >= vocab)]).size:
        raise UserError(f"there is a token {wrong[0]}; the model's are 0 to {vocab - 1}")
