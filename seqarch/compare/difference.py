"""The difference of two runs: of their configs, and of their bits per byte with its interval."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqarch import records, tasks
from seqarch.config import to_dict
from seqarch.config.values import values_of
from seqarch.errors import UserError
from seqarch.evals import quality
from seqarch.evals.loaded_run import LoadedRun
from seqarch.evals.losses import texts
from seqarch.records import Results
from seqarch.report.difference import QualityDifference
from seqarch.runtime.progress import print_line
from seqarch.stats.bootstrap import paired_bootstrap
from seqarch.tasks import make_task
from seqarch.tasks.base import BITS_PER_BYTE
from seqarch.training import restore
from seqarch.training.loading import load_model
from seqarch.training.rundir import stored_config

RunPath = str | os.PathLike


def config_difference(a: RunPath, b: RunPath) -> dict[str, tuple[Any, Any]]:
    """Returns A's and B's values of the fields in which their configs differ, by dotted name."""
    ours, theirs = (values_of(stored_config(run)) for run in (a, b))
    names = dict.fromkeys((*ours, *theirs))
    pairs = {name: (ours.get(name), theirs.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def quality_difference(
    a: RunPath, b: RunPath, split: str, limit: int | None = None, allow_modules: Sequence[str] = ()
) -> QualityDifference:
    """Returns how the bits per byte of two runs differ.

    Args:
      a: the directory of a run.
      b: the directory of the run that it is compared with.
      split: the held-out text.
      limit: bytes of each document, 0 for all; default: the smaller of the runs' eval.limit.
      allow_modules: modules and packages of mixers that the runs' configs may have imported.

    Raises:
      UserError: where a directory is no run, and where the two would be scored on different bytes.
    """
    for run in (a, b):
        if (task := tasks.find(stored_config(run).task)).score != BITS_PER_BYTE:
            raise UserError(
                f"bits per byte are compared, and {run} is scored by {task.score.title}; give two "
                "runs on text, or show both by scripts/report.py"
            )
    if limit is None:
        limit = min((size for run in (a, b) if (size := stored_config(run).eval.limit)), default=0)
    ours, theirs = (scores(run, split, limit, allow_modules) for run in (a, b))
    if ours.fact("quality", "text") != theirs.fact("quality", "text"):
        sizes = [each.value("quality", "bytes") for each in (ours, theirs)]
        raise UserError(
            f"{a} is scored on {sizes[0]:,} bytes and {b} on {sizes[1]:,}, and they are not the "
            "same; give runs of the same text, and --limit=0 where their tokenizers differ"
        )
    names, sizes = _documents(ours, "bytes")
    bits, other = (_documents(each, "bits_per_byte")[1] for each in (ours, theirs))
    totals, windows = (
        (ours.value("quality", metric), theirs.value("quality", metric))
        for metric in ("bits_per_byte", "context")
    )
    interval = paired_bootstrap(bits - other, sizes)
    return QualityDifference(split, tuple(names), sizes, bits - other, totals, windows, interval)


def scores(run: RunPath, split: str, limit: int, allow_modules: Sequence[str] = ()) -> Results:
    """Returns quality over windows, from the run's records or computed where they have others.

    Args:
      run: the run's directory.
      split: the held-out text.
      limit: bytes of each document, 0 for all.
      allow_modules: modules and packages of mixers that the run's config may have imported.
    """
    path, wanted = Path(run), (restore.newest(Path(run) / "checkpoints"), split, limit)
    known = records.read(path / records.NAME).results if (path / records.NAME).exists() else []
    for each in known:
        if (each.source.step, each.source.split, each.fact("quality", "limit")) == wanted:
            return each
    config, model, step = load_model(run, allow_modules)
    config = dataclasses.replace(config, eval=dataclasses.replace(config.eval, limit=limit))
    text = make_task(config).open(split)
    loaded = LoadedRun(config, model, text, print_line)
    source = records.Source(path.name, "run", to_dict(config), step, split)
    return Results(source, ()).with_found(quality.windowed(loaded, texts(text, limit)))


def _documents(results: Results, metric: str) -> tuple[Sequence[str], np.ndarray]:
    """Returns the names of documents, and their "bytes" or "bits_per_byte"."""
    (found,) = results.all("quality", f"document_{metric}")
    return found.at["document"], np.array(found.value)
