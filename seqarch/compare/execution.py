"""Trains and measures the runs of a comparison, except for what their directories hold already."""

import math
from collections.abc import Collection
from pathlib import Path

from seqarch import records, tasks
from seqarch.config import Config, to_dict
from seqarch.config.values import with_fields
from seqarch.errors import Diverged, UserError
from seqarch.evals.evaluate import evaluate, source
from seqarch.records import Results
from seqarch.report.events import write_evaluation
from seqarch.runtime.progress import Progress
from seqarch.training import rundir
from seqarch.training.divergence import is_diverged
from seqarch.training.logging import read_rows
from seqarch.training.loop import train
from seqarch.training.solved import is_solved, last_step


def check(run: Path, config: Config) -> None:
    """Raises UserError for a directory that holds another run.

    A run of other `steps` is another one, since it has another learning-rate schedule.
    """
    rundir.check(run, config)
    before = rundir.config_before(run)
    if before and before.steps != config.steps:
        raise UserError(
            f"{run} holds a run of {before.steps} steps, the config has {config.steps}; give "
            "another --workdir"
        )


def validated(run: Path, config: Config, progress: Progress) -> float:
    """Returns the `last_score` of the run in a directory, which it trains first if need be."""
    check(run, config)
    if not finished(run, config):
        try:
            train(config, run, progress=progress.say)
        except Diverged as error:
            progress.say(str(error))
            return math.inf
        finally:
            progress.end()
    return last_score(run, config)


def last_score(run: Path, config: Config) -> float:
    """Returns the last score of a trained run on validation data.

    Lower is better: it is negated where higher is, and infinite where training diverged.
    """
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
    """Returns the records of the run in a directory, by the evaluators `only`.

    It trains and measures the run first if need be.

    Raises:
      UserError: where the directory holds another run.
      Diverged: where training diverges, or did before.
    """
    check(run, config)
    known = find(run, config, split)
    if not (wanted := missing(known, only)):
        progress.say("is there already")
        return known
    now = source(run.name, config, last_step(run, config), split)
    if known and not records.fresh(known.source, now):
        known, wanted = None, tuple(only)
    (run / records.NAME).unlink(missing_ok=True)
    _train(run, config, progress)
    # A run that was trained before may be measured with other options now.
    rundir.write_config(run, to_dict(config))
    results = evaluate(run, split=split, only=wanted, keep=known, progress=progress.say)
    write_evaluation(results, run)
    progress.end()
    return results


def failure(run: Path, config: Config, split: str) -> Results:
    """Returns the record of the run in a directory, which diverged and so has no score."""
    score = tasks.find(config.task).score
    record = records.Record(score.evaluator, score.metric, status="diverged")
    return Results(source(run.name, config, config.steps, split), (record,))


def finished(run: Path, config: Config) -> bool:
    """Returns whether the run was trained to its last step, or was stopped, or diverged.

    It is stopped where its task is solved (`eval.stop_when_solved`).
    """
    if not (rows := read_rows(run)):
        return False
    ended = rows[-1]["step"] == config.steps or is_solved(rows, config)
    return ended or diverged(run, config)


def diverged(run: Path, config: Config) -> bool:
    """Returns whether training was given up."""
    rows = read_rows(run)
    return bool(rows) and is_diverged(rows[-1], config.steps)


def with_choice(config: Config, *, lr: float | None = None, seed: int | None = None) -> Config:
    """Returns `config` with another learning rate, or another seed of initialisation and data."""
    fields = {} if lr is None else {"optim.lr": lr}
    if seed is not None:
        fields |= {"seed.model": seed, "seed.data": seed}
    return with_fields(config, fields)


def find(run: Path, config: Config, split: str) -> Results | None:
    """Returns the records of a trained run; None where none are of this config and split."""
    if not (run / records.NAME).exists():
        return None
    found = records.read(run / records.NAME).results
    step = last_step(run, config)
    wanted = records.Source(run.name, "run", to_dict(config), step, split)
    return next((each for each in found if records.answers(each.source, wanted)), None)


def missing(known: Results | None, only: Collection[str]) -> tuple[str, ...]:
    """Returns those of the evaluators `only` that have neither records nor facts."""
    there = () if known is None else (*known.evaluators, *known.source.facts)
    return tuple(name for name in only if name not in there)


def _train(run: Path, config: Config, progress: Progress) -> None:
    """Trains a run; raises Diverged where training diverges, or did before."""
    if diverged(run, config):
        raise Diverged(f"{run} diverged; move it away to train it once more")
    train(config, run, progress=progress.say)
