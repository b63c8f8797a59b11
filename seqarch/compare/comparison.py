"""Runs a whole comparison: trains its members side by side, then measures one after the other."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from seqarch import records
from seqarch.compare.deadline import Deadline, OutOfTime
from seqarch.compare.probe_study import ProbeStudy
from seqarch.compare.probing import score_probes
from seqarch.compare.sizes import sized_members
from seqarch.compare.spec import ComparisonSpec
from seqarch.compare.study import Study
from seqarch.errors import NoResult, UserError
from seqarch.evals.baselines import BASELINES
from seqarch.evals.evaluate import choose
from seqarch.provenance import command, provenance
from seqarch.records import Results, Source
from seqarch.report.members import Comparison, Member
from seqarch.runtime.process import keep_compilations
from seqarch.runtime.progress import Progress, Say
from seqarch.runtime.workers import side_by_side
from seqarch.tasks import make_task


class Ending(NamedTuple):
    """The end of a comparison.

    Attributes:
      comparison: the members that have results.
      failures: a line for each member that has none.
      left: runs that were not begun before the deadline.
    """

    comparison: Comparison
    failures: list[str]
    left: int = 0


def studies(spec: ComparisonSpec, workdir: Path, deadline: Deadline = Deadline()) -> list[Study]:
    """Returns the study of each member; none where the comparison has nothing but probes.

    Raises:
      UserError: for a wrong text or evaluator, and for a directory that holds other runs.
    """
    if spec.only_probes:
        return []
    make_task(spec.base)
    choose(spec.base)
    found = []
    for name, (config, rung) in sized_members(spec).items():
        found.append(Study(name, config, spec, workdir, deadline, rung))
    for study in found:
        study.check()
    return found


def run(
    spec: ComparisonSpec,
    members: Sequence[Study],
    workdir: Path,
    workers: int,
    say: Say,
    probes: Sequence[ProbeStudy] = (),
) -> Ending:
    """Trains and measures all members and probes, except for what is done already.

    `workers` of them are trained at once.
    """
    keep_compilations()  # before anything is compiled, since JAX opens its cache once
    baselines = baseline_members(spec, workdir, say)
    _train_all(members, workers, say)
    found, failures = _measure(members)
    _train_all(probes, workers, say)
    scored = score_probes(probes)
    left = sum(study.left() for study in (*members, *probes))
    unfinished = [f"{left} of its runs are not run yet"] if left else []
    notice = "; ".join([spec.notice, *failures, *unfinished])
    title = f"Sequence mixers compared: {spec.name}"
    made = Comparison(title, notice, shlex.join(command()), (*found, *baselines), scored)
    return Ending(made, failures, left)


def _train_all(studies: Sequence[Study | ProbeStudy], workers: int, say: Say) -> None:
    """Trains studies side by side; one worker leaves that to the process that measures them."""
    untrained = {study.name: study for study in studies if not study.is_trained()}
    if not untrained or workers == 1:
        return

    def ended(name: str, result: Any, left: int) -> None:
        if not isinstance(result, OutOfTime):  # said with the results
            end = f"no result, {result}" if isinstance(result, NoResult) else "done"
            say(f"{name}: {end}; {left} of {len(untrained)} are left")

    side_by_side(untrained, _train, min(workers, len(untrained)), ended)


def _measure(members: Sequence[Study]) -> tuple[list[Member], list[str]]:
    """Returns the members with their records, and a line for each that has no result.

    There is no such line for a member whose runs are not finished at the deadline.
    """
    found, failures = [], []
    with Progress(sum(study.left() for study in members)) as progress:
        for index, study in enumerate(members, 1):
            try:
                found.append(study.measure(progress))
            except OutOfTime as error:
                progress.say(f"{study.name}: {error}")
            except NoResult as error:
                progress.say(f"no result: {error}")
                failures.append(f"{study.name} is missing: {error}")
            progress.total = progress.done + sum(study.left() for study in members[index:])
    return found, failures


def baseline_members(spec: ComparisonSpec, workdir: Path, say: Say) -> list[Member]:
    """Returns the task's baselines, scored on the bytes that models are scored on.

    Their records are kept in `workdir`/baselines.jsonl.

    Raises:
      UserError: where `workdir` holds runs on another text.
    """
    path, task = workdir / "baselines.jsonl", make_task(spec.base)
    if spec.only_probes or not task.baselines:
        return []
    fitted, held_out = task.open("train"), task.open(spec.split)
    scored = dict(documents=fitted.meta["splits"], split=spec.split, limit=spec.base.eval.limit)
    about, known = records.read(path) if path.exists() else ({}, [])
    if known and about["documents"] != scored["documents"]:
        raise UserError(
            f"{workdir} holds runs on another text, {about['text']} as it was; give another "
            "--workdir"
        )
    if {name: about.get(name) for name in scored} != scored:
        made = provenance()
        made = {name: made[name] for name in made if name not in ("host", "processes")}
        known = []
        for name in task.baselines:
            say(f"baseline {name}")
            source = Source(name, "baseline", split=spec.split, provenance=made)
            measured = BASELINES[name](fitted, held_out, limit=spec.base.eval.limit)
            known.append(Results(source, ()).with_found(measured))
        workdir.mkdir(parents=True, exist_ok=True)
        records.write(path, known, dict(text=str(fitted.directory), **scored))
    return [Member(each.source.member, "baseline", (each,)) for each in known]


def _train(study: Study | ProbeStudy) -> None:
    """Trains a study in a process of its own."""
    keep_compilations()
    study.train()
