"""A finished run, or one under way, as values: what a notebook starts from. `seqarch.load_run` is
this.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from seqarch import records, tasks
from seqarch.config import Config
from seqarch.files import local_path
from seqarch.model import LanguageModel
from seqarch.records import Results
from seqarch.tasks.base import BITS_PER_BYTE
from seqarch.tasks.text.tokenizer import Tokenizer, kept
from seqarch.training.checkpoint import load_model
from seqarch.training.logging import read_rows


class Run(NamedTuple):
    """config: as train.py was given it; model: of the latest checkpoint, which is that of `step`

    metrics: the rows of metrics.jsonl, one a step
    results: what eval.py measured of this `step` (`seqarch.records`); None where it measured
      nothing, or another step
    tokenizer: between text and tokens; None where the task is not text
    """

    directory: Path
    config: Config
    model: LanguageModel
    step: int
    metrics: list[dict[str, Any]]
    results: Results | None
    tokenizer: Tokenizer | None

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """The steps whose row has `name`, such as "loss", and its values."""
        rows = [row for row in self.metrics if row.get(name) is not None]
        return [row["step"] for row in rows], [row[name] for row in rows]


def load_run(directory: str | os.PathLike, allow_modules: Iterable[str] = ()) -> Run:
    """Reads the run directory that train.py had as --workdir, and changes nothing in it.

    Args:
        directory: the run's directory.
        allow_modules: modules and packages of your own mixers that the run's config may have
            imported, such as ("my_mixers",); those that are imported already need not be named.

    Raises: UserError: where it is no run, has no checkpoint yet, the latest one is damaged, or its
        config
            names a module that is not allowed.
    """
    path = local_path(directory)
    config, model, step = load_model(path, allow_modules)
    tokenizer = kept(path) if tasks.find(config.task).score == BITS_PER_BYTE else None
    return Run(path, config, model, step, read_rows(path), _results(path, step), tokenizer)


def _results(path: Path, step: int) -> Results | None:
    if not (path / records.NAME).exists():
        return None
    found = records.read(path / records.NAME).results
    return next((each for each in found if each.source.step == step), None)
