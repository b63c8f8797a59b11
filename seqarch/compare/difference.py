"""What two runs differ in: their configs, and their bits per byte on the same documents, with how
sure that is.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from seqarch import records
from seqarch.config import flatten, to_dict
from seqarch.errors import UserError
from seqarch.evals import quality
from seqarch.evals.loaded_run import LoadedRun
from seqarch.records import Results
from seqarch.report.tables import NAMED
from seqarch.stats.bootstrap import Interval, paired_bootstrap
from seqarch.tasks.text.corpus import locate
from seqarch.tasks.text.tokens import open_split
from seqarch.training import restore
from seqarch.training.checkpoint import load_model
from seqarch.training.rundir import stored_config

FEW = 10  # documents, below which a bootstrap's interval is too narrow to lean on
Run = str | os.PathLike


def config_lines(a: Run, b: Run) -> list[str]:
    """A line for each field in which the configs differ: field: A's | B's."""
    ours, theirs = (flatten(to_dict(stored_config(run))) for run in (a, b))
    differing = [name for name in ours if ours[name] != theirs[name]]
    width = max(map(len, differing), default=0) + 1
    return [f"{name + ':':<{width}} {ours[name]} | {theirs[name]}" for name in differing] or [
        "the configs are the same"
    ]


def quality_lines(
    a: Run, b: Run, split: str, limit: int | None = None, allow_modules: Sequence[str] = ()
) -> list[str]:
    """Bits per byte of both over windows, their difference per document, and in words whether it is
    one.

    limit: bytes of each document, 0 for all; default: the smaller of the runs' eval.limit
    allow_modules: modules and packages of mixers that the runs' configs may have imported Raises
    UserError where a directory is no run, and where the two would be scored on different bytes.
    """
    if limit is None:
        limit = min((size for run in (a, b) if (size := stored_config(run).eval.limit)), default=0)
    ours, theirs = (scores(run, split, limit, allow_modules) for run in (a, b))
    if ours.fact("quality", "text") != theirs.fact("quality", "text"):
        sizes = [each.value("quality", "bytes") for each in (ours, theirs)]
        raise UserError(
            f"{a} is scored on {sizes[0]:,} bytes and {b} on {sizes[1]:,}, and they are not the "
            "same; "
            "give runs of the same text, and --limit=0 where their tokenizers differ"
        )
    names, sizes = _documents(ours, "bytes")
    bits, other = (_documents(each, "bits_per_byte")[1] for each in (ours, theirs))
    found = paired_bootstrap(bits - other, sizes)
    lines = [
        f"bits per byte of {len(sizes)} {split} documents, {int(sizes.sum()):,} bytes, over "
        "windows:"
    ]
    for name, values in (("A", ours), ("B", theirs)):
        score, window = (values.value("quality", metric) for metric in ("bits_per_byte", "context"))
        lines += [f"  {name}      {score:.4f}, windows of {window} tokens"]
    lines += [
        f"  A - B  {found.mean:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}",
        verdict(found, len(sizes)),
    ]
    if len(sizes) <= NAMED:
        lines += ["", "A - B of each document:"]
        lines += [
            f"  {name:<32} {each:+.4f}" for name, each in zip(names, bits - other, strict=True)
        ]
    return lines


def scores(run: Run, split: str, limit: int, allow_modules: Sequence[str] = ()) -> Results:
    """Quality over windows: from the run's records, where they are of just this, or else
    computed.
    """
    path, step = Path(run), restore.newest(Path(run) / "checkpoints")
    known = records.read(path / records.NAME).results if (path / records.NAME).exists() else []
    for each in known:
        if (each.source.step, each.source.split, each.fact("quality", "limit")) == (
            step,
            split,
            limit,
        ):
            return each
    config, model, step = load_model(run, allow_modules)
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, limit=limit))
    text = open_split(locate(config.data.path, config.model.vocab), split)
    loaded = LoadedRun(config, model, text, lambda line: print(line, flush=True))
    found = quality.windowed(loaded, quality.texts(text, limit))
    return Results(records.Source(path.name, "run", to_dict(config), step, split), ()).with_found(
        found
    )


def _documents(results: Results, what: str) -> tuple[Sequence[str], np.ndarray]:
    """Documents' names, and their bytes or their bits per byte."""
    (found,) = results.all("quality", f"document_{what}")
    return found.at["document"], np.array(found.value)


def verdict(found: Interval, documents: int) -> str:
    """Whether the interval leaves zero out, in words; B is what A is compared with."""
    if not math.isfinite(found.low):
        return "One document says nothing of others: no interval, and no verdict."
    if found.low <= 0 <= found.high:
        told = "No difference is shown: the interval holds 0."
    else:
        told = f"{'A' if found.mean < 0 else 'B'} is better: the interval leaves 0 out."
    few = (
        f" Of {documents} documents an interval comes out too narrow; trust it only where it "
        "is far from 0."
    )
    return told + few * (documents < FEW) + " One seed each: other seeds may differ by as much."
