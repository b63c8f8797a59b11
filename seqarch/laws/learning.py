"""A task that needs a memory, on which a mixer must show that it learns.

Each row of a batch is drawn uniformly from a few letters of its own. A model that sees the current
letter alone cannot do better than the entropy of the next letter given it; a model that remembers
the letters of its row can.
"""

import math

import jax
import numpy as np

from seqarch.config import Config, ModelConfig, OptimConfig
from seqarch.laws.compare import LawBroken
from seqarch.tasks.batch import Batch
from seqarch.training.state import hyper, make_init, make_train_step

WIDTH = 64  # of the model
LETTERS = 16  # of the alphabet
SUBSET = 4  # letters that a row draws from
ROWS, LENGTH = 16, 64  # of a batch
CLEARLY = 0.9  # share of the best loss without memory below which the training must end


def check_learning(pattern: str, steps: int) -> str:
    """Trains two layers of a mixer and returns what they reached, in words.

    Args:
      pattern: the mixer's layer pattern.
      steps: training steps, at least 5.

    Raises:
      LawBroken: where a loss or gradient is not finite, and where the last losses are not clearly
        below the best loss without memory.
    """
    losses = train(pattern, steps)
    if not all(map(math.isfinite, losses)):
        raise LawBroken("losses or gradients that are not finite")
    last, best = sum(losses[-5:]) / 5, memoryless_loss()
    found = (
        f"{last:.2f} nats in the last 5 of {len(losses)} steps; {best:.2f} is the best "
        f"without memory, {math.log(SUBSET):.2f} with"
    )
    if not last < CLEARLY * best:
        raise LawBroken(found)
    return found


def memoryless_loss() -> float:
    """Returns the entropy of the next letter given the current one, in nats.

    The current letter recurs with probability 1 / SUBSET; all others are equally likely.
    """
    again, other = 1 / SUBSET, (1 - 1 / SUBSET) / (LETTERS - 1)
    return -again * math.log(again) - (LETTERS - 1) * other * math.log(other)


def train(pattern: str, steps: int) -> list[float]:
    """Returns the losses of the training steps; NaN from the first that is not finite."""
    model = ModelConfig(pattern, layers=2, dim=WIDTH, mlp=0, vocab=LETTERS)
    optim = OptimConfig(lr=1e-2, warmup=steps // 10)
    config = Config(steps, ROWS, LENGTH, model=model, optim=optim)
    state = jax.jit(make_init(config))(jax.random.key(0))
    step, losses = jax.jit(make_train_step(config)), []
    for index in range(steps):
        state, metrics = step(state, subset_batch(index), hyper(config))
        losses.append(math.nan if metrics["refused"] else float(metrics["loss"]))
    return losses


def subset_batch(seed: int) -> Batch:
    """Returns a batch whose rows are uniform draws from SUBSET of LETTERS, chosen for each row."""
    random = np.random.default_rng(seed)
    letters = random.permuted(np.tile(np.arange(LETTERS), (ROWS, 1)), axis=1)[:, :SUBSET]
    drawn = random.integers(SUBSET, size=(ROWS, LENGTH + 1))
    tokens = np.take_along_axis(letters, drawn, axis=1).astype(np.int32)
    starts = np.zeros((ROWS, LENGTH), bool)
    return Batch(tokens[:, :-1], tokens[:, 1:], starts, np.ones((ROWS, LENGTH), np.float32))
