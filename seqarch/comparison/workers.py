"""Members side by side on a CPU: each in a process of its own, on a share of the cores.

A small model's step hardly gains from a second core: 8 x 256 tokens through 130 thousand parameters take 75 to 98 % of two
cores' tokens a second on one. Two members beside each other train 1.2 to 1.55 times faster than one after the other.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import TypeVar

import jax

from seqarch import cli
from seqarch.errors import NoResult, Stopped, UserError
from seqarch.training.rundir import cpus
from seqarch.training.signals import StopRequests

T = TypeVar("T")

POLL = 0.5  # seconds between looks at what asks to stop


def most_workers() -> int:
    """One for each core of a CPU that JAX computes on; an accelerator, or a cluster, works on one member at a time."""
    alone = jax.default_backend() != "cpu" or jax.process_count() > 1 or not hasattr(os, "sched_setaffinity")
    return 1 if alone else cpus()


def side_by_side(members: Mapping[str, T], work: Callable[[T], None], workers: int, say: Callable[[str], None]) -> None:
    """Calls `work`, which must be picklable as members must be, on each member, `workers` at once.

    say: takes a line for each member that is done
    A member that comes to no result does not end the others. Raises any other UserError, and Stopped at SIGTERM and Ctrl-C,
    when all have been told to stop, what trained has saved and none runs any more. They also stop where this process is gone.
    """
    waiting, running = [*reversed(members.items())], []
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[index::workers] for index in range(workers)]
    with StopRequests() as stops:
        try:
            while waiting or running:
                while waiting and shares:
                    running.append(_Member(*waiting.pop(), work, shares.pop()))
                for member in _ended(running):
                    running.remove(member)
                    shares.append(member.cores)
                    member.check()
                    say(f"{member.name} is trained; {len(running) + len(waiting)} of {len(members)} members are left")
                if number := stops.received():
                    raise Stopped("stopped; the same command goes on", number)
        finally:
            for member in running:
                member.process.terminate()
            for member in running:
                member.process.join()


class _Member:
    """A process at work on one member; spawned, as JAX's threads do not survive a fork."""

    def __init__(self, name: str, member: T, work: Callable[[T], None], cores: list[int]):
        self.name, self.cores = name, cores
        context = multiprocessing.get_context("spawn")
        self._told, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(work, member, cores, theirs))
        self.process.start()
        theirs.close()

    def check(self) -> None:
        """Raises what ended the process before its work was done."""
        self.process.join()
        try:
            told = self._told.recv()
        except EOFError:
            raise UserError(self._death()) from None
        if told is not None:
            line, stopped = told
            raise Stopped(line, stopped) if stopped else UserError(line)

    def _death(self) -> str:
        code = self.process.exitcode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return f"the process of {self.name} ended {how}; the same command goes on; where memory was short, give --workers=1"


def _ended(running: list[_Member]) -> list[_Member]:
    ready = wait([member.process.sentinel for member in running], timeout=POLL)
    return [member for member in running if member.process.sentinel in ready]


def _serve(work: Callable[[T], None], member: T, cores: list[int], pipe: Connection) -> None:
    """Runs in a member's process: what ended the work goes through `pipe`, as a line and the signal if one did; or None."""
    os.sched_setaffinity(0, cores)  # before JAX has its threads
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cli.quiet()
    told = None
    try:
        work(member)
    except NoResult:
        pass  # the program comes to it again when it gathers what there is
    except UserError as error:
        told = str(error), None
    except Stopped as stopped:
        told = str(stopped), stopped.signal
    except KeyboardInterrupt:
        told = "interrupted", signal.SIGINT
    pipe.send(told)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGTERM)
