"""A quick look at the validation split while training goes on; eval.py measures it whole."""

import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from seqarch.config import Config
from seqarch.data.loader import Batch
from seqarch.data.tokens import BOUNDARY
from seqarch.errors import UserError
from seqarch.model import LanguageModel
from seqarch.training.sharding import put_batch
from seqarch.training.state import token_losses

WINDOWS = 64  # or as many as the split holds


def make_validate(config: Config, mesh: Mesh, tokens: np.ndarray) -> Callable[[LanguageModel], float]:
    """model -> bits per byte over WINDOWS windows of `config.length`, evenly spaced over `tokens`, each from an empty state.

    Like the training loss it counts the boundary that begins a document as one of its bytes.
    """
    parts = [put_batch(part, mesh) for part in _windows(config, tokens)]

    @jax.jit
    def sums(model: LanguageModel, batch: Batch) -> tuple[jax.Array, jax.Array]:
        return (token_losses(model, batch) * batch.weights).sum(), batch.weights.sum()

    def validate(model: LanguageModel) -> float:
        nats, weight = np.sum([jax.device_get(sums(model, part)) for part in parts], axis=0)
        return float(nats / weight) / math.log(2)

    return validate


def _windows(config: Config, tokens: np.ndarray) -> list[Batch]:
    """This process's rows of batches as large as a micro-batch; rows that fill up the last one weigh nothing."""
    rows, length = config.batch // config.optim.accumulate, config.length
    count = min(WINDOWS, (len(tokens) - 1) // length)
    if count < 1:
        raise UserError(f"the validation split has {len(tokens)} tokens, fewer than length {length} + 1; give it more text")
    starts = np.linspace(0, len(tokens) - 1 - length, count).astype(np.int64)
    padded = np.resize(starts, -(-count // rows) * rows)
    window = tokens[padded[:, None] + np.arange(length + 1)].astype(np.int32)
    weights = np.repeat(np.arange(len(padded)) < count, length).reshape(-1, length).astype(np.float32)
    whole = Batch(window[:, :-1], window[:, 1:], window[:, :-1] == BOUNDARY, weights)
    share = rows // jax.process_count()
    firsts = range(share * jax.process_index(), len(padded), rows)
    return [Batch(*(column[first : first + share] for column in whole)) for first in firsts]
