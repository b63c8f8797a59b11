"""The base class of probes, tasks whose rows are generated.

A probe is a frozen dataclass whose fields are its options, but for keyword-only ones. It defines
how rows are drawn, which positions are scored, and how to solve them:

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
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from seqarch.errors import UserError, unknown
from seqarch.patterns import check_option
from seqarch.tasks.base import ACCURACY, HELD_OUT_SEED, SPLITS, Score, Sums, Task, share_of
from seqarch.tasks.batch import Batch, BatchLayout, select_scored
from seqarch.tasks.epochs import in_epochs
from seqarch.tasks.rows import HeldOut, Rows, row_hashes
from seqarch.types import Bool, Float, Int

if TYPE_CHECKING:
    from seqarch.config import Config

HELD_OUT_ROWS = 64  # rows in the data of a split (`Probe.open`)
VALIDATION_ROWS = 256  # rows that are validated during training
EIGHTHS = {"train": range(6), "validation": range(6, 7), "test": range(7, 8)}  # eighths of hashes
ROUNDS = 200  # attempts to draw rows, after which a split counts as empty
DRAWN_TOKENS = 2**24  # tokens that are drawn at once, so that long rows fit in memory
SMALLEST_DOMAIN_BITS = 14  # of the number of different rows from which on they are split


@dataclasses.dataclass(frozen=True)
class Probe(Task):
    """A task whose rows are generated, and scored by accuracy at weighted positions.

    Splits are disjoint: a row's hash decides its split, and rows are drawn until enough of them
    belong to the wanted split. Where `disjoint` is False, every split is drawn from all rows. Where
    only some kinds have too few different rows (`kind_bits`), rows of these kinds go to a random
    split each time they are drawn, so that all splits have the same distribution.

    Attributes:
      version: that of the generation of rows: another one is another data stream.
      of_text: whether rows hold windows of the text of config.data.path.
      ability: what it tests: "recall", "copying", "state tracking" or "translation".
      size: the name of the option that makes the task harder, such as "pairs".
      sizes: values of that option by which a model is tested too.
      solved: the accuracy from which on the task counts as solved.
      length: tokens of a row.
    """

    score: ClassVar[Score] = ACCURACY
    evaluators: ClassVar[tuple[str, ...]] = ("accuracy", "flops", "speed", "memory")
    version: ClassVar[int] = 1
    of_text: ClassVar[bool] = False
    ability: ClassVar[str] = "recall"
    size: ClassVar[str] = "length"
    sizes: ClassVar[tuple[float, ...]] = ()
    solved: ClassVar[float] = 0.99
    length: int

    @abc.abstractmethod
    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        """Returns `count` rows of any split."""

    def fill(self, rows: Rows, split: str, rng: np.random.Generator) -> Rows:
        """Returns drawn rows with what belongs to one split alone, such as windows of its text."""
        return rows

    @abc.abstractmethod
    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        """Returns the right targets at scored positions, each from the tokens up to it alone."""

    @property
    @abc.abstractmethod
    def chance(self) -> float:
        """The accuracy of guessing among all answers, whatever the row."""

    @property
    def most_scored(self) -> int:
        """The most positions of a row that are scored."""
        return self.length

    @property
    def source_columns(self) -> int:
        """The first tokens of a row, which are its source, if it has one."""
        return 0

    @property
    def domain_bits(self) -> float:
        """The logarithm to base 2 of the number of different rows; infinity where they abound."""
        return math.inf

    @property
    def disjoint(self) -> bool:
        """Whether no held-out row is trained on; False for a fixed table or a small domain."""
        return self.domain_bits >= SMALLEST_DOMAIN_BITS

    @property
    def training_rows(self) -> int:
        """The number of rows that training has, in every epoch anew; 0: new ones in every batch."""
        return 0

    def kind_bits(self, tokens: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B"]:
        """Returns `domain_bits` of each row's kind, such as the rows with as long a string."""
        return np.full(len(tokens), self.domain_bits)

    def in_every_split(self, tokens: Int[np.ndarray, "B T"]) -> Bool[np.ndarray, "B"]:
        """Returns which rows are of a kind with too few different ones to be split, if not all."""
        return (self.kind_bits(tokens) < SMALLEST_DOMAIN_BITS) | (not self.disjoint)

    def distances(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"] | None:
        """Returns how many tokens before a scored position the evidence for its answer begins.

        None: the task has no such distance.
        """
        return None

    @classmethod
    def options(cls) -> dict[str, Any]:
        fields = (field for field in dataclasses.fields(cls) if not field.kw_only)
        return {field.name: field.type for field in fields}

    @classmethod
    def from_config(cls, config: "Config", **options: Any) -> Self:
        probe = cls(**options)
        for field, given, wanted in (
            ("model.vocab", config.model.vocab, probe.vocab),
            ("length", config.length, probe.length),
        ):
            if given != wanted:
                raise UserError(
                    f"{field} is {given}, the task {config.task} has {wanted}; give the task its "
                    f"options in --config=configs/probes.py:TASK(...),MIXER, or set "
                    f"--config.{field}={wanted}"
                )
        return probe

    @classmethod
    def layout(cls, **options: Any) -> BatchLayout:
        return BatchLayout(packed=False, scored=cls(**options)._gathered)

    @property
    def _gathered(self) -> int | None:
        """The number of positions that batches list; None: all, as most are scored."""
        return self.most_scored if 2 * self.most_scored <= self.length else None

    def varied(self, **options: Any) -> Self:
        """Returns the probe with other options; raises UserError for a value it cannot have."""
        known = self.options()
        for name, value in options.items():
            check_option(f"{type(self).__name__} with {name}={value}", value, known[name])
        return dataclasses.replace(self, **options)

    @property
    def digest(self) -> str:
        decisive = [type(self).__name__, self.version, dataclasses.asdict(self)]
        return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()

    def open(self, split: str) -> HeldOut:
        rows = self.rows(split, HELD_OUT_SEED, 0, HELD_OUT_ROWS)
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
            yield self.as_batch(self.rows(split, seed, index, batch)).take(share)

    def rows(self, split: str, seed: int, index: int, count: int) -> Rows:
        """Returns `count` rows of a split, as a pure function of the arguments.

        Raises:
          UserError: where there is no such split, or the task has too few different rows for it.
        """
        if split == "train" and self.training_rows:
            return in_epochs(self, seed, index, count)
        return self.new_rows(split, seed, index, count)

    def new_rows(self, split: str, seed: int, index: int, count: int) -> Rows:
        """Does what `rows` does, with new rows for training too."""
        if split not in EIGHTHS:
            raise unknown("split", split, SPLITS)
        rng = np.random.default_rng((self.version, SPLITS.index(split), seed, index))
        if not self.disjoint:
            return self.fill(self.draw(rng, count), split, rng)
        eighths, at_once = EIGHTHS[split], max(1, DRAWN_TOKENS // self.length)
        found, missing = [], count
        left = ROUNDS * (8 * count // len(eighths) + 8)
        while missing and left > 0:
            drawn = self.draw(rng, min(-(-missing * 8 // len(eighths)) + 8, at_once))
            drawn = self.fill(drawn, split, rng)
            member = np.isin(self._eighths(rng, drawn.tokens), eighths)
            found.append(Rows(*(column[member][:missing] for column in drawn)))
            missing -= len(found[-1].tokens)
            left -= len(drawn.tokens)
        if missing:
            raise UserError(f"{self} has too few different rows for the split {split}; enlarge it")
        return Rows(*map(np.concatenate, zip(*found, strict=True)))

    def as_batch(self, rows: Rows) -> Batch:
        """Returns rows of this probe as a batch, with weight 1 at scored positions."""
        tokens, targets = rows.tokens.astype(np.int32), rows.targets.astype(np.int32)
        weights = rows.scored.astype(np.float32)
        positions = select_scored(rows.scored, self._gathered)
        if positions is not None:
            targets = np.take_along_axis(targets, positions, axis=1)
            weights = np.take_along_axis(weights, positions, axis=1)
        return Batch(tokens, targets, None, weights, positions)

    def _eighths(
        self, rng: np.random.Generator, tokens: Int[np.ndarray, "B T"]
    ) -> Int[np.ndarray, "B"]:
        """Returns the eighth of each row: that of its hash, or any if its kind has too few rows."""
        found = (row_hashes(tokens) >> np.uint64(61)).astype(int)
        if (few := self.in_every_split(tokens)).any():
            found[few] = rng.integers(8, size=few.sum())
        return found

    def validation(self) -> tuple[Batch, int]:
        return self.as_batch(self.rows("validation", HELD_OUT_SEED, 0, VALIDATION_ROWS)), 0

    def validation_scores(self, sums: Sums, size: int) -> dict[str, float]:
        loss, accuracy = sums.nats / sums.weight, sums.correct / sums.weight
        return dict(validation_loss=loss, validation_accuracy=accuracy)
