"""Trains the runs of a reproduction as a sweep, and collects their records."""

from collections.abc import Sequence
from pathlib import Path

from seqarch import records
from seqarch.compare import execution
from seqarch.config import parse
from seqarch.records import Results
from seqarch.runtime.progress import Say
from seqarch.sweep import hyper, local
from seqarch.sweep.hyper import Sweep
from seqarch.sweep.plan import PlannedRun, check, plan
from seqarch.sweep.run import SweepState, run
from studies.reproductions.base import (
    EVALUATOR,
    FIRST_SELECTION_SEED,
    RUN,
    SEARCH,
    Outcomes,
    Reproduction,
)

KIND = "reproductions"  # of the records file
FACTS = "reproduction"  # under which the facts of a run stand


def reproduce(study: Reproduction, workdir: Path, workers: int, say: Say) -> list[Results]:
    """Returns the records of a reproduction's runs, of which finished ones are not run again.

    Its runs are in `workdir`, with those of other reproductions; `workers` are trained at once.

    Raises:
      UserError: where a run cannot be trained.
      Stopped: at SIGTERM and Ctrl-C; the same call goes on.
    """
    found: list[Results] = []
    seeds = range(FIRST_SELECTION_SEED, FIRST_SELECTION_SEED + study.selection_seeds)
    if study.searches:
        for arm, fields in study.arms.items():
            sweep = _runs([fields], study.lrs, seeds)
            found += _trained(study, arm, sweep, SEARCH, workdir, workers, say)
    searched, fresh = Outcomes(found), range(study.seeds)
    for arm, fields in study.arms.items():
        lr = searched.learning_rate(arm) if study.searches else study.lrs[0]
        if study.seeds and lr is not None:
            sweep = _runs([fields], [lr], fresh)
            found += _trained(study, arm, sweep, RUN, workdir, workers, say)
    return found


def _runs(arms: Sequence, lrs: Sequence[float], seeds: Sequence[int]) -> Sweep:
    seeded = hyper.zipit([hyper.sweep("seed.model", seeds), hyper.sweep("seed.data", seeds)])
    return hyper.product([arms, hyper.sweep("optim.lr", lrs), seeded])


def _trained(
    study: Reproduction, arm: str, sweep: Sweep, kind: str, workdir: Path, workers: int, say: Say
) -> list[Results]:
    """Trains the runs of an arm, and returns their records under the arm's name."""
    split = "validation" if kind == SEARCH else "test"
    directory = workdir / study.name
    runs = plan(parse(study.config().to_dict()), sweep, directory, split, (EVALUATOR,))
    check(runs, directory)
    directory.mkdir(parents=True, exist_ok=True)
    with local.held(directory, say):
        state = SweepState(runs, directory, workers)
        say(f"{study.name}, {arm}: {len(state.left)} of {len(runs)} runs are left")
        run(state, lambda left, end: local.train_here(left, state.at_once, end, say), say)
    return [
        _named(each, study.name, arm, kind, state.ends[each.name].seconds or 0.0) for each in runs
    ]


def _named(each: PlannedRun, study: str, arm: str, kind: str, seconds: float) -> Results:
    """The records of a run under the name of its arm, with the reproduction it belongs to."""
    found = execution.find(each.directory, each.config, each.split)
    facts = {FACTS: dict(name=study, seconds=seconds)}
    return found.with_source(member=arm, kind=kind, facts=facts)


def by_reproduction(results: Sequence[Results]) -> dict[str, list[Results]]:
    """Returns the results of a records file by the name of their reproduction."""
    found: dict[str, list[Results]] = {}
    for each in results:
        found.setdefault(_reproduction(each), []).append(each)
    return found


def _reproduction(results: Results) -> str:
    return str(results.fact(FACTS, "name"))


def write(path: Path, results: Sequence[Results]) -> None:
    """Writes the records of a reproduction to a file, in which those of others stay."""
    records.replace(path, results, dict(kind=KIND), _reproduction)
