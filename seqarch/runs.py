"""Reads a run, finished or in progress, for a notebook; also as `seqarch.load_run`."""

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
from seqarch.training.loading import load_model
from seqarch.training.logging import read_rows


class Run(NamedTuple):
    """A run, as its directory has it.

    directory: of the run
    config: as the user gave it to train.py
    model: of the latest checkpoint
    step: of that checkpoint
    metrics: the rows of metrics.jsonl, one per step
    results: the records of eval.py for this `step`; None where there are none
    tokenizer: of the text; None where the task is not text
    """

    directory: Path
    config: Config
    model: LanguageModel
    step: int
    metrics: list[dict[str, Any]]
    results: Results | None
    tokenizer: Tokenizer | None

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """Returns the steps whose row has the metric `name`, such as "loss", and its values."""
        rows = [row for row in self.metrics if row.get(name) is not None]
        return [row["step"] for row in rows], [row[name] for row in rows]


def load_run(directory: str | os.PathLike, allow_modules: Iterable[str] = ()) -> Run:
    """Returns the run in a directory, which is only read.

    Args:
      directory: the --workdir of train.py.
      allow_modules: modules and packages of your own mixers that may be imported because the
        run's config names them, such as ("my_mixers",). Those that are imported already need
        not be given.

    Raises:
      UserError: where the directory is no run, has no checkpoint yet or a damaged one, or where
        its config names a module that is not allowed.
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
