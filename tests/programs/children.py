"""What tests of programs run in processes of their own, which import no more than it needs."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

import jax

from seqarch.config import parse
from seqarch.runtime import cli
from seqarch.training import loop, rundir
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.logging import Logger


def signal_at(step: int, number: int) -> Callable[[Logger, dict], None]:
    """Logger.log that sends `number` to its own process with the row of `step`."""
    log = Logger.log

    def logs(self: Logger, row: dict) -> None:
        log(self, row)
        if row["step"] == step:
            os.kill(os.getpid(), number)

    return logs


def die_in_save(step: int) -> Callable:
    """Checkpointer.save that dies at the first file or directory that the save of `step` puts in
    its place.
    """
    save = Checkpointer.save

    def saves(self: Checkpointer, state) -> None:
        if int(state.step) == step:
            self._manager.wait_until_finished()
            sys.addaudithook(
                lambda event, _: (
                    os.kill(os.getpid(), signal.SIGKILL) if event == "os.rename" else None
                )
            )
        save(self, state)

    return saves


def interrupt_and_hang(_: Checkpointer) -> None:
    """Checkpointer.wait, on a storage that doesn't answer, when Ctrl-C comes a second time."""
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(600)


def cut_short(given: str, workdir: str, how: str) -> None:
    """Trains as the config `given` says, until it is cut short: test_interruptions."""
    if how == "save":
        Checkpointer.save = die_in_save(6)
    else:
        step, number = {
            "kill": (5, signal.SIGKILL),
            "twice": (4, signal.SIGINT),
            "term": (7, signal.SIGTERM),
        }[how]
        Logger.log = signal_at(step, number)
    if how == "twice":
        Checkpointer.wait = interrupt_and_hang
    sys.argv[1:] = []
    cli.run(lambda: loop.train(parse(json.loads(given)), workdir))


def go_on(run: str, interrupted: int | None) -> None:
    """Goes on with a run, in each process of a cluster: test_cluster.

    Process `interrupted` gets Ctrl-C before the first step.
    """

    @contextlib.contextmanager
    def interrupt(*_) -> Iterator[None]:
        if jax.process_index() == interrupted:
            os.kill(os.getpid(), signal.SIGINT)
        yield

    def main() -> None:
        if interrupted is not None:
            loop.Progress.compiling = interrupt
        loop.train(rundir.read_config(run), run)

    sys.argv[1:] = []
    cli.run(main)
