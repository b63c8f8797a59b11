"""Members side by side: each on its share of the cores, and what ends one, or the program, ends all
in order.
"""

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqarch.errors import Diverged, Stopped, UserError
from seqarch.provenance import cpus
from seqarch.runtime import cli
from seqarch.runtime.signals import StopRequests
from seqarch.runtime.workers import side_by_side

ROOT = Path(__file__).parents[2]
WAIT = 120

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity") or cpus() < 2, reason="no cores to share"
)


def until(condition, what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def meet(directory: Path, name: str) -> None:
    """Writes its cores, and goes on when the other member has written its own, so only where both
    run at once.
    """
    (directory / name).write_text(" ".join(map(str, sorted(os.sched_getaffinity(0)))))
    until(lambda: len(list(directory.iterdir())) == 2, "the other member did not begin")


def end(how: str) -> None:
    if how == "diverges":
        raise Diverged("no finite loss")
    if how == "mistake":
        raise UserError("the text is too short")
    if how == "full disk":
        raise OSError(28, os.strerror(28))
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        with StopRequests() as stops:
            until(stops.received, "nobody asked it to stop")
        raise Stopped("saved", signal.SIGTERM)


def train(directory: Path, name: str) -> None:
    """Until it is asked to stop, when it saves, as yet deaf to what asks once more."""
    with StopRequests() as stops:
        (directory / name).touch()
        until(stops.received, "nobody asked it to stop")
        (directory / f"{name}.saved").touch()
    raise Stopped("saved", stops.received())


def main(directory: str) -> None:
    """What the test of signals runs in a process of its own."""
    sys.argv[1:] = []
    cli.run(
        lambda: side_by_side(
            dict(a="a", b="b"), functools.partial(train, Path(directory)), 2, print
        )
    )


def test_members_run_at_once_on_cores_of_their_own(tmp_path):
    said = []
    work = functools.partial(meet, tmp_path)
    side_by_side(dict(a="a", b="b"), work, 2, lambda *end: said.append(end))
    shares = [set((tmp_path / name).read_text().split()) for name in "ab"]
    assert not shares[0] & shares[1] and len(shares[0]) == len(shares[1]) == cpus() // 2
    assert len(said) == 2 and said[-1][1:] == (None, 0)


def test_a_member_without_a_result_does_not_end_the_others():
    said = {}

    def ended(name, result, left):
        said[name] = result

    side_by_side({"first": "diverges", "second": "does well"}, end, 1, ended)
    assert isinstance(said["first"], Diverged) and said["second"] is None


def die_once(path: Path) -> int:
    """Kills its process at the first call, and returns the process at the second."""
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def test_a_killed_job_starts_again_where_asked_and_a_process_takes_job_after_job(tmp_path):
    jobs, killed, ended = {name: tmp_path / name for name in "ab"}, [], {}
    jobs["c"] = jobs["b"]

    def again(name):
        killed.append(name)
        return killed.count(name) < 2

    side_by_side(jobs, die_once, 1, lambda *end: ended.update({end[0]: end[1:]}), again)
    assert killed == ["a", "b"] and ended["c"] == (ended["b"][0], 0)


@pytest.mark.parametrize(
    "how, error, message",
    [
        ("mistake", UserError, "^the text is too short$"),
        ("dies", UserError, "bad was killed"),
        ("full disk", OSError, "No space"),
    ],
)
def test_what_ends_a_member_is_told_in_a_line_and_stops_the_others(how, error, message, capfd):
    with pytest.raises(error, match=message):
        side_by_side({"other": "hangs", "bad": how}, end, 2, print)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "number, everyone, trains",
    [
        (signal.SIGTERM, False, True),
        (signal.SIGKILL, False, True),
        (signal.SIGINT, True, True),
        (signal.SIGINT, True, False),
        (signal.SIGTERM, True, False),
    ],
)
def test_members_stop_with_the_program(number, everyone, trains, tmp_path):
    """everyone: the signal goes to the whole group, as a terminal or a scheduler sends it; trains:
    when all are at work.
    """
    command = [
        sys.executable,
        "-c",
        f"from tests.runtime import test_workers; test_workers.main({str(tmp_path)!r})",
    ]
    program = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        if trains:
            until(lambda: len(list(tmp_path.iterdir())) == 2, "the members did not begin")
        else:
            until(
                lambda: (
                    subprocess.run(["pgrep", "-P", str(program.pid)], capture_output=True).stdout
                ),
                "no process was begun",
            )
            time.sleep(0.3)
        (os.killpg if everyone else os.kill)(program.pid, number)
        stderr = program.communicate(timeout=WAIT)[1]  # once all are gone that could write to it
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
    assert program.returncode == (-number if number == signal.SIGKILL else 128 + number), stderr
    assert len(stderr.splitlines()) == (number != signal.SIGKILL), stderr
    assert not trains or {path.name for path in tmp_path.iterdir()} == {
        "a",
        "b",
        "a.saved",
        "b.saved",
    }
