"""Runs of a comparison, each in a directory of its own: trained and measured, or taken as they are found."""

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

from seqarch.comparison.progress import Progress
from seqarch.config import Config, to_dict
from seqarch.errors import Diverged, UserError
from seqarch.files import write_json
from seqarch.measure.evaluate import evaluate
from seqarch.training import rundir
from seqarch.training.logging import read_rows
from seqarch.training.loop import PATIENCE, train


def check(run: Path, config: Config) -> None:
    """Refuses a directory that holds another run; one with other `steps` would have another learning-rate schedule."""
    rundir.check(run, config)
    if (run / "config.json").exists() and (steps := rundir.read_config(run).steps) != config.steps:
        raise UserError(f"{run} holds a run of {steps} steps, the config has {config.steps}; give another --workdir")


def validated(run: Path, config: Config, progress: Progress) -> float:
    """Bits per byte that the run ends with on validation windows; infinite where training diverged."""
    check(run, config)
    if not settled(run, config):
        try:
            train(config, run, progress=progress.say)
        except Diverged as error:
            progress.say(str(error))
        progress.end()
    last = read_rows(run)[-1]
    bits = last.get("validation_bits_per_byte")  # null in the log where it is not finite
    return math.inf if _diverged(last) or bits is None else bits


def trained(run: Path, config: Config, progress: Progress) -> None:
    """Trains the run to its end."""
    check(run, config)
    train(config, run, progress=progress.say)
    progress.end()


def measured(run: Path, config: Config, split: str, only: Collection[str], progress: Progress) -> dict[str, Any]:
    """What the evaluators `only` say of the trained run on `split`; trained and measured first where it is not there."""
    check(run, config)
    values = _known(run, config, split, only)
    if values is not None:
        progress.say("is there already")
        return values
    train(config, run, progress=progress.say)
    write_json(run / "config.json", to_dict(config))  # a run that was trained before may be measured differently now
    values = evaluate(run, split=split, only=tuple(only), progress=progress.say)
    progress.end()
    return values


def settled(run: Path, config: Config) -> bool:
    """Whether the run was trained to its last step, or given up as it diverged."""
    last = (read_rows(run) or [{}])[-1]
    return last.get("step") == config.steps or _diverged(last)


def revision(made: dict[str, Any]) -> str:
    """Of run.json, or of `rundir.revision()`."""
    return (made["revision"] or "unknown") + (" (modified)" if made["dirty"] else "")


def with_choice(config: Config, *, lr: float | None = None, seed: int | None = None) -> Config:
    """`config` with another learning rate, or with `seed` as that of initialisation and of data order."""
    if lr is not None:
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=lr))
    if seed is not None:
        config = dataclasses.replace(config, seed=dataclasses.replace(config.seed, model=seed, data=seed))
    return config


def _known(run: Path, config: Config, split: str, only: Collection[str]) -> dict[str, Any] | None:
    """What eval.json of a finished run says, if it was measured as `config` wants it; else it is removed."""
    values = rundir.read_eval(run) or {}
    whole = set(only) <= {name.split("/")[0] for name in values} and values.get("quality/split") == split
    if whole and values.get("run/step") == config.steps and rundir.read_config(run).eval == config.eval:
        return values
    (run / "eval.json").unlink(missing_ok=True)
    return None


def _diverged(row: dict[str, Any]) -> bool:
    return row.get("refused", 0) >= PATIENCE
