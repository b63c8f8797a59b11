"""Trains the runs of a sweep on SLURM, as one array of jobs (submitit).

A job that SLURM preempts or that runs out of time saves, is queued again, and goes on from there.
Which job has which run is kept in the sweep's directory, so that the same command watches the jobs
that are queued already instead of submitting them twice.
"""

import os
import re
import shlex
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqarch.errors import Stopped, UserError, first_line, unknown
from seqarch.files import find_json, write_json
from seqarch.patterns import literal
from seqarch.provenance import ROOT
from seqarch.runtime.accelerator import check_accelerator
from seqarch.runtime.process import keep_memory, quiet
from seqarch.runtime.progress import Say, print_line
from seqarch.runtime.signals import StopRequests
from seqarch.sweep.plan import PlannedRun
from seqarch.sweep.work import End, Ended, find_end, work

FOLDER = ".slurm"  # in the sweep's directory: scripts, logs, and JOBS
JOBS = "jobs.json"  # the job of each run that was submitted
TIMEOUTS = 100  # times that a job is queued again because its time was over
KILLED_AFTER_S = 60.0  # time within which SLURM kills or signals a job that had SIGTERM
POLL_S = 2.0  # time between looks at the jobs


def train_on_slurm(
    runs: Sequence[PlannedRun], workdir: Path, options: str, ended: Ended, say: Say
) -> None:
    """Submits runs as an array of jobs, and waits for their ends.

    Args:
      runs: those that are to be trained or measured; their directories are absolute.
      workdir: the sweep's directory, on storage that all nodes share.
      options: of sbatch, by submitit's names, such as "partition=gpu gpus_per_node=1 time=240".
      ended: is called with each run that has ended, its end, and the number of runs left.
      say: takes lines of progress.

    Raises:
      UserError: where submitit or SLURM is missing, for an unknown option, and where runs failed,
        once all others have ended.
      Stopped: at SIGTERM and Ctrl-C; the jobs stay in the queue.
    """
    executor = make_executor(workdir, options)
    jobs = _queued(runs, workdir)
    if jobs:
        say(f"in SLURM's queue already: {len(jobs)}, by {workdir / FOLDER / JOBS}")
    if new := [run for run in runs if run.name not in jobs]:
        made = executor.map_array(Job(), new)
        jobs |= {run.name: job for run, job in zip(new, made, strict=True)}
        ids = {name: job.job_id for name, job in jobs.items()}
        write_json(workdir / FOLDER / JOBS, ids)
        say(f"submitted {len(new)} jobs; their logs are in {workdir / FOLDER}")
    failures = _wait({run.name: run for run in runs}, jobs, ended, say)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(runs)} runs failed: {'; '.join(failures)}; see the logs in "
            f"{workdir / FOLDER}"
        )


def make_executor(workdir: Path, options: str) -> Any:
    """Returns submitit's executor of a sweep.

    Raises:
      UserError: where submitit or SLURM is missing, and for an unknown option.
    """
    submitit = _submitit()
    try:
        executor = submitit.SlurmExecutor(workdir / FOLDER, max_num_timeout=TIMEOUTS)
    except RuntimeError as error:
        raise UserError(
            "--cluster=slurm finds no srun on this machine; start it on a login node of the cluster"
        ) from error
    given = dict(job_name="seqarch", time=24 * 60) | read_options(options)
    path = ":".join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    given |= dict(
        setup=[f"export PYTHONPATH={shlex.quote(path)}"], additional_parameters={"requeue": True}
    )
    try:
        executor.update_parameters(**given)
    except (ValueError, TypeError) as error:
        known = re.findall(r"- (\w+) \(default", str(error))
        wrong = [name for name in given if known and name not in known]
        if wrong:
            raise unknown("option in --cluster_options", wrong[0], known) from error
        raise UserError(f"--cluster_options {options!r}: {first_line(error)}") from error
    return executor


def read_options(text: str) -> dict[str, Any]:
    """Returns the options in a text such as "partition=gpu time=240".

    Raises:
      UserError: for a text that cannot be read.
    """
    found: dict[str, Any] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not (name and equals and value):
            raise UserError(
                f"cannot read {part!r} in --cluster_options; write 'partition=gpu time=240'"
            )
        found[name] = literal(value)
    return found


class Job:
    """What a job calls with its run; submitit pickles it."""

    def __call__(self, run: PlannedRun) -> End | UserError:
        """Trains and measures a run; returns the error of a user's mistake.

        submitit answers the signal that SLURM sends before it preempts a job, or before its time is
        over, by queueing the job again. During training that has to wait until the run is saved.
        """
        quiet()
        keep_memory()
        warned = getattr(signal, f"SIG{_submitit().JobEnvironment.USR_SIG}")
        requeue, outside = signal.getsignal(warned), signal.getsignal(signal.SIGTERM)
        asked: list[int] = []

        def stop(number: int, frame: Any) -> None:
            asked.append(number)
            if signal.getsignal(signal.SIGTERM) == outside:
                requeue(number, frame)  # nothing is in training
            os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(warned, stop)
        try:
            check_accelerator()
            return work(run, print_line)
        except UserError as error:
            return UserError(str(error))
        except Stopped:
            signal.signal(warned, requeue)
            if asked:
                requeue(asked[0], None)
            time.sleep(KILLED_AFTER_S)  # preempted or cancelled, as SLURM will show
            raise

    def checkpoint(self, run: PlannedRun) -> Any:
        """Returns what submitit puts in the queue again: the same, as runs go on by themselves."""
        return _submitit().helpers.DelayedSubmission(self, run)


def _queued(runs: Sequence[PlannedRun], workdir: Path) -> dict[str, Any]:
    """Returns the jobs of an earlier start that have not ended, by the names of their runs."""
    known = find_json(workdir / FOLDER / JOBS, {"*": str}) or {}
    make, queued = _submitit().SlurmJob, {}
    for run in runs:
        if run.name in known:
            job = make(workdir / FOLDER, known[run.name])
            if not job.done(force_check=True):
                queued[run.name] = job
    return queued


def _wait(
    runs: Mapping[str, PlannedRun], jobs: Mapping[str, Any], ended: Ended, say: Say
) -> list[str]:
    """Waits until all jobs have ended; returns a line for each run that failed."""
    left, failures = dict(jobs), []
    with StopRequests() as stops:
        while left:
            for name, job in list(left.items()):
                if not job.done():
                    continue
                del left[name]
                if end := find_end(runs[name]):
                    ended(runs[name], end, len(left))
                else:
                    failures.append(f"{name}: {_failure(job)}")
                    say(f"failed: {failures[-1]}")
            if number := stops.received():
                raise Stopped(
                    "stopped; the jobs stay in the queue, and the same command watches them", number
                )
            time.sleep(POLL_S if left else 0)
    return failures


def _failure(job: Any) -> str:
    """Returns why a job has no result, as one line."""
    error = job.exception()
    if error is None:
        found = job.result()
        return str(found) if isinstance(found, UserError) else "it has no records"
    return str(error).strip().splitlines()[-1][:200]


def _submitit() -> Any:
    """Returns the package submitit; raises UserError where it is not installed."""
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "--cluster=slurm needs submitit; pip install -r requirements-slurm.txt"
        ) from error
    return submitit
