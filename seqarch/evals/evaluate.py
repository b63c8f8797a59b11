"""Measures a run and writes its records to RUN/records.jsonl."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax

from seqarch import records, tasks
from seqarch.config import Config, to_dict
from seqarch.errors import UserError
from seqarch.evals import evaluator
from seqarch.evals.evaluator import SECONDS, TRAINING
from seqarch.evals.loaded_run import LoadedRun
from seqarch.provenance import provenance
from seqarch.records import Fact, Results, Source
from seqarch.runtime.progress import Say, print_line
from seqarch.training.loading import load_model
from seqarch.training.logging import trained_seconds


def evaluate(
    workdir: str | os.PathLike,
    *,
    split: str = "validation",
    only: Sequence[str] = (),
    keep: Results | None = None,
    allow_modules: Iterable[str] = (),
    progress: Say | None = None,
) -> Results:
    """Measures the latest checkpoint of the run in `workdir`.

    Args:
      workdir: the run's directory.
      split: the held-out data: "validation" or "test".
      only: names in config.evals; default: all of them.
      keep: records of other evaluators that the file is to hold beside the new ones; they must be
        `records.fresh`.
      allow_modules: modules and packages of mixers that the run's config may have imported.
      progress: takes lines that say what is being done; default: print.

    Returns:
      What RUN/records.jsonl then holds. The file is replaced, so that but for `keep` it never mixes
      two evaluations, and it is written after each evaluator, so that an interruption costs one.

    Raises:
      UserError: where `workdir` is no run, and for an unknown split, evaluator or option.
    """
    say = progress or print_line
    config, model, step = load_model(workdir, allow_modules)
    chosen = choose(config, only)
    run = LoadedRun(config, model, tasks.make_task(config).open(split), say)
    made = source(Path(workdir).name, config, step, split)
    results = Results(made, ()).with_found([Fact(TRAINING, SECONDS, trained_seconds(workdir))])
    if keep is not None:
        results = Results(keep.source, keep.records)
    for name in chosen:
        say(f"measuring {name}")
        found = evaluator.find(name).evaluate(run, **config.evals.get(name, {}))
        results = results.with_found(found)
        if jax.process_index() == 0:
            records.write(Path(workdir) / records.NAME, [results])
    return results


def choose(config: Config, only: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the evaluators of a config, or those of `only`.

    Raises:
      UserError: for one that is unknown, lacks an option, cannot measure what it is asked for, or
        does not measure what the config's task is scored by.
    """
    for name in only:
        evaluator.find(name)
    for name, options in config.evals.items():
        evaluator.check_options(name, options)
    chosen = tuple(only) or tuple(config.evals)
    for name in chosen:
        check_score(name, config.task)
        if check := evaluator.find(name).check:
            check(config, **config.evals.get(name, {}))
    return chosen


def check_score(name: str, task: str) -> None:
    """Raises UserError where an evaluator does not measure what a task is scored by."""
    scored, found = evaluator.find(name).score, tasks.find(task)
    if scored not in (None, found.score.metric):
        raise UserError(
            f"the evaluator {name} measures {scored}, the task {task} is scored by "
            f"{found.score.metric}; its evaluators are {', '.join(found.evaluators)}"
        )


def source(member: str, config: Config, step: int, split: str) -> Source:
    """Returns the source of the records of a run called `member`, measured by this process."""
    seeds = dict(model=config.seed.model, data=config.seed.data)
    made = provenance()
    kept = {name: made[name] for name in ("revision", "dirty", "versions", "devices", "command")}
    return Source(member, "run", to_dict(config), step, split, seeds, kept)
