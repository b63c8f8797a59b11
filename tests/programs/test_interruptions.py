"""Whatever ends a run, the same command ends it where it would have ended, bit for bit; what must
not start is refused.
"""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from seqarch.config import Config, resolve, to_dict
from seqarch.errors import Stopped, UserError
from seqarch.training import loop, restore, sharded_step, sharding, storage
from seqarch.training.checkpoint import Checkpointer
from seqarch.training.logging import Logger, read_rows
from tests.programs.children import signal_at
from tests.programs.test_train import config, corpus

ROOT = Path(__file__).parents[2]
__all__ = ["corpus"]


def nine_steps(corpus: Path) -> Config:
    return config(corpus, steps=9, log_every=1)


def ends_alike(run: Path, other: Path) -> bool:
    records = [restore.read_record(each / "checkpoints" / "9") for each in (run, other)]
    losses = [[(row["step"], row["loss"]) for row in read_rows(each)] for each in (run, other)]
    return records[0] == records[1] and losses[0] == losses[1] and len(losses[0]) == 9


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("whole")
    loop.train(nine_steps(corpus), run, progress=lambda line: None)
    return run


def test_a_run_that_was_cut_short_again_and_again_ends_where_the_whole_one_ends(
    corpus, whole, tmp_path
):
    given, run = nine_steps(corpus), tmp_path / "run"
    ends = {}
    for how in ("kill", "twice", "save", "term"):
        program = (
            "from tests.programs import children; "
            f"children.cut_short({json.dumps(to_dict(given))!r}, {str(run)!r}, {how!r})"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=240
        )
        ends[how] = done.returncode, done.stderr, restore.steps(run / "checkpoints")
        if how == "save":
            assert [path for path in (run / "checkpoints").iterdir() if "tmp" in path.name]
    assert ends["twice"][:2] == (-signal.SIGINT, ""), ends
    assert ends["kill"][0] == ends["save"][0] == -signal.SIGKILL, ends
    assert 6 not in ends["save"][2]
    code, stderr, steps = ends["term"]
    assert code == 143 and stderr.startswith("stopped at step") and stderr.count("\n") == 1, ends
    assert steps[-1] == 8
    loop.train(given, run, progress=lambda line: None)
    assert ends_alike(run, whole)


def test_a_save_that_is_cut_off_anywhere_leaves_the_one_before(
    corpus, whole, tmp_path, monkeypatch
):
    """What lies on the disk whenever the saves of steps 6 and 9 are about to make, rename or remove
    something.
    """
    run, moments, watched = tmp_path / "run", [], threading.Event()

    def keep(event: str, arguments: tuple) -> None:  # audit hooks stay: this one is idle afterwards
        if (
            watched.is_set()
            and event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
            and str(run) in str(arguments[0])
        ):
            watched.clear()
            moments.append(tmp_path / str(len(moments)))
            subprocess.run(
                ["cp", "-r", run / "checkpoints", moments[-1]], stderr=subprocess.DEVNULL
            )  # others rename meanwhile
            watched.set()

    def saves(self: Checkpointer, state) -> None:
        if int(state.step) == 6:
            self.wait()
            watched.set()
        save(self, state)

    save = Checkpointer.save
    sys.addaudithook(keep)
    monkeypatch.setattr(Checkpointer, "save", saves)
    loop.train(nine_steps(corpus), run, progress=lambda line: None)
    watched.clear()
    assert len(moments) > 10
    stream, given = restore.read_record(run / "checkpoints/9")["stream"], nine_steps(corpus)
    mesh = sharding.make_mesh(given.mesh)
    abstract = sharded_step.abstract_state(resolve(given, mesh), mesh)
    found = []
    for moment in moments:
        with Checkpointer(moment, stream=stream) as checkpoints:
            found.append(int(checkpoints.restore(abstract, strict=True).step))
    assert found == sorted(found) and found[0] == 3 and 6 in found


def test_ctrl_c_saves_and_another_machine_is_told(corpus, whole, tmp_path, monkeypatch):
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with (
        monkeypatch.context() as patch,
        pytest.raises(Stopped, match="is saved; the same command goes on") as stopped,
    ):
        patch.setattr(Logger, "log", signal_at(4, signal.SIGINT))
        loop.train(nine_steps(corpus), tmp_path, progress=lambda line: None)
    assert stopped.value.signal == signal.SIGINT
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before

    record = json.loads((tmp_path / "run.json").read_text())
    record["versions"]["jaxlib"], record["host"]["cpus"] = "0.1", 99
    (tmp_path / "run.json").write_text(json.dumps(record))
    said = []
    loop.train(nine_steps(corpus), tmp_path, progress=said.append)
    warnings = [line for line in said if line.startswith("warning")]
    assert len(warnings) == 1 and "jaxlib 0.1 -> " in warnings[0] and "cpus 99 -> " in warnings[0]
    assert ends_alike(tmp_path, whole)


def test_a_request_to_stop_waits_for_the_last_save(corpus, tmp_path, monkeypatch):
    """Which is under way in another thread when the last step is done."""
    before, heard, wait = signal.getsignal(signal.SIGTERM), [], Checkpointer.wait

    def waits(self: Checkpointer) -> None:
        heard.append(signal.getsignal(signal.SIGTERM) != before)
        if heard == [True]:
            os.kill(os.getpid(), signal.SIGTERM)
        wait(self)

    monkeypatch.setattr(Checkpointer, "wait", waits)
    loop.train(config(corpus, steps=2), tmp_path, progress=lambda line: None)
    assert heard[0] and restore.steps(tmp_path / "checkpoints") == [2]


def test_a_file_system_without_locks_is_told_of(monkeypatch, tmp_path):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    said = []
    monkeypatch.setattr(storage.fcntl, "flock", flock)
    with storage.lock(tmp_path, said.append):
        assert len(said) == 1 and "cannot be locked (No locks available)" in said[0]


def test_a_second_process_on_a_run_is_refused_before_it_writes(corpus, tmp_path):
    with storage.lock(tmp_path), pytest.raises(UserError, match="another process trains in"):
        loop.train(nine_steps(corpus), tmp_path, progress=lambda line: None)
    assert {path.name for path in tmp_path.iterdir()} == {"lock"}
    with storage.lock(tmp_path):
        pass


def test_a_disk_that_fills_up_in_a_save_costs_no_older_one(corpus, whole, tmp_path, monkeypatch):
    full, save = threading.Event(), Checkpointer.save

    def refuse(
        event: str, arguments: tuple
    ) -> None:  # audit hooks stay: this one is idle once the disk has room again
        if full.is_set() and event == "os.rename" and str(tmp_path) in str(arguments[0]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def saves(self: Checkpointer, state) -> None:
        if int(state.step) == 6:
            self.wait()
            full.set()
        save(self, state)

    sys.addaudithook(refuse)
    monkeypatch.setattr(Checkpointer, "save", saves)
    with pytest.raises(
        UserError, match="disk of .* is full; free some space and the same command goes on"
    ):
        loop.train(nine_steps(corpus), tmp_path, progress=lambda line: None)
    full.clear()
    assert restore.steps(tmp_path / "checkpoints") == [3]
    monkeypatch.setattr(Checkpointer, "save", save)
    loop.train(nine_steps(corpus), tmp_path, progress=lambda line: None)
    assert ends_alike(tmp_path, whole)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        ValueError("RESOURCE_EXHAUSTED: No space left on device [OS error 28]"),
    ],
)
def test_a_full_disk_is_told_in_one_line(tmp_path, error):
    with (
        pytest.raises(UserError, match="disk of .* is full; free some"),
        storage.full_disk_told(tmp_path),
    ):
        try:
            raise error
        except Exception as cause:
            raise RuntimeError("a library's own words") from cause
    with pytest.raises(KeyError), storage.full_disk_told(tmp_path):
        raise KeyError("x")
