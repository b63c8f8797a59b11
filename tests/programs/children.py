"""What tests of programs run in processes of their own, which import no more than it needs."""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from seqarch.config import MeshConfig, parse
from seqarch.errors import UserError
from seqarch.runtime import cli
from seqarch.runtime.cluster import gather, join_cluster, together
from seqarch.runtime.process import quiet
from seqarch.training import loop, restore, rundir, sharded_step, sharding
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


@contextlib.contextmanager
def only_process_1(name: str, change: Callable) -> Iterator[None]:
    """In process 1 alone, `change` of what the function restore.NAME does."""
    with pytest.MonkeyPatch.context() as patch:
        if jax.process_index() == 1:
            patch.setattr(restore, name, change(getattr(restore, name)))
        yield


def fails(read: Callable) -> Callable:
    def reads(path: Path, item: str, name: str, struct: jax.ShapeDtypeStruct) -> jax.Array:
        if path.name == "2" and name == "model.embedding":
            raise restore.Damaged(f"{path} is damaged (of all processes this one alone sees it)")
        return read(path, item, name, struct)

    return reads


def other_bits(read: Callable) -> Callable:
    def reads(path: Path, item: str, name: str, struct: jax.ShapeDtypeStruct) -> jax.Array:
        array = read(path, item, name, struct)
        if path.name == "2" and name == "model.embedding":
            ones = np.ones(struct.shape, struct.dtype)
            return jax.make_array_from_callback(
                struct.shape, struct.sharding, lambda index: ones[index]
            )
        return array

    return reads


def other_record(read: Callable) -> Callable:
    return lambda path: read(path) | (dict(note="older") if path.name == "2" else {})


def fewer_steps(steps: Callable) -> Callable:
    return lambda directory: steps(directory)[:-1]


def pair(directory: str, probe: str, config: str) -> None:
    """Trains as the config `probe` says, then decides about checkpoints of `config`: test_cluster.

    It runs in each of two processes of a cluster.
    """
    quiet()
    join_cluster()
    loop.train(parse(json.loads(probe)), Path(directory) / "probe", progress=lambda line: None)
    given, mesh = parse(json.loads(config)), sharding.make_mesh(MeshConfig())
    jax.set_mesh(mesh)
    abstract = sharded_step.abstract_state(given, mesh)
    start = sharded_step.init_state(given, mesh, jax.random.key(0))
    assert not start.model.embedding[...].is_fully_addressable, "the parameters are not shared out"
    cases = [
        ("_read", fails, 1),
        ("_read", other_bits, 1),
        ("read_record", other_record, 1),
        ("steps", fewer_steps, 2),
    ]
    for number, (name, change, expected) in enumerate(cases):
        with Checkpointer(Path(directory) / str(number)) as checkpoints:
            for step in (1, 2):
                checkpoints.save(start._replace(step=start.step + step))
            checkpoints.wait()
            with only_process_1(name, change):
                said = []
                if expected == 1:
                    with pytest.raises(UserError, match="/2 is damaged.*--strict_restore"):
                        checkpoints.restore(abstract, strict=True)
                    assert restore.steps(checkpoints.directory) == [1, 2]
                state = checkpoints.restore(abstract, say=said.append)
            assert (int(state.step), len(said)) == (expected, 2 - expected), (change, said)
            # and what follows is saved by both
            checkpoints.save(state._replace(step=state.step + 3))
    agreements()
    (Path(directory) / "decided").touch()


def agreements() -> None:
    index = jax.process_index()
    assert gather("ab" * index) == ["", "ab"]

    def complain() -> int:
        if index == 1:
            raise UserError("no such file")
        return index

    with pytest.raises(UserError, match="process 1: no such file"):
        together(complain, UserError)
    assert together(lambda: index, UserError) == index
