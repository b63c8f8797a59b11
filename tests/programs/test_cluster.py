"""Several processes that train one model: stopped, interrupted, started again in another number, of
two minds about files.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from seqarch.config import MeshConfig
from seqarch.errors import UserError
from seqarch.runtime import peers
from seqarch.runtime.cluster import gather, together
from seqarch.training import loop, restore, rundir, sharding
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.logging import read_rows
from tests.programs.test_train import corpus
from tests.training.test_checkpoint import CONFIG, STREAM

ROOT = Path(__file__).parents[2]
__all__ = ["corpus"]
LIMIT = 240  # seconds after which what still runs counts as hanging, also on a busy machine


@contextlib.contextmanager
def processes(count: int, *arguments: str) -> Iterator[list[subprocess.Popen]]:
    """`python ARGUMENTS` as `count` processes of one cluster, each with one CPU device; killed at
    the end.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    env = os.environ | dict(
        JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES=str(count), JAX_NUM_CPU_DEVICES="1"
    )
    env |= dict(JAX_CPU_COLLECTIVES_IMPLEMENTATION="gloo", TF_CPP_MIN_LOG_LEVEL="2")
    options = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    command = [sys.executable, *arguments]
    started = [
        subprocess.Popen(command, env=env | dict(JAX_PROCESS_ID=str(index)), **options)
        for index in range(count)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            print(*process.communicate())  # shown where a test fails


def ends(started: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    said = [process.communicate(timeout=LIMIT) for process in started]
    return [(process.returncode, *texts) for process, texts in zip(started, said, strict=True)]


def test_stopped_and_interrupted_processes_go_on_where_a_single_one_would_be(corpus, tmp_path):
    """The losses of every step agree to 1e-5, far closer than those of two batches: the order of
    sums is all that differs.
    """
    run = tmp_path / "run"
    train = [
        "train.py",
        "--config=configs/lm.py:gru",
        f"--workdir={run}",
        f"--config.data.path={corpus}",
    ]
    train += [
        "--config.steps=80",
        "--config.batch=4",
        "--config.length=16",
        "--config.log_every=1",
        "--config.eval.every=0",
    ]
    train += [
        "--config.model.dim=16",
        "--config.model.mlp=16",
        "--config.model.layers=1",
        "--config.checkpoint.every=0",
    ]
    with processes(2, *train) as started:
        until = time.monotonic() + LIMIT
        while (
            not ((run / "metrics.jsonl").exists() and read_rows(run)) and time.monotonic() < until
        ):
            time.sleep(0.01)
        started[1].send_signal(signal.SIGTERM)
        for code, _, stderr in ends(started):
            assert (
                code == 143 and stderr.startswith("stopped at step") and stderr.count("\n") == 1
            ), stderr
    (step,) = restore.steps(run / "checkpoints")
    assert 0 < step < 80 and [row["step"] for row in read_rows(run)] == list(range(1, step + 1))

    with processes(2, *train) as started:
        until = time.monotonic() + LIMIT
        while not rundir.read_record(run)["continued"] and time.monotonic() < until:
            time.sleep(0.01)
        started[1].send_signal(signal.SIGTERM)  # before the first step of a run that goes on
        assert [code for code, *_ in ends(started)] == [143] * 2
    step = restore.steps(run / "checkpoints")[-1]

    with processes(2, *train) as started:
        until = time.monotonic() + LIMIT
        while read_rows(run)[-1]["step"] <= step and time.monotonic() < until:
            time.sleep(0.01)
        started[1].send_signal(signal.SIGINT)
        assert [code for code, *_ in ends(started)] == [143, 130]
    step = restore.steps(run / "checkpoints")[-1]
    assert step < 80

    with processes(4, *train) as started:
        done = ends(started)
    assert [(code, stderr) for code, _, stderr in done] == [(0, "")] * 4
    assert f"going on from step {step} of 80" in done[0][1]
    loop.train(rundir.read_config(run), tmp_path / "whole", progress=lambda line: None)
    ours, whole = ([row["loss"] for row in read_rows(each)] for each in (run, tmp_path / "whole"))
    assert len(ours) == len(whole) == 80
    np.testing.assert_allclose(ours, whole, rtol=1e-5)
    assert min(abs(np.diff(whole))) > 1e-5 * max(whole)


def test_survivors_end_within_a_minute_in_one_line_and_the_next_start_goes_on_bit_for_bit(
    corpus, tmp_path
):
    def train(run: Path) -> list[str]:
        command = [
            "train.py",
            "--config=configs/lm.py:gru",
            f"--workdir={run}",
            f"--config.data.path={corpus}",
        ]
        command += [
            "--config.steps=160",
            "--config.batch=4",
            "--config.length=16",
            "--config.log_every=1",
        ]
        command += ["--config.model.dim=16", "--config.model.mlp=16", "--config.model.layers=1"]
        return [*command, "--config.eval.every=0", "--config.checkpoint.every=20"]

    run, whole = tmp_path / "run", tmp_path / "whole"
    saved = 0
    for victim in (1, 0):
        with processes(2, *train(run)) as started:
            until = time.monotonic() + LIMIT
            while (
                max(restore.steps(run / "checkpoints"), default=0) <= saved
                and time.monotonic() < until
            ):
                time.sleep(0.01)
            started[victim].kill()
            stderr = started[1 - victim].communicate(timeout=60)[1]
            assert stderr.startswith("error: another process of the cluster is gone"), stderr
            assert stderr.count("\n") == 1 and started[1 - victim].returncode == -signal.SIGABRT, (
                stderr
            )
        saved = max(restore.steps(run / "checkpoints"))
        assert 0 < saved < 160
    for each in (run, whole):
        with processes(2, *train(each)) as started:
            assert [(code, stderr) for code, _, stderr in ends(started)] == [(0, "")] * 2
    ours, uncut = ([(row["step"], row["loss"]) for row in read_rows(each)] for each in (run, whole))
    assert ours == uncut and len(uncut) == 160


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"W0 slow\n", b"W0 slow\n"),
        (b"W0 cause\nF0 " + peers.MARK + b"\n*** stack ***\n", peers.LINE),
        (b"F0 Check failed: a == b\n" * 9999, b"F0 Check failed: a == b\n" * 9999),
    ],
)
def test_filter_replaces_an_abort_for_a_gone_process_and_nothing_else(written, shown):
    command = [sys.executable, "-I", "-S", peers.__file__]
    done = subprocess.run(command, input=written, capture_output=True, check=True)
    assert done.stderr == shown


def test_processes_decide_as_one(tmp_path):
    program = f"from tests.programs import test_cluster; test_cluster.main({str(tmp_path)!r})"
    with processes(2, "-c", program) as started:
        for code, _, stderr in ends(started):
            assert code == 0, stderr


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


def main(directory: str) -> None:
    """What the test above runs in each of two processes."""
    from seqarch.runtime.cluster import join_cluster
    from seqarch.runtime.process import quiet

    quiet()
    join_cluster()
    mesh = sharding.make_mesh(MeshConfig())
    jax.set_mesh(mesh)
    abstract, start = (
        sharding.abstract_state(CONFIG, mesh),
        sharding.init_state(CONFIG, mesh, jax.random.key(0)),
    )
    assert not start.model.embedding[...].is_fully_addressable, "the parameters are not shared out"
    cases = [
        ("_read", fails, 1),
        ("_read", other_bits, 1),
        ("read_record", other_record, 1),
        ("steps", fewer_steps, 2),
    ]
    for number, (name, change, expected) in enumerate(cases):
        with Checkpointer(Path(directory) / str(number), 2, STREAM) as checkpoints:
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
            checkpoints.save(
                state._replace(step=state.step + 3)
            )  # and what follows is saved by both
    agreements()


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
