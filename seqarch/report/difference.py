"""The difference of two runs (seqarch.compare.difference) as lines of text."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from seqarch.errors import printable_line
from seqarch.report.tables import NAMED
from seqarch.stats.bootstrap import Interval
from seqarch.types import Float, Int

MIN_DOCUMENTS = 10  # below which a bootstrap's interval is too narrow


class QualityDifference(NamedTuple):
    """The difference of two runs on the same documents, over windows.

    Attributes:
      split: the held-out text.
      documents: names of documents.
      sizes: bytes of each document that are scored.
      bits: A's minus B's bits per byte of each document.
      scores: A's and B's bits per byte over all bytes.
      windows: tokens of A's and B's windows.
      interval: the difference of the scores, from a bootstrap over documents.
    """

    split: str
    documents: tuple[str, ...]
    sizes: Int[np.ndarray, "n"]
    bits: Float[np.ndarray, "n"]
    scores: tuple[float, float]
    windows: tuple[int, int]
    interval: Interval


def config_lines(fields: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Returns a line "field: A's | B's" for each field in which the configs differ."""
    if not fields:
        return ["the configs are the same"]
    width = 1 + max(map(len, fields))
    return [f"{name + ':':<{width}} {ours} | {theirs}" for name, (ours, theirs) in fields.items()]


def quality_lines(found: QualityDifference) -> list[str]:
    """Returns both scores, their difference with a verdict, and that of each document."""
    size, mean = f"{int(found.sizes.sum()):,} bytes", found.interval
    lines = [f"bits per byte of {len(found.sizes)} {found.split} documents, {size}, over windows:"]
    for name, score, window in zip("AB", found.scores, found.windows, strict=True):
        lines.append(f"  {name}      {score:.4f}, windows of {window} tokens")
    lines += [
        f"  A - B  {mean.mean:+.4f}, 95 % interval {mean.low:+.4f} to {mean.high:+.4f}",
        verdict(mean, len(found.sizes)),
    ]
    if len(found.documents) <= NAMED:
        lines += ["", "A - B of each document:"]
        for name, bits in zip(found.documents, found.bits, strict=True):
            lines.append(f"  {printable_line(name):<32} {bits:+.4f}")
    return lines


def better(interval: Interval) -> str | None:
    """Returns the run that is better, A or B; None where the interval holds 0."""
    if not math.isfinite(interval.low) or interval.low <= 0 <= interval.high:
        return None
    return "A" if interval.mean < 0 else "B"


def verdict(interval: Interval, documents: int) -> str:
    """Returns a sentence that says whether the runs differ, and how far to trust it."""
    if not math.isfinite(interval.low):
        return "One document says nothing of others: no interval, and no verdict."
    winner = better(interval)
    told = "No difference is shown: the interval holds 0."
    if winner:
        told = f"{winner} is better: the interval leaves 0 out."
    if documents < MIN_DOCUMENTS:
        told += (
            f" Of {documents} documents an interval comes out too narrow; trust it only where it "
            "is far from 0."
        )
    return f"{told} One seed each: other seeds may differ by as much."
