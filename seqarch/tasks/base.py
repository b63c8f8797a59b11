"""What a task is, and what all probes share: tasks whose rows a program generates.

A probe is a frozen dataclass whose fields are its options. It says how rows are drawn, which
positions are scored, and how to get all of them right:

    @dataclasses.dataclass(frozen=True)
    class Copy(Probe):
        length: int = 16
        vocab: int = 8

        def draw(self, rng, count) -> Rows: ...
        def solve(self, tokens) -> Int[np.ndarray, "B T"]: ...
"""

import abc
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from seqarch.errors import UserError, unknown
from seqarch.types import Bool, Float, Int

if TYPE_CHECKING:
    from seqarch.config import Config

SPLITS = ("train", "validation", "test")
HELD_OUT_SEED = 0  # of the rows on which every run is validated and scored
VALIDATION_ROWS = 256  # of a probe, in the quick look while training goes on
EIGHTHS = {"train": range(6), "validation": range(6, 7), "test": range(7, 8)}  # of all hashes
ROUNDS = 200  # of drawing rows, after which a split counts as empty
VERSION = 1  # of the generation of rows: another one is another data stream


class Batch(NamedTuple):
    """Rows of tokens.

    targets: what is to be predicted at each position; of no meaning where the weight is 0
    starts: the first tokens of packed documents; weights: of each position's loss
    """

    tokens: Int[np.ndarray, "B T"]
    targets: Int[np.ndarray, "B T"]
    starts: Bool[np.ndarray, "B T"]
    weights: Float[np.ndarray, "B T"]


class Score(NamedTuple):
    """What a task is scored by.

    metric: in metrics.jsonl, with "validation_" before it for held-out rows; and the name of the
      evaluator's metric
    evaluator: the one in EVALUATORS that measures it
    unit: a name in `seqarch.report.formats.FORMATS`; lower: whether lower is better
    """

    metric: str
    title: str
    evaluator: str
    unit: str
    lower: bool


BITS_PER_BYTE = Score("bits_per_byte", "bits/byte", "quality", "bits", True)
ACCURACY = Score("accuracy", "accuracy", "accuracy", "percent", False)


class Chance(NamedTuple):
    """Accuracies without learning: of guessing among all answers, and among those in the row."""

    uninformed: float
    informed: float


class Sums(NamedTuple):
    """Of a model over scored positions: nats, correct predictions, and weights."""

    nats: float
    correct: float
    weight: float


class Task(abc.ABC):
    """What a model is trained on and scored by.

    Attributes:
      score: what it is scored by.
      evaluators: that measure a run of it, by name.
      baselines: names in `seqarch.evals.baselines.BASELINES`; none for most tasks.
      tokens_per_byte: of text; None where tokens stand for no bytes.
      vocab: tokens that the model must know.
    """

    score: ClassVar[Score]
    evaluators: ClassVar[tuple[str, ...]]
    baselines: ClassVar[tuple[str, ...]] = ()
    tokens_per_byte: float | None = None
    vocab: int

    @classmethod
    @abc.abstractmethod
    def from_config(cls, config: "Config", **options: Any) -> Self:
        """Returns the task with these options, which are checked, as `config` wants it."""

    @classmethod
    def options(cls) -> dict[str, Any]:
        """Returns the types of the options by name."""
        return {}

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """Identifies the data stream: two tasks with the same digest have the same rows."""

    @abc.abstractmethod
    def open(self, split: str) -> Any:
        """Returns the data of a split, which evaluators have as `run.split`.

        It has `tokens`, an array that programs can be timed with, and `boundary`, the token that
        begins a document in it. Raises UserError where there is no such split.
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
        """Returns endless batches from the index `start` on.

        A batch is a pure function of (split, seed, index); process p of n gets its p-th n-th.
        """

    @abc.abstractmethod
    def validation(self) -> tuple[Batch, int]:
        """Returns rows for a quick look at the validation split, and the bytes they predict."""

    @abc.abstractmethod
    def validation_scores(self, sums: Sums, size: int) -> dict[str, float]:
        """Returns the columns of metrics.jsonl that a quick look gives."""

    def save(self, run_dir: str | os.PathLike) -> None:
        """Writes into a run's directory what its model cannot be used without."""


class Rows(NamedTuple):
    """Rows as a probe draws them: tokens, the answers, and where these are asked for."""

    tokens: Int[np.ndarray, "B T"]
    targets: Int[np.ndarray, "B T"]
    scored: Bool[np.ndarray, "B T"]


class HeldOut(NamedTuple):
    """A split of a probe. tokens: some of its rows, one after the other; no token is a boundary."""

    name: str
    tokens: Int[np.ndarray, "n"]
    boundary: int = -1


@dataclasses.dataclass(frozen=True)
class Probe(Task):
    """A task whose rows are generated, and scored by accuracy at weighted positions.

    Splits are disjoint by rule: a row belongs to the split that its hash falls into, and rows are
    drawn until as many as are wanted fall into the one that is asked for.

    Attributes:
      size: the option that makes the task harder, such as "pairs".
      solved: the accuracy from which on it counts as solved.
    """

    score: ClassVar[Score] = ACCURACY
    evaluators: ClassVar[tuple[str, ...]] = ("accuracy", "flops", "speed", "memory")
    size: ClassVar[str] = "length"
    solved: ClassVar[float] = 0.99
    length: int
    vocab: int

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        """Returns `count` rows, whatever split they fall into."""

    @abc.abstractmethod
    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the right answer at every scored position, from the tokens up to it alone."""

    @property
    @abc.abstractmethod
    def chance(self) -> Chance:
        """Accuracies without learning."""

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"] | None:
        """Returns how many tokens before a scored position its answer stands; None: nowhere."""
        return None

    @classmethod
    def options(cls) -> dict[str, Any]:
        return {field.name: field.type for field in dataclasses.fields(cls)}

    @classmethod
    def from_config(cls, config: "Config", **options: Any) -> Self:
        probe = cls(**options)
        for field, given, wanted in (
            ("model.vocab", config.model.vocab, probe.vocab),
            ("length", config.length, probe.length),
        ):
            if given != wanted:
                raise UserError(
                    f"{field} is {given}, the task {config.task} has {wanted}; set "
                    f"--config.{field}={wanted}"
                )
        return probe

    @property
    def digest(self) -> str:
        decisive = [type(self).__name__, VERSION, dataclasses.asdict(self)]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def open(self, split: str) -> HeldOut:
        rows = self.rows(split, HELD_OUT_SEED, 0, 64)
        return HeldOut(split, rows.tokens.ravel())

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
        share = share_of(batch, process, processes)
        for index in itertools.count(start):
            whole = as_batch(self.rows(split, seed, index, batch))
            yield Batch(*(column[share] for column in whole))

    def rows(self, split: str, seed: int, index: int, count: int) -> Rows:
        """Returns `count` rows of a split, the same at every call with these arguments.

        Raises:
          UserError: where there is no such split, or the task has too few different rows for it.
        """
        if split not in EIGHTHS:
            raise unknown("split", split, SPLITS)
        rng = np.random.default_rng((VERSION, SPLITS.index(split), seed, index))
        eighths = EIGHTHS[split]
        found, missing = [], count
        for _ in range(ROUNDS):
            drawn = self.draw(rng, -(-missing * 8 // len(eighths)) + 8)
            member = np.isin(row_hashes(drawn.tokens) >> np.uint64(61), eighths)
            found.append(Rows(*(column[member][:missing] for column in drawn)))
            missing -= len(found[-1].tokens)
            if not missing:
                return Rows(*map(np.concatenate, zip(*found, strict=True)))
        raise UserError(f"{self} has too few different rows for the split {split}; make it larger")

    def validation(self) -> tuple[Batch, int]:
        return as_batch(self.rows("validation", HELD_OUT_SEED, 0, VALIDATION_ROWS)), 0

    def validation_scores(self, sums: Sums, size: int) -> dict[str, float]:
        return dict(
            validation_loss=sums.nats / sums.weight,
            validation_accuracy=sums.correct / sums.weight,
        )


def as_batch(rows: Rows) -> Batch:
    """Returns rows as training wants them: no packed documents, weight 1 where scored."""
    starts = np.zeros(rows.tokens.shape, bool)
    return Batch(
        rows.tokens.astype(np.int32),
        rows.targets.astype(np.int32),
        starts,
        rows.scored.astype(np.float32),
    )


def share_of(batch: int, process: int, processes: int) -> slice:
    """Returns the rows of a global batch that one process holds; raises UserError."""
    if batch % processes:
        raise UserError(
            f"a batch of {batch} does not divide among {processes} processes; give a multiple of it"
        )
    return slice(process * batch // processes, (process + 1) * batch // processes)


def row_hashes(tokens: Int[np.ndarray, "B T"]) -> np.ndarray:
    """Returns a hash of 64 bits of each row; the same on every machine.

    A random linear map mod 2^64, then splitmix64's finalizer (Steele et al. 2014).
    """
    weights = _splitmix(np.arange(1, 1 + tokens.shape[1], dtype=np.uint64)) | np.uint64(1)
    return _splitmix((tokens.astype(np.uint64) * weights).sum(axis=1, dtype=np.uint64))


def _splitmix(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
