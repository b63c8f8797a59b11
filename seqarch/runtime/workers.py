"""Members side by side on a CPU: each in a process of its own, on a share of the cores.

A small model's step hardly gains from a second core: 8 x 256 tokens through 130 thousand parameters
take 75 to 98 % of two cores' tokens a second on one. Two members beside each other train 1.2 to
1.55 times faster than one after the other.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import TypeVar

import jax

from seqarch.errors import NoResult, Stopped, UserError
from seqarch.provenance import cpus
from seqarch.runtime.process import keep_memory, quiet
from seqarch.runtime.signals import StopRequests

T = TypeVar("T")

POLL = 0.5  # seconds between looks at what asks to stop


def most_workers() -> int:
    """One for each core of a CPU that JAX computes on; an accelerator, or a cluster, works on one
    member at a time.
    """
    alone = (
        jax.default_backend() != "cpu"
        or jax.process_count() > 1
        or not hasattr(os, "sched_setaffinity")
    )
    return 1 if alone else cpus()


def side_by_side(
    members: Mapping[str, T], work: Callable[[T], None], workers: int, say: Callable[[str], None]
) -> None:
    """Calls `work`, which must be picklable as members must be, on each member, `workers` at once.

    say: takes a line for each member that is done A member that comes to no result does not end the
    others. Raises any other UserError or OSError, and Stopped at SIGTERM and Ctrl-C, when all have
    been told to stop, what trained has saved and none runs any more. They also stop where this
    process is gone.
    """
    waiting, running = [*reversed(members.items())], []
    cores = sorted(os.sched_getaffinity(0))
    size = len(cores) // workers
    shares = [cores[index * size : (index + 1) * size] for index in range(workers)]
    with StopRequests() as stops:
        try:
            while waiting or running:
                while waiting and shares:
                    running.append(_Worker(*waiting.pop(), work, shares.pop()))
                ended = _ended(running)
                if number := stops.received():  # which may have ended them, too
                    raise Stopped("stopped; the same command goes on", number)
                for worker in ended:
                    running.remove(worker)
                    shares.append(worker.cores)
                    say(
                        f"{worker.name}: {worker.result()}; {len(running) + len(waiting)} of "
                        f"{len(members)} members are left"
                    )
        finally:
            for worker in running:
                worker.process.terminate()
            for worker in running:
                worker.process.join()


class _Worker:
    """A process at work on one member; spawned, as JAX's threads do not survive a fork."""

    def __init__(self, name: str, member: T, work: Callable[[T], None], cores: list[int]):
        self.name, self.cores = name, cores
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(work, member, cores, theirs))
        resource_tracker.ensure_running()  # which would unblock SIGINT
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # until `_serve` can answer it
        self.process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        theirs.close()

    def result(self) -> str:
        """What there is to say of the work; raises what ended it before it was done."""
        self.process.join()
        try:
            error = self._pipe.recv()
        except EOFError:
            error = self._death()
        if error is None:
            return "done"
        if isinstance(error, NoResult):
            return f"no result, {error}"
        raise error

    def _death(self) -> Exception:
        number = -self.process.exitcode
        if number in (signal.SIGTERM, signal.SIGINT):
            return Stopped("stopped; the same command goes on", number)
        if number == signal.SIGKILL:
            return UserError(
                f"the process of {self.name} was killed, perhaps for its memory; give "
                "--workers=1 and go on"
            )
        return RuntimeError(
            f"the process of {self.name} ended with exit code {self.process.exitcode}; see above"
        )


def _ended(running: list[_Worker]) -> list[_Worker]:
    ready = wait([worker.process.sentinel for worker in running], timeout=POLL)
    return [worker for worker in running if worker.process.sentinel in ready]


def _serve(work: Callable[[T], None], member: T, cores: list[int], pipe: Connection) -> None:
    """Runs in a worker: what ended the work goes through `pipe`, or None."""
    os.sched_setaffinity(0, cores)  # before XLA sizes its thread pool
    threading.Thread(target=_end_with_parent, daemon=True).start()
    quiet()
    keep_memory()
    ended = None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        work(member)
    except (UserError, Stopped, OSError) as error:
        ended = error
    except KeyboardInterrupt:
        ended = Stopped("interrupted", signal.SIGINT)
    with contextlib.suppress(BrokenPipeError):  # where nobody listens any more
        pipe.send(ended)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
