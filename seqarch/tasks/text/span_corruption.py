"""Span corruption: an encoder-decoder fills in the spans that are missing in a text.

    text      Thank you for inviting me to your party last week
    source    Thank you <X> me to your party <Y> week |
    target    <X> for inviting <Y> last <Z>

A share `rate` of the tokens is missing, in spans whose mean length is `span`. Their numbers are the
same in every row, and all ways to place them are equally likely; a row begins with what is there.
Each span is replaced by a sentinel, a token of its own; the target has each sentinel before its
span, and one more at the end. All of it is scored, by the mean nats of a token.

The vocabulary is the text's with 100 sentinels before the boundary, which ends the source and
starts the target. A row of config.length tokens is the source and the target together, 9 to 2 of
them with the default options: with 626 tokens a source of 512 and a target of 114, as in T5.

Source: Raffel et al. 2020, "Exploring the limits of transfer learning with a unified text-to-text
transformer", section 3.1.4 and figure 2, and its code (t5/data/preprocessors.py,
`random_spans_noise_mask`), where an end-of-sequence token stands in place of the last sentinel.
"""

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np

from seqarch.errors import UserError
from seqarch.tasks.base import HELD_OUT_SEED, SPLITS, Score, Sums, share_of
from seqarch.tasks.batch import Batch, BatchLayout
from seqarch.tasks.text.corpus import locate
from seqarch.tasks.text.task import Text
from seqarch.types import Bool, Int

if TYPE_CHECKING:
    from seqarch.config import Config

SENTINELS = 100
ROWS = 128  # windows that are validated during training, or all if the split has fewer
SPAN_LOSS = Score("loss", "nats/token", "spans", "ratio", True)


class Counts(NamedTuple):
    """The numbers of tokens in a row.

    tokens: of the text
    missing: of them
    spans: of missing tokens
    """

    tokens: int
    missing: int
    spans: int

    @property
    def source(self) -> int:
        """Tokens of the source, with its sentinels and its end."""
        return self.tokens - self.missing + self.spans + 1

    @property
    def target(self) -> int:
        """Tokens of the target, with its sentinels."""
        return self.missing + self.spans + 1


@dataclasses.dataclass(frozen=True, eq=False)
class SpanCorruption(Text):
    """Span corruption of the text of config.data.path.

    Attributes:
      rate: share of tokens that are missing.
      span: mean length of a span.
      split: True: it is a task for encoder-decoders alone.
    """

    score: ClassVar[Score] = SPAN_LOSS
    evaluators: ClassVar[tuple[str, ...]] = ("spans", "flops", "speed", "memory")
    baselines: ClassVar[tuple[str, ...]] = ()
    has_source: ClassVar[bool] = True
    tokens_per_byte: ClassVar[None] = None  # a target is no text
    rate: float = 0.15
    span: float = 3.0
    split: bool = False

    def __post_init__(self):
        if not self.split:
            raise UserError(
                "the task span_corruption is for encoder-decoders, and model.kind is 'lm'; use "
                "--config=configs/seq2seq.py:span_corruption,MIXER, or the task text"
            )
        _check(self.rate, self.span)
        counts = self.counts
        if counts.spans < 1:
            raise UserError(
                f"span_corruption of rate {self.rate} and span {self.span} has no span in a row of "
                f"{self.length} tokens; give a longer length"
            )
        if counts.spans >= SENTINELS:
            raise UserError(
                f"span_corruption of rate {self.rate} and span {self.span} has {counts.spans} "
                f"spans in a row of {self.length} tokens, and there are {SENTINELS} sentinels; "
                "give a shorter length or a longer span"
            )

    @classmethod
    def options(cls) -> dict[str, Any]:
        return {"rate": float, "span": float}

    @classmethod
    def from_config(cls, config: "Config", **options: Any) -> Self:
        task = cls(locate(config.data.path), config.length, **options)
        if config.model.vocab != task.vocab:
            raise UserError(
                f"model.vocab is {config.model.vocab}, the text has {task.vocab} tokens with "
                f"{SENTINELS} sentinels; set --config.model.vocab={task.vocab}"
            )
        text = task.open("train")
        if text.boundary != text.vocab - 1:
            raise UserError(
                f"{text.directory} has the boundary {text.boundary} among its tokens, as texts of "
                "imported models have; span_corruption needs one behind them: prepare the text "
                "with another tokenizer"
            )
        return task

    @classmethod
    def layout(cls, rate: float = 0.15, span: float = 3.0, split: bool = False) -> BatchLayout:
        del split
        _check(rate, span)
        spans = rate / span
        share = Fraction((1 - rate + spans) / (1 + 2 * spans)).limit_denominator(1000)
        return BatchLayout(packed=False, scored=None, source=share)

    @property
    def columns(self) -> tuple[int, int]:
        """Columns of the source and of the target."""
        return self.layout(self.rate, self.span).columns(self.length)

    @property
    def counts(self) -> Counts:
        """The numbers of the longest text whose source and target fit a row."""
        source, target = self.columns
        for tokens in range(self.length, 1, -1):
            missing = round(tokens * self.rate)
            spans = min(round(missing / self.span), tokens - missing)
            found = Counts(tokens, missing, spans)
            if found.source <= source and found.target <= target:
                return found
        return Counts(0, 0, 0)

    @property
    def vocab(self) -> int:
        return self.open("train").meta["vocab"] + SENTINELS

    @property
    def digest(self) -> str:
        return f"{super().digest} {self.rate} {self.span}"

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

        text, share = self.open(split), share_of(batch, process, processes)
        rows = dict(seed=seed, batch=batch, start=start, process=process, processes=processes)
        windows = batches(
            text.tokens, boundary=text.boundary, length=self.counts.tokens - 1, **rows
        )
        for index, found in enumerate(windows, start):
            tokens = np.concatenate([found.tokens, found.targets[:, -1:]], axis=1)
            rng = np.random.default_rng((SPLITS.index(split), seed, index))
            yield self.corrupt(tokens, self.draw(rng, batch)[share])

    def windows(self, split: str, count: int) -> Batch:
        """Returns `count` windows, evenly spaced over a split, or all if there are fewer."""
        text, size = self.open(split), self.counts.tokens
        count = min(count, len(text.tokens) // size)
        tokens = text.windows(size, count)
        rng = np.random.default_rng((SPLITS.index(split), HELD_OUT_SEED))
        return self.corrupt(tokens, self.draw(rng, count))

    def validation(self) -> tuple[Batch, int]:
        return self.windows("validation", ROWS), 0

    def validation_scores(self, sums: Sums, size: int) -> dict[str, float]:
        return dict(validation_loss=sums.nats / sums.weight)

    def draw(self, rng: np.random.Generator, rows: int) -> Bool[np.ndarray, "B n"]:
        """Returns which tokens of each row are missing."""
        tokens, missing, spans = self.counts
        lengths = [_parts(rng, rows, size, spans) for size in (tokens - missing, missing)]
        ends = np.stack(lengths, axis=2).reshape(rows, -1).cumsum(axis=1)
        begins = np.zeros((rows, tokens), int)
        np.put_along_axis(begins, ends[:, :-1], 1, axis=1)
        return begins.cumsum(axis=1) % 2 == 1

    def corrupt(self, tokens: Int[np.ndarray, "B n"], missing: Bool[np.ndarray, "B n"]) -> Batch:
        """Returns the batch of texts without their missing tokens."""
        rows, counts = len(tokens), self.counts
        first = missing.copy()
        first[:, 1:] &= ~missing[:, :-1]
        boundary = self.vocab - 1
        tokens = np.where(tokens == boundary - SENTINELS, boundary, tokens)
        sentinel = boundary - SENTINELS + np.maximum(first.cumsum(axis=1) - 1, 0)
        source, target = (np.full((rows, size), -1) for size in self.columns)
        kept = np.where(first, sentinel, tokens)[~missing | first]
        source[:, : counts.source - 1] = kept.reshape(rows, -1)
        source[:, counts.source - 1] = boundary
        begins = first[missing].reshape(rows, -1)
        place = np.arange(counts.missing) + begins.cumsum(axis=1)
        target[:, : counts.target - 1] = boundary - SENTINELS + _span_of(place, counts)
        np.put_along_axis(target, place, tokens[missing].reshape(rows, -1), axis=1)
        target[:, counts.target - 1] = boundary - SENTINELS + counts.spans
        weights = (target >= 0).astype(np.float32)
        target = np.maximum(target, 0).astype(np.int32)
        given = np.concatenate([np.full((rows, 1), boundary, np.int32), target[:, :-1]], axis=1)
        return Batch(given, target, None, weights, source=source.astype(np.int32))


def _check(rate: float, span: float) -> None:
    if not (0 < rate < 1 and span >= 1):
        raise UserError(
            f"span_corruption has rate {rate} and span {span}; give a rate in (0, 1) and a span of "
            "at least 1"
        )


def _parts(rng: np.random.Generator, rows: int, size: int, parts: int) -> Int[np.ndarray, "B n"]:
    """Returns the lengths of `parts` parts of `size` tokens, all of them equally likely."""
    cuts = np.broadcast_to(np.arange(size - 1) < parts - 1, (rows, size - 1))
    cuts = rng.permuted(cuts, axis=1)
    ends = np.nonzero(cuts)[1].reshape(rows, parts - 1) + 1
    return np.diff(ends, axis=1, prepend=0, append=size)


def _span_of(place: Int[np.ndarray, "B n"], counts: Counts) -> Int[np.ndarray, "B m"]:
    """Returns the number of the span at each place of a target, given those of missing tokens."""
    sentinel = np.ones((len(place), counts.target - 1), int)
    np.put_along_axis(sentinel, place, 0, axis=1)
    return sentinel.cumsum(axis=1) - 1
