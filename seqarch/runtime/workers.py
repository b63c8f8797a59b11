"""The pool of workers: processes that work on jobs in parallel, each on a share of a CPU's cores.

A small model gains little from a second core: with 8 x 256 tokens and 130 thousand parameters, one
core reaches 75 to 98 % of the tokens per second of two. Two runs in parallel train 1.2 to 1.55
times faster than one after the other.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import jax

from seqarch.errors import NoResult, Stopped, UserError
from seqarch.provenance import cpus
from seqarch.runtime import resident
from seqarch.runtime.process import how_ended, keep_memory, quiet, spawn
from seqarch.runtime.signals import StopRequests

T = TypeVar("T")

POLL_S = 0.5  # time between checks for a request to stop


def most_workers() -> int:
    """Returns the number of cores on a CPU; 1 on an accelerator and in a cluster."""
    on_cpu = jax.default_backend() == "cpu" and jax.process_count() == 1
    return cpus() if on_cpu and hasattr(os, "sched_setaffinity") else 1


def check_workers(given: int | None) -> int:
    """Returns --workers, or `most_workers` where it is None.

    Raises:
      UserError: where there are not so many cores.
    """
    if given is None:
        return most_workers()
    if not 1 <= given <= most_workers():
        raise UserError(
            f"--workers is {given}; give 1 to {most_workers()}: a core for each, or one for an "
            "accelerator"
        )
    return given


def side_by_side(
    jobs: Mapping[str, T],
    work: Callable[[T], Any],
    workers: int,
    ended: Callable[[str, Any, int], None],
    again: Callable[[str], bool] = lambda name: False,
) -> None:
    """Calls `work` on each job, in `workers` processes at once, each of which takes job after job.

    A job without a result (NoResult) does not end the others. The processes end with this one.

    Args:
      jobs: by name; they, `work` and what it returns must be picklable.
      work: runs in another process, on a share of the cores.
      workers: number of processes at once.
      ended: is called with the name of each job that is done, with what `work` returned or the
        NoResult that it raised, and with the number of jobs that are left.
      again: is called with the name of a job whose process was killed; returns whether the job
        starts again in another process.

    Raises:
      UserError, OSError: the error of a job, once all other jobs have saved and stopped.
      Stopped: likewise, at SIGTERM and Ctrl-C.
    """
    waiting, running = [*reversed(jobs.items())], []
    idle = [_Worker(work, cores) for cores in _shares(workers)]
    with StopRequests() as stops:
        try:
            while waiting or running:
                while waiting and idle:
                    running.append(idle.pop())
                    running[-1].begin(*waiting.pop())
                ready = _ready(running)
                if number := stops.received():  # before results, as the signal may end workers too
                    raise Stopped("stopped; the same command goes on", number)
                for worker in ready:
                    name, result = worker.name, worker.take()
                    running.remove(worker)
                    idle.append(worker)
                    if isinstance(result, _Killed) and again(name):
                        waiting.append((name, jobs[name]))
                        continue
                    if isinstance(result, Exception) and not isinstance(result, NoResult):
                        raise result
                    ended(name, result, len(waiting) + len(running))
        finally:
            for worker in (*idle, *running):
                worker.terminate()
            for worker in (*idle, *running):
                worker.join()


def _shares(workers: int) -> list[list[int]]:
    """Returns the cores of each worker."""
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // workers
    return [cores[index * size : (index + 1) * size] for index in range(workers)]


class _Killed(UserError):
    """The process of a job was killed."""


class _Worker:
    """A process that works on one job after the other, and that is replaced when it dies."""

    def __init__(self, work: Callable[[T], Any], cores: list[int]):
        self.name, self._work, self._cores = "", work, cores
        self._process, self.pipe = None, None

    def begin(self, name: str, job: T) -> None:
        """Begins a job, in a new process if there is none."""
        self.name = name
        if self._process is None or not self._process.is_alive():
            self._process, self.pipe = spawn(_serve, self._work, self._cores)
        with contextlib.suppress(OSError):  # if it died just now, `take` says so
            self.pipe.send(job)

    def take(self) -> Any:
        """Returns what the job's work returned, or its error."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            return self._death()

    def terminate(self) -> None:
        """Asks the process to end."""
        if self._process is not None:
            self._process.terminate()

    def join(self) -> None:
        """Waits until the process has ended."""
        if self._process is not None:
            self._process.join()

    def _death(self) -> Exception:
        process, self._process = self._process, None
        process.join()
        how, number = how_ended(process), -process.exitcode
        if how in ("SIGTERM", "SIGINT"):
            return Stopped("stopped; the same command goes on", number)
        if how == "SIGKILL":
            return _Killed(
                f"the process of {self.name} was killed, perhaps for its memory; give "
                "--workers=1 and go on"
            )
        return RuntimeError(f"the process of {self.name} ended ({how}); see above")


def _ready(running: list[_Worker]) -> list[_Worker]:
    ready = wait([worker.pipe for worker in running], timeout=POLL_S)
    return [worker for worker in running if worker.pipe in ready]


def _serve(pipe: Connection, work: Callable[[T], Any], cores: list[int]) -> None:
    """Answers jobs with what `work` returns, or its error, until the other end is closed."""
    os.sched_setaffinity(0, cores)  # before XLA sizes its thread pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet()
    keep_memory()
    with contextlib.suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        result = None
        while not isinstance(result, Stopped):
            job = pipe.recv()
            with contextlib.suppress(NoResult):  # each job has a peak of memory of its own
                resident.reset_peak()
            result = _result(work, job)
            pipe.send(result)


def _result(work: Callable[[T], Any], job: T) -> Any:
    try:
        return work(job)
    except (UserError, Stopped, OSError) as error:
        return error
    except KeyboardInterrupt:
        return Stopped("interrupted", signal.SIGINT)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
