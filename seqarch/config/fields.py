"""The fields of a config, as frozen dataclasses that refuse impossible values.

`--help` prints the "name: meaning" lines of their docstrings (see seqarch.runtime.help).
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from seqarch import tasks
from seqarch.config.model import ModelConfig, positive
from seqarch.errors import UserError, unknown
from seqarch.runtime.trackers import TRACKERS


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """AdamW with a linear warm-up, then a cosine down to the last step.

    lr: the learning rate at the end of the warm-up, the highest
    warmup: steps of the warm-up
    final_lr: the learning rate at the last step, as a fraction of `lr`
    b1: decay of the mean of gradients
    b2: decay of the mean of their squares
    weight_decay: fraction of a parameter that is subtracted at each step, times the learning rate
    clip: the largest global norm of gradients; inf for no clipping
    accumulate: micro-batches per step, into which `batch` is divided
    z_loss: weight of log(Z)^2 in the loss; 0 for none
    """

    lr: float = 3e-3
    warmup: int = 50
    final_lr: float = 0.1
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    accumulate: int = 1
    z_loss: float = 0.0

    def __post_init__(self):
        positive(self, "accumulate")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if math.isfinite(value) and abs(value) > float(np.finfo(np.float32).max):
                raise UserError(
                    f"optim.{field.name} is {value}, infinite in float32; give a smaller number"
                )
        if not (0 < self.lr < math.inf and self.clip > 0):
            raise UserError(
                f"optim.lr is {self.lr} and optim.clip {self.clip}; give numbers above 0 "
                "(clip=inf: no clipping)"
            )
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise UserError(f"optim.b1 is {self.b1} and optim.b2 {self.b2}; give numbers in [0, 1)")
        others = (self.warmup, self.final_lr, self.weight_decay, self.z_loss)
        if not all(0 <= value < math.inf for value in others):
            raise UserError(
                "optim.warmup, final_lr, weight_decay and z_loss must be finite and at least 0"
            )


@dataclasses.dataclass(frozen=True)
class SeedConfig:
    """Seeds, in [0, 2^32).

    model: seed of the initial parameters and of dropout
    data: seed of the order in which the text is read
    """

    model: int = 0
    data: int = 0

    def __post_init__(self):
        for name, seed in dataclasses.asdict(self).items():
            if not 0 <= seed < 2**32:
                raise UserError(f"seed.{name} is {seed}; give a number in [0, 2^32)")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The text that a task reads, if it reads one.

    path: "shakespeare", or a directory that scripts/prepare_data.py wrote
    """

    path: str = "shakespeare"


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When checkpoints are written.

    every: steps between checkpoints; 0 for one at the end alone
    keep: number of the newest checkpoints that are kept
    """

    every: int = 200
    keep: int = 2

    def __post_init__(self):
        positive(self, "keep")
        if self.every < 0:
            raise UserError(
                f"checkpoint.every is {self.every}; give a number of steps, or 0 for the end alone"
            )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Validation, and how held-out documents are scored.

    every: steps between validations; 0 for one at the end alone
    batch: rows that are scored at once
    limit: bytes (not tokens) that are scored at the beginning of each held-out document; 0 for all,
      whose time grows with the square of a document's length for attention
    stop_when_solved: end training once two validations in a row say that a probe is solved
    """

    every: int = 200
    batch: int = 16
    limit: int = 16384
    stop_when_solved: bool = False

    def __post_init__(self):
        if self.batch < 1 or min(self.every, self.limit) < 0:
            raise UserError(
                f"eval.batch is {self.batch}, eval.every {self.every} and eval.limit {self.limit}; "
                "give at least 1 row, and for the others numbers of at least 0"
            )


Evals = Mapping[str, Mapping[str, Any]]


def default_evals(task: str) -> Evals:
    """Returns the evaluators of a task, each without options; raises UserError for no task."""
    return {name: {} for name in tasks.find(task).evaluators}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each mesh axis; -1 for all that the other axis leaves.

    data: devices that split the batch
    fsdp: devices that split the batch and the parameters
    """

    data: int = 1
    fsdp: int = -1


@dataclasses.dataclass(frozen=True)
class Config:
    """A run: one model, one task, one budget of `steps` x `batch` x `length` tokens.

    steps: updates of the parameters
    batch: rows per step
    length: tokens per row
    task: a name in seqarch.tasks.TASKS with options, such as "mqar(pairs=8,length=128)"
    evals: the evaluators that eval.py runs, as names in seqarch.evals.evaluator.EVALUATORS with
      their options; by default those of the task
    trackers: services that get training metrics beside RUN/metrics.jsonl, as names in
      seqarch.runtime.trackers.TRACKERS
    log_every: steps between fetches of metrics from the device
    profile: the step at which a profiler trace of five steps starts; 0 for none
    """

    steps: int = 1000
    batch: int = 16
    length: int = 256
    log_every: int = 10
    profile: int = 0
    task: str = "text"
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    seed: SeedConfig = SeedConfig()
    data: DataConfig = DataConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    evals: Evals = dataclasses.field(default_factory=dict, hash=False)
    mesh: MeshConfig = MeshConfig()
    trackers: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self):
        positive(self, "steps", "batch", "length", "log_every")
        if self.profile < 0:
            raise UserError(f"profile is {self.profile}; give a step, or 0 for none")
        tasks.check_name(self.task)
        if not self.evals:
            object.__setattr__(self, "evals", default_evals(self.task))
        if self.batch % self.optim.accumulate:
            raise UserError(
                f"batch {self.batch} does not divide into optim.accumulate "
                f"{self.optim.accumulate} micro-batches"
            )
        for name in self.trackers:
            if name not in TRACKERS:
                raise unknown("tracker in config.trackers", name, TRACKERS)
