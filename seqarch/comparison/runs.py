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
from seqarch.training import loop, rundir
from seqarch.training.logging import read_rows
from seqarch.training.loop import train


def check(run: Path, config: Config) -> None:
    """Refuses a directory that holds another run; one with other `steps` would have another learning-rate schedule."""
    rundir.check(run, config)
    if (run / "config.json").exists() and (steps := rundir.stored_config(run).steps) != config.steps:
        raise UserError(f"{run} holds a run of {steps} steps, the config has {config.steps}; give another --workdir")


def validated(run: Path, config: Config, progress: Progress) -> float:
    """Bits per byte that the run ends with on validation windows; infinite where training diverged."""
    check(run, config)
    if not finished(run, config):
        try:
            train(config, run, progress=progress.say)
        except Diverged as error:
            progress.say(str(error))
            return math.inf
        finally:
            progress.end()
    if diverged(run, config):
        return math.inf
    last = (read_rows(run) or [{}])[-1]
    bits = last.get("validation_bits_per_byte")  # null in the log where it is not finite
    return bits if bits is not None and math.isfinite(bits) else math.inf


def measured(run: Path, config: Config, split: str, only: Collection[str], progress: Progress) -> dict[str, Any]:
    """What the evaluators `only` say of the trained run on `split`; trained and measured first where it is not there."""
    check(run, config)
    values = known(run, config, split)
    if not (wanted := missing(values, only)):
        progress.say("is there already")
        return values
    if not _of_this_source(values):
        values, wanted = {}, tuple(only)
    (run / "eval.json").unlink(missing_ok=True)
    _train(run, config, progress)
    write_json(run / "config.json", to_dict(config))  # a run that was trained before may be measured differently now
    values = evaluate(run, split=split, only=wanted, keep=values, progress=progress.say)
    progress.end()
    return values


def finished(run: Path, config: Config) -> bool:
    """Whether the run was trained to its last step, or diverged."""
    rows = read_rows(run)
    return bool(rows) and (rows[-1]["step"] == config.steps or diverged(run, config))


def diverged(run: Path, config: Config) -> bool:
    """Whether training was given up."""
    rows = read_rows(run)
    return bool(rows) and loop.diverged(rows[-1], config.steps)


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


def known(run: Path, config: Config, split: str) -> dict[str, Any]:
    """What eval.json says of the trained run's `split`, where it was measured as `config` wants it."""
    values = rundir.read_eval(run) or {}
    whole = values.get("quality/split") == split and values.get("run/step") == config.steps
    return values if whole and rundir.stored_config(run).eval == config.eval else {}


def missing(values: dict[str, Any], only: Collection[str]) -> tuple[str, ...]:
    """Those of the evaluators `only` that `values` are not of."""
    return tuple(name for name in only if name not in {value.split("/")[0] for value in values})


def _of_this_source(values: dict[str, Any]) -> bool:
    """Whether they were measured by what runs now, as a revision tells: nothing does of a tree that was changed by hand."""
    now = rundir.revision()
    return now["dirty"] is False and now == {name: values.get(f"run/{name}") for name in now}


def _train(run: Path, config: Config, progress: Progress) -> None:
    """Raises Diverged, also where it did before."""
    if diverged(run, config):
        raise Diverged(f"{run} diverged; move it away to train it once more")
    train(config, run, progress=progress.say)
