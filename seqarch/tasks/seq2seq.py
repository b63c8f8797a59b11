"""The base class of probes that translate a source into a target.

    tokens    a b c | _ _ _ _ | c b _ _ _ _ _        |: end and start, _: padding
    targets   - - - - - - - - c b a - - - - -

The first columns of a row are the source, the others the target. A language model reads the row as
it is. An encoder-decoder (model.kind=encdec) is given the same row in two parts: the encoder reads
the source, the decoder the target.
"""

import abc
import dataclasses
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np

from seqarch.tasks.batch import Batch, BatchLayout
from seqarch.tasks.probe import Probe
from seqarch.tasks.rows import Rows
from seqarch.types import Int

Strings = tuple[Int[np.ndarray, "B n"], Int[np.ndarray, "B"]]  # symbols, and how many of each row


@dataclasses.dataclass(frozen=True)
class Seq2Seq(Probe):
    """A probe with a source and a target.

    Attributes:
      share: of a row's columns, how many are the source's.
      split: whether batches have the source apart, for an encoder-decoder; it is no option.
      symbols: the number of different symbols, which are the first tokens; the last two are padding
        and the token that ends the source and starts the target.
    """

    ability: ClassVar[str] = "translation"
    has_source: ClassVar[bool] = True
    share: ClassVar[Fraction] = Fraction(1, 2)
    length: int = 64
    split: bool = dataclasses.field(default=False, kw_only=True)

    @property
    @abc.abstractmethod
    def symbols(self) -> int: ...

    @abc.abstractmethod
    def draw_source(self, rng: np.random.Generator, count: int) -> Strings:
        """Returns sources of any split."""

    @abc.abstractmethod
    def translate(self, source: Int[np.ndarray, "B n"], size: Int[np.ndarray, "B"]) -> Strings:
        """Returns the targets of sources."""

    @property
    def vocab(self) -> int:
        return self.symbols + 2

    @property
    def source_columns(self) -> int:
        return int(self.length * self.share)

    @property
    def target_columns(self) -> int:
        """The last tokens of a row, which are its target."""
        return self.length - self.source_columns

    @classmethod
    def layout(cls, **options: Any) -> BatchLayout:
        layout = super().layout(**options)
        return layout._replace(source=cls.share) if options.get("split") else layout

    @property
    def digest(self) -> str:
        return Probe.digest.fget(dataclasses.replace(self, split=False))  # the rows are the same

    @property
    def _gathered(self) -> int | None:
        columns = self.target_columns if self.split else self.length
        return self.most_scored if 2 * self.most_scored <= columns else None

    def draw(self, rng: np.random.Generator, count: int) -> Rows:
        source, size = self.draw_source(rng, count)
        target, answers = self._targets(source, size)
        padding, boundary = self.vocab - 2, self.vocab - 1
        place = np.arange(self.source_columns)
        read = np.where(place < size[:, None], _fit(source, self.source_columns), padding)
        read = np.where(place == size[:, None], boundary, read)
        given = np.where(answers, target, padding)
        start = np.full((count, 1), boundary)
        written = np.concatenate([start, np.where(answers[:, 1:], given[:, :-1], padding)], axis=1)
        unscored = np.zeros(read.shape, int)
        return Rows(
            np.concatenate([read, written], axis=1),
            np.concatenate([unscored, np.where(answers, target, 0)], axis=1),
            np.concatenate([unscored > 0, answers], axis=1),
        )

    def solve(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B T"]:
        source = tokens[:, : self.source_columns]
        target, answers = self._targets(source, self.sizes_of(tokens))
        found = np.full(tokens.shape, -1)
        found[:, self.source_columns :] = np.where(answers, target, -1)
        return found

    def sizes_of(self, tokens: Int[np.ndarray, "B T"]) -> Int[np.ndarray, "B"]:
        """Returns the number of symbols in each row's source."""
        return (tokens[:, : self.source_columns] == self.vocab - 1).argmax(axis=1)

    def _targets(self, source, size):
        """Returns the targets in their columns, and which columns they fill."""
        target, sizes = self.translate(source, size)
        answers = np.arange(self.target_columns) < sizes[:, None]
        return _fit(target, self.target_columns), answers

    def as_batch(self, rows: Rows) -> Batch:
        if not self.split:
            return super().as_batch(rows)
        source, behind = rows.tokens[:, : self.source_columns], slice(self.source_columns, None)
        source = np.where(source == self.vocab - 2, -1, source).astype(np.int32)
        target = Rows(*(column[:, behind] for column in rows))
        return super().as_batch(target)._replace(source=source)


def _fit(symbols: Int[np.ndarray, "B n"], columns: int) -> Int[np.ndarray, "B m"]:
    """Returns symbols in so many columns, cut or padded with zeros."""
    found = np.zeros((len(symbols), columns), int)
    kept = symbols[:, :columns]
    found[:, : kept.shape[1]] = kept
    return found
