"""The interface of a task: its data, and the score of a model on it."""

import abc
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from seqarch.errors import UserError
from seqarch.tasks.batch import Batch, BatchLayout

if TYPE_CHECKING:
    from seqarch.config import Config

SPLITS = ("train", "validation", "test")
HELD_OUT_SEED = 0  # seed of what is drawn for the rows on which every run is scored


class Score(NamedTuple):
    """The metric by which a task is scored.

    metric: its name, for the evaluator and in metrics.jsonl, there with "validation_" before it for
      held-out rows
    title: its name in text
    evaluator: the name in EVALUATORS of the evaluator that measures it
    unit: a name in `seqarch.report.formats.FORMATS`
    lower: whether lower is better
    """

    metric: str
    title: str
    evaluator: str
    unit: str
    lower: bool


BITS_PER_BYTE = Score("bits_per_byte", "bits/byte", "quality", "bits", True)
ACCURACY = Score("accuracy", "accuracy", "accuracy", "percent", False)


class Sums(NamedTuple):
    """Weighted sums over scored positions: nats, correct predictions, and weights."""

    nats: float
    correct: float
    weight: float


class Task(abc.ABC):
    """The data and the score of a model.

    Attributes:
      score: the metric by which it is scored.
      evaluators: names of the evaluators that measure a run on it.
      baselines: names in `seqarch.evals.baselines.BASELINES`; most tasks have none.
      has_source: whether its rows have a source, which the encoder of an encoder-decoder reads;
        the constructor then has an argument `split`: whether batches have it apart.
      solved: the score from which on the task counts as solved; None: it has no such threshold.
      tokens_per_byte: of a text; None for tasks that have no bytes.
      vocab: number of tokens in the model's vocabulary.
    """

    score: ClassVar[Score]
    evaluators: ClassVar[tuple[str, ...]]
    baselines: ClassVar[tuple[str, ...]] = ()
    has_source: ClassVar[bool] = False
    solved: ClassVar[float | None] = None
    tokens_per_byte: float | None = None
    vocab: int

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: "Config", **options: Any) -> Self:
        """Returns the task of a config with these options; raises UserError where it cannot be."""

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Returns the types of the task's options by name."""
        return {}

    @classmethod
    @abc.abstractmethod
    def layout(cls, **options: Any) -> BatchLayout:
        """Returns which arrays the batches of the task with these options have."""

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """Identifies the data stream: tasks with the same digest have the same rows."""

    @abc.abstractmethod
    def open(self, split: str) -> Any:
        """Returns the data of a split, which evaluators get as `run.split`.

        It has at least `tokens`, an array with which programs can be timed, and `boundary`, the
        token that begins a document in it.

        Raises:
          UserError: where there is no such split.
        """

    @abc.abstractmethod
    def batches(
        self,
        split: str,
        *,
        seed: int,
        batch: int,
        start: int = 0,
        process: int = 0,
        processes: int = 1,
    ) -> Iterator[Batch]:
        """Returns endless batches from an index on.

        A batch is a pure function of (split, seed, index).

        Args:
          split: a name in SPLITS.
          seed: of the order.
          batch: rows of the global batch.
          start: the index of the first batch.
          process: the index of this process, which gets its share of each batch's rows.
          processes: the number of processes.
        """

    @abc.abstractmethod
    def validation(self) -> tuple[Batch, int]:
        """Returns rows of the validation split for scoring during training, and their bytes."""

    @abc.abstractmethod
    def validation_scores(self, sums: Sums, size: int) -> dict[str, float]:
        """Returns the columns of metrics.jsonl for the rows of `validation`.

        Args:
          sums: over these rows.
          size: their bytes.
        """

    def save(self, run_dir: str | os.PathLike) -> None:
        """Writes the files to a run's directory without which its model cannot be used."""


def share_of(batch: int, process: int, processes: int) -> slice:
    """Returns the rows of a global batch that one process has.

    Raises:
      UserError: where the batch does not divide among the processes.
    """
    if batch % processes:
        raise UserError(
            f"a batch of {batch} does not divide among {processes} processes; give a multiple of it"
        )
    return slice(process * batch // processes, (process + 1) * batch // processes)
