"""The task of predicting the next token of documents, scored by bits per byte."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

from seqarch.tasks.base import BITS_PER_BYTE, Score, Sums, Task
from seqarch.tasks.batch import Batch, BatchLayout
from seqarch.tasks.text.corpus import locate
from seqarch.tasks.text.tokens import TokenFile, open_split

if TYPE_CHECKING:
    from seqarch.config import Config

WINDOWS = 64  # windows that are validated during training, or all if the split has fewer


@dataclasses.dataclass(frozen=True, eq=False)
class Text(Task):
    """Text of a prepared directory, read in windows.

    Attributes:
      directory: the prepared directory.
      length: tokens of a window.
    """

    score: ClassVar[Score] = BITS_PER_BYTE
    evaluators: ClassVar[tuple[str, ...]] = ("quality", "context", "flops", "speed", "memory")
    baselines: ClassVar[tuple[str, ...]] = ("ngram-0", "ngram-2", "ngram-5", "xz")
    directory: Path
    length: int

    @classmethod
    def from_config(cls, config: "Config") -> Self:
        model = config.model
        return cls(locate(config.data.path, model.vocab, model.boundary), config.length)

    @classmethod
    def layout(cls) -> BatchLayout:
        return BatchLayout(packed=True, scored=None)

    @functools.cached_property
    def vocab(self) -> int:
        return self.open("train").meta["vocab"]

    @functools.cached_property
    def tokens_per_byte(self) -> float:
        """Tokens per byte of the training split, boundaries included."""
        train = self.open("train")
        return len(train.tokens) / train.bytes

    @property
    def digest(self) -> str:
        return self.open("train").meta["splits"]["train"]["sha256"]

    def open(self, split: str) -> TokenFile:
        return open_split(self.directory, split)

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
        from seqarch.tasks.text.loader import batches  # Grain takes seconds to import

        text = self.open(split)
        return batches(
            text.tokens,
            boundary=text.boundary,
            vocab=text.vocab,
            length=self.length,
            batch=batch,
            seed=seed,
            start=start,
            process=process,
            processes=processes,
        )

    def validation(self) -> tuple[Batch, int]:
        """Returns WINDOWS windows, evenly spaced over the split, and the bytes of their targets."""
        text = self.open("validation")
        count = min(WINDOWS, (len(text.tokens) - 1) // self.length)
        found = Batch.of_text(text.windows(self.length + 1, count), text.boundary)
        return found, int(text.tokenizer.sizes[found.targets].sum())

    def validation_scores(self, sums: Sums, size: int) -> dict[str, float]:
        """Returns the bits per byte; as in training, boundaries have bits but no bytes."""
        return dict(validation_bits_per_byte=sums.nats / size / math.log(2))

    def save(self, run_dir: str | os.PathLike) -> None:
        """Writes the tokenizer, so that the run can generate text on another machine."""
        self.open("train").tokenizer.save(run_dir)
