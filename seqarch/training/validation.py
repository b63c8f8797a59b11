"""A quick look at the validation split while training goes on; eval.py measures it whole."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from seqarch.config import Config
from seqarch.model import LanguageModel
from seqarch.tasks.base import Batch, Sums, Task
from seqarch.training.sharding import put_batch
from seqarch.training.state import token_scores
from seqarch.types import Array

Validate = Callable[[LanguageModel], dict[str, float]]


def make_validate(config: Config, mesh: Mesh, task: Task) -> Validate:
    """Returns a function from a model to the columns that its row of metrics.jsonl gets.

    The rows are the task's (`Task.validation`), each read from an empty state.
    """
    whole, size = task.validation()
    parts = [put_batch(part, mesh) for part in micro_batches(config, whole)]

    @jax.jit
    def sums(model: LanguageModel, batch: Batch) -> tuple[Array, ...]:
        nats, correct = token_scores(model, batch)
        return tuple((each * batch.weights).sum() for each in (nats, correct, jnp.ones(nats.shape)))

    def validate(model: LanguageModel) -> dict[str, float]:
        found = [jax.device_get(sums(model, part)) for part in parts]
        return task.validation_scores(
            Sums(*map(float, np.sum(found, axis=0, dtype=np.float64))), size
        )

    return validate


def micro_batches(config: Config, whole: Batch) -> list[Batch]:
    """Returns this process's rows of batches as large as a micro-batch.

    Rows that fill up the last one are repeated ones of weight 0.
    """
    rows, count = config.batch // config.optim.accumulate, len(whole.tokens)
    order = np.resize(np.arange(count), -(-count // rows) * rows)
    weights = whole.weights[order]
    weights[count:] = 0
    padded = Batch(*(column[order] for column in whole[:3]), weights)
    share = rows // jax.process_count()
    firsts = range(share * jax.process_index(), len(order), rows)
    return [Batch(*(column[first : first + share] for column in padded)) for first in firsts]
