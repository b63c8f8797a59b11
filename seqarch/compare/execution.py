"""Runs of a comparison, each in a directory of its own: trained and measured, or taken as they are
found.
"""

import dataclasses
import math
from collections.abc import Collection
from pathlib import Path

from seqarch import records, tasks
from seqarch.config import Config, to_dict
from seqarch.errors import Diverged, UserError
from seqarch.evals.evaluate import evaluate, source
from seqarch.records import Results
from seqarch.runtime.progress import Progress
from seqarch.training import loop, rundir
from seqarch.training.logging import read_rows
from seqarch.training.loop import train


def check(run: Path, config: Config) -> None:
    """Refuses a directory that holds another run; one with other `steps` would have another
    learning-rate schedule.
    """
    rundir.check(run, config)
    if (run / "config.json").exists() and (
        steps := rundir.stored_config(run).steps
    ) != config.steps:
        raise UserError(
            f"{run} holds a run of {steps} steps, the config has {config.steps}; give another "
            "--workdir"
        )


def validated(run: Path, config: Config, progress: Progress) -> float:
    """Returns the score that the run ends with on validation data, negative where higher is better;
    infinite where training diverged.
    """
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
    score = tasks.find(config.task).score
    value = last.get(f"validation_{score.metric}")  # null in the log where it is not finite
    if value is None or not math.isfinite(value):
        return math.inf
    return value if score.lower else -value


def measured(
    run: Path, config: Config, split: str, only: Collection[str], progress: Progress
) -> Results:
    """Returns what the evaluators `only` find of the trained run; trains and measures first where
    it is not there.
    """
    check(run, config)
    known = find(run, config, split)
    if not (wanted := missing(known, only)):
        progress.say("is there already")
        return known
    if known and not records.fresh(known.source, source(run.name, config, config.steps, split)):
        known, wanted = None, tuple(only)
    (run / records.NAME).unlink(missing_ok=True)
    _train(run, config, progress)
    rundir.write_config(
        run, to_dict(config)
    )  # a run that was trained before may be measured differently now
    results = evaluate(run, split=split, only=wanted, keep=known, progress=progress.say)
    progress.end()
    return results


def finished(run: Path, config: Config) -> bool:
    """Whether the run was trained to its last step, or diverged."""
    rows = read_rows(run)
    return bool(rows) and (rows[-1]["step"] == config.steps or diverged(run, config))


def diverged(run: Path, config: Config) -> bool:
    """Whether training was given up."""
    rows = read_rows(run)
    return bool(rows) and loop.diverged(rows[-1], config.steps)


def with_choice(config: Config, *, lr: float | None = None, seed: int | None = None) -> Config:
    """`config` with another learning rate, or with `seed` as that of initialisation and of data
    order.
    """
    if lr is not None:
        config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=lr))
    if seed is not None:
        config = dataclasses.replace(
            config, seed=dataclasses.replace(config.seed, model=seed, data=seed)
        )
    return config


def find(run: Path, config: Config, split: str) -> Results | None:
    """The records of the trained run, where they are of just this config and split."""
    if not (run / records.NAME).exists():
        return None
    found = records.read(run / records.NAME).results
    asked = records.Source(run.name, "run", to_dict(config), config.steps, split)
    return next((each for each in found if records.answers(each.source, asked)), None)


def missing(known: Results | None, only: Collection[str]) -> tuple[str, ...]:
    """Those of the evaluators `only` that have no records."""
    return tuple(name for name in only if known is None or name not in known.evaluators)


def _train(run: Path, config: Config, progress: Progress) -> None:
    """Raises Diverged, also where it did before."""
    if diverged(run, config):
        raise Diverged(f"{run} diverged; move it away to train it once more")
    train(config, run, progress=progress.say)
