"""Trackers for Weights & Biases and for Trackio, which has the same interface."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from seqarch.runtime.trackers import Scalar, tags

PROJECT = "seqarch"


class _Hosted:
    """A tracker for a package with `init`, `log` and `finish`; the first metrics call `init`.

    The run's name is its directory's, so that a later start continues the same run.
    """

    package: str

    def __init__(self, run_dir: Path, start: int, metrics: Mapping[str, Scalar]):
        del start
        self._run_dir, self._tags = Path(run_dir).resolve(), tags(metrics)
        self._module = importlib.import_module(self.package)
        self._facts: dict[str, Any] = {}
        self._begun = False

    def log(self, row: Mapping[str, float]) -> None:
        self._begin()
        values = {self._tags[name]: row[name] for name in row.keys() - {"step"}}
        self._module.log(values, step=row["step"])

    def texts(self, texts: Mapping[str, Any], step: int) -> None:
        del step
        self._facts |= texts

    def hparams(self, hparams: Mapping[str, Any]) -> None:
        self._facts |= hparams

    def close(self, success: bool) -> None:
        if self._begun:
            self._finish(self._module, success)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._init(self._module, "-".join(self._run_dir.parts[-2:]))

    def _init(self, module: ModuleType, name: str) -> None:
        module.init(project=PROJECT, name=name, config=self._facts, resume="allow")

    def _finish(self, module: ModuleType, success: bool) -> None:
        del success
        module.finish()


class Trackio(_Hosted):
    """A tracker for Trackio, which keeps runs in a directory of the user."""

    package = "trackio"


class Wandb(_Hosted):
    """A tracker for Weights & Biases."""

    package = "wandb"

    def _init(self, module: ModuleType, name: str) -> None:
        module.init(
            project=PROJECT,
            id=name,
            name=name,
            dir=str(self._run_dir),
            config=self._facts,
            resume="allow",
        )

    def _finish(self, module: ModuleType, success: bool) -> None:
        module.finish(exit_code=0 if success else 1)
