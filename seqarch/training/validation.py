"""A quick look at the validation split while training goes on; eval.py measures it whole."""

import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from seqarch.config import Config
from seqarch.errors import UserError
from seqarch.model import LanguageModel
from seqarch.tasks.text.loader import Batch
from seqarch.tasks.text.tokens import TokenFile, in_vocabulary
from seqarch.training.sharding import put_batch
from seqarch.training.state import token_losses

WINDOWS = 64  # or as many as the split holds


def make_validate(config: Config, mesh: Mesh, text: TokenFile) -> Callable[[LanguageModel], float]:
    """model -> bits per byte over WINDOWS windows of `config.length`, evenly spaced over `text`,
    each from an empty state.

    As in the training loss, boundaries cost bits; they have no bytes.
    """
    windows, size = _windows(config, text)
    parts = [put_batch(part, mesh) for part in windows]

    @jax.jit
    def nats(model: LanguageModel, batch: Batch) -> jax.Array:
        return (token_losses(model, batch) * batch.weights).sum()

    def validate(model: LanguageModel) -> float:
        return (
            float(np.sum([jax.device_get(nats(model, part)) for part in parts]))
            / size
            / math.log(2)
        )

    return validate


def _windows(config: Config, text: TokenFile) -> tuple[list[Batch], int]:
    """This process's rows of batches as large as a micro-batch, of which those that fill up the
    last one weigh nothing; and the bytes that all processes' rows predict.
    """
    rows, length, tokens = config.batch // config.optim.accumulate, config.length, text.tokens
    count = min(WINDOWS, (len(tokens) - 1) // length)
    if count < 1:
        raise UserError(
            f"the validation split has {len(tokens)} tokens, fewer than length {length} + 1; "
            "give it more text"
        )
    starts = np.linspace(0, len(tokens) - 1 - length, count).astype(np.int64)
    padded = np.resize(starts, -(-count // rows) * rows)
    window = in_vocabulary(tokens[padded[:, None] + np.arange(length + 1)], text.boundary).astype(
        np.int32
    )
    weights = (
        np.repeat(np.arange(len(padded)) < count, length).reshape(-1, length).astype(np.float32)
    )
    whole = Batch(window[:, :-1], window[:, 1:], window[:, :-1] == text.boundary, weights)
    share = rows // jax.process_count()
    firsts = range(share * jax.process_index(), len(padded), rows)
    size = int(text.tokenizer.sizes[window[:count, 1:]].sum())
    return [Batch(*(column[first : first + share] for column in whole)) for first in firsts], size
