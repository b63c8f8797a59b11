"""Trains the runs of a sweep on this machine, and holds the sweep's directory meanwhile."""

import contextlib
import fcntl
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from seqarch.errors import UserError
from seqarch.runtime.progress import Say, print_line
from seqarch.runtime.workers import side_by_side
from seqarch.sweep.plan import PlannedRun, ensembles
from seqarch.sweep.work import End, Ended, work_together

LOCK = ".lock"  # name of a file in the sweep's directory, which shells' * leaves out
TRIES = 2  # starts of a run whose process is killed
WAIT_S = 60.0  # time for the workers of a sweep that was killed to save and end
ENSEMBLE = 1  # runs that a process trains at once
POLL_S = 0.5  # time between tries to take the lock


def train_here(
    runs: Sequence[PlannedRun], workers: int, ended: Ended, say: Say, ensemble: int = ENSEMBLE
) -> None:
    """Trains and measures runs in `workers` processes at once; with one worker in this process.

    Args:
      runs: those that are to be trained or measured.
      workers: processes at once.
      ended: is called with each run that has ended, its end, and the number of runs left.
      say: takes lines of progress.
      ensemble: the most runs that a process trains at once, by one program.

    Raises:
      UserError, OSError: the error of a run, once all others have saved and stopped.
      Stopped: at SIGTERM and Ctrl-C, likewise.
    """
    left = len(runs)

    def end(name: str, results: Sequence[End], _: int) -> None:
        nonlocal left
        for run, result in zip(by_name[name], results, strict=True):
            left -= 1
            ended(run, result, left)

    groups = ensembles(runs, ensemble, workers)
    by_name, killed = {group[0].name: group for group in groups}, []
    if workers == 1:
        for name, group in by_name.items():
            end(name, _named(group, functools.partial(work_together, group, say)), 0)
        return

    def again(name: str) -> bool:
        killed.append(name)
        more = killed.count(name) < TRIES
        if more:
            say(f"{name}: its process was killed; another one goes on with it")
        return more

    side_by_side(by_name, _work, workers, end, again)


def _work(group: Sequence[PlannedRun]) -> list[End]:
    """Trains and measures runs in a worker, which holds the directory as long as it does so."""
    with _shared(group[0].directory.parent):
        return _named(group, functools.partial(work_together, group, print_line))


def _named(group: Sequence[PlannedRun], call: Callable[[], list[End]]) -> list[End]:
    """Returns call(); puts the first run's name before the error of a user's mistake."""
    try:
        return call()
    except UserError as error:
        said, others = str(error), len(group) - 1
        if any(run.name in said for run in group):
            raise
        name = f"{group[0].name} and {others} more" if others else group[0].name
        raise UserError(f"{name}: {said}") from error


@contextlib.contextmanager
def held(workdir: Path, say: Say) -> Iterator[None]:
    """Holds a sweep's directory, which its workers share; the system releases it at their ends.

    Raises:
      UserError: where another sweep holds it for longer than its workers take to stop.
    """
    with (workdir / LOCK).open("a") as file:
        end, told = time.monotonic() + WAIT_S, False
        while not _try(file, fcntl.LOCK_EX):
            if time.monotonic() > end:
                raise UserError(
                    f"another sweep trains in {workdir}; wait for it, stop it, or give another "
                    "--workdir"
                )
            if not told:
                say(f"waiting for another sweep in {workdir} to stop")
                told = True
            time.sleep(POLL_S)
        _try(file, fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def _shared(workdir: Path) -> Iterator[None]:
    with (workdir / LOCK).open("a") as file:
        _try(file, fcntl.LOCK_SH)
        yield


def _try(file, kind: int) -> bool:
    """Returns False where another process holds the lock; True on file systems without locks."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True
