"""Scores a part of the validation split during training; eval.py scores all of it."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seqarch.config import Config
from seqarch.model import LanguageModel
from seqarch.tasks.base import Sums, Task
from seqarch.tasks.batch import Batch
from seqarch.training.sharding import put_batch
from seqarch.training.state import token_scores
from seqarch.types import Array

Validate = Callable[[LanguageModel], dict[str, float]]


def make_validate(config: Config, mesh: Mesh, task: Task) -> Validate:
    """Returns a function that scores a model, and returns columns of metrics.jsonl.

    It scores the rows of `Task.validation`, each from an empty state.
    """
    whole, size = task.validation()
    parts = [put_batch(part, mesh) for part in micro_batches(config, whole)]

    def validate(model: LanguageModel) -> dict[str, float]:
        found = [jax.device_get(_sums(model, part)) for part in parts]
        total = Sums(*map(float, np.sum(found, axis=0, dtype=np.float64)))
        return task.validation_scores(total, size)

    return validate


@jax.jit
def _sums(model: LanguageModel, batch: Batch) -> tuple[Array, ...]:
    """Returns the weighted sums of the nats, the right answers and the weights of a batch."""
    nats, correct = token_scores(model, batch)
    return tuple((each * batch.weights).sum() for each in (nats, correct, jnp.ones(nats.shape)))


def micro_batches(config: Config, whole: Batch) -> list[Batch]:
    """Returns this process's rows of `whole`, in batches as large as a micro-batch.

    The last one is filled with repeated rows of weight 0.
    """
    rows, count = config.batch // config.optim.accumulate, len(whole.tokens)
    order = np.resize(np.arange(count), -(-count // rows) * rows)
    weights = whole.weights[order]
    weights[count:] = 0
    padded = whole.take(order)._replace(weights=weights)
    share = rows // jax.process_count()
    firsts = range(share * jax.process_index(), len(order), rows)
    return [padded.take(slice(first, first + share)) for first in firsts]
