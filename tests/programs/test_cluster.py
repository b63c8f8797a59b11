"""Several processes that train one model: stopped, interrupted, started again in another number, of
two minds about files.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from seqarch.config import Config, to_dict
from seqarch.errors import Stopped
from seqarch.runtime import peers
from seqarch.training import loop, restore, rundir
from seqarch.training.logging import read_rows
from tests.programs.test_probe_runs import config as probe
from tests.programs.test_train import config, corpus
from tests.training.test_checkpoint import CONFIG

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


def until(condition: Callable[[], bool]) -> None:
    """Waits until `condition` holds."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "nothing happens"
        time.sleep(0.05)


ENDLESS = 100_000  # steps, so that no run ends before it is stopped


def small(corpus: Path, steps: int = ENDLESS) -> Config:
    """Returns a config whose learning rate does not depend on the number of steps."""
    optim = dict(warmup=0, final_lr=1.0)
    save = dict(checkpoint=dict(every=20), eval=dict(every=0))
    return config(corpus, steps=steps, log_every=1, optim=optim, **save)


def losses(run: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in read_rows(run)}


def last(run: Path) -> int:
    """Returns the last step that is logged."""
    return max(losses(run), default=0)


def test_whatever_ends_two_processes_the_next_start_goes_on_where_one_process_would_be(
    corpus, tmp_path, monkeypatch
):
    """A run begins in one process, goes on in two, of which either is killed or asked to stop, and
    ends in one.

    What two processes compute again after a kill is the same to the bit. All losses agree with
    those of an uncut run of one process to 1e-5, far closer than those of two batches: the order of
    sums is all that differs.
    """
    run, quiet = tmp_path / "run", lambda line: None
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        asked = iter([0, 0, 0, signal.SIGTERM])
        patch.setattr(loop.StopRequests, "received", lambda self: next(asked))
        loop.train(small(corpus), run, progress=quiet)
    saved = 3
    assert list(losses(run)) == [1, 2, 3] and restore.steps(run / "checkpoints") == [saved]

    train = ["-c", f"from tests.programs import children; children.go_on({str(run)!r}, None)"]
    for victim in (1, 0):
        before = losses(run)
        with processes(2, *train) as started:
            until(lambda: max(restore.steps(run / "checkpoints")) > saved)  # noqa: B023
            until(lambda: last(run) > max(restore.steps(run / "checkpoints")) + 2)
            started[victim].kill()
            stderr = started[1 - victim].communicate(timeout=LIMIT)[1]
        assert stderr.startswith("error: another process of the cluster is gone"), stderr
        assert stderr.count("\n") == 1, stderr
        assert started[1 - victim].returncode == -signal.SIGABRT
        after = losses(run)
        assert all(before[step] == after[step] for step in before.keys() & after.keys())
        saved = max(restore.steps(run / "checkpoints"))
        assert last(run) > saved + 2

    before, starts = losses(run), len(rundir.read_record(run)["continued"])
    with processes(2, *train) as started:
        until(lambda: len(rundir.read_record(run)["continued"]) > starts)
        until(lambda: last(run) > max(before))
        started[1].send_signal(signal.SIGTERM)
        for code, _, stderr in ends(started):
            assert code == 143 and stderr.startswith("stopped at step"), stderr
            assert stderr.count("\n") == 1, stderr
    assert all(loss == losses(run)[step] for step, loss in before.items())
    step = max(restore.steps(run / "checkpoints"))
    assert list(losses(run)) == list(range(1, step + 1))

    with processes(2, "-c", train[1].replace("None", "1")) as started:
        assert [code for code, *_ in ends(started)] == [143, 130]
    begun, step = step, max(restore.steps(run / "checkpoints"))
    assert step - begun in (0, 1)  # the service may tell all of a signal only after the first step

    said = []
    loop.train(small(corpus, step + 3), run, progress=said.append)
    assert f"going on from step {step} of {step + 3}" in said
    loop.train(small(corpus, step + 3), tmp_path / "whole", progress=quiet)
    ours, whole = (list(losses(each).values()) for each in (run, tmp_path / "whole"))
    assert len(ours) == len(whole) == step + 3
    np.testing.assert_allclose(ours, whole, rtol=1e-5)
    assert min(abs(np.diff(whole))) > 1e-5 * max(whole)


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


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Path:
    """The directory in which two processes of a cluster have run `children.pair`."""
    directory = tmp_path_factory.mktemp("pair")
    given = [json.dumps(to_dict(each)) for each in (probe(), CONFIG)]
    program = f"from tests.programs import children; children.pair({str(directory)!r}, *{given})"
    with processes(2, "-c", program) as started:
        for code, _, stderr in ends(started):
            assert code == 0, stderr
    return directory


def test_processes_decide_as_one(pair):
    assert (pair / "decided").exists()


def test_two_processes_train_on_the_rows_of_one(pair, tmp_path):
    """The rows of a probe, which a text's are like."""
    loop.train(probe(), tmp_path, progress=lambda line: None)
    scores = ("step", "loss", "accuracy", "grad_norm", "learning_rate", "refused")
    for ours, theirs in zip(read_rows(pair / "probe"), read_rows(tmp_path), strict=True):
        ours, theirs = ({name: row[name] for name in scores} for row in (ours, theirs))
        assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = (read_rows(run)[-1] for run in (pair / "probe", tmp_path))
    assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-4)
