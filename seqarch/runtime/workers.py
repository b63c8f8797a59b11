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
from multiprocessing.connection import Connection, wait
from typing import TypeVar

import jax

from seqarch.errors import NoResult, Stopped, UserError
from seqarch.provenance import cpus
from seqarch.runtime.process import how_ended, keep_memory, quiet, spawn
from seqarch.runtime.signals import StopRequests

T = TypeVar("T")

POLL_S = 0.5  # between looks at what asks to stop


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
    """Calls `work` on each member, `workers` at once.

    A member that comes to no result does not end the others. They also stop where this process is
    gone.

    Args:
      members: by name; they and `work` must be picklable.
      work: runs in a process of its own, on a share of the cores.
      workers: processes at once.
      say: takes a line for each member that is done.

    Raises:
      UserError, OSError: what else ended a member, when all have been told to stop, what trained
        has saved and none runs any more.
      Stopped: likewise, at SIGTERM and Ctrl-C.
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
    """A process at work on one member."""

    def __init__(self, name: str, member: T, work: Callable[[T], None], cores: list[int]):
        self.name, self.cores = name, cores
        self.process, self._pipe = spawn(_serve, work, member, cores)

    def result(self) -> str:
        """What there is to say of the work; raises what ended it before it was done."""
        self.process.join()
        try:
            error = self._pipe.recv()
        except (EOFError, OSError):
            error = self._death()
        if error is None:
            return "done"
        if isinstance(error, NoResult):
            return f"no result, {error}"
        raise error

    def _death(self) -> Exception:
        how, number = how_ended(self.process), -self.process.exitcode
        if how in ("SIGTERM", "SIGINT"):
            return Stopped("stopped; the same command goes on", number)
        if how == "SIGKILL":
            return UserError(
                f"the process of {self.name} was killed, perhaps for its memory; give "
                "--workers=1 and go on"
            )
        return RuntimeError(f"the process of {self.name} ended ({how}); see above")


def _ended(running: list[_Worker]) -> list[_Worker]:
    ready = wait([worker.process.sentinel for worker in running], timeout=POLL_S)
    return [worker for worker in running if worker.process.sentinel in ready]


def _serve(pipe: Connection, work: Callable[[T], None], member: T, cores: list[int]) -> None:
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
