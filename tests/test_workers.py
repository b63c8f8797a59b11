"""Members side by side: each on its share of the cores, and what ends one, or the program, ends all in order."""

import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqarch.comparison.workers import side_by_side
from seqarch.errors import Diverged, Stopped, UserError
from seqarch.training.signals import StopRequests

ROOT = Path(__file__).parents[1]
WAIT = 120

pytestmark = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")


def until(condition, what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def meet(directory: Path, name: str) -> None:
    """Writes its cores, and goes on when the other member has written its own, so only where both run at once."""
    (directory / name).write_text(" ".join(map(str, sorted(os.sched_getaffinity(0)))))
    until(lambda: len(list(directory.iterdir())) == 2, "the other member did not begin")


def end(how: str) -> None:
    if how == "diverges":
        raise Diverged("no finite loss")
    if how == "mistake":
        raise UserError("the text is too short")
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        with StopRequests() as stops:
            until(stops.received, "nobody asked it to stop")
        raise Stopped("saved", signal.SIGTERM)


def hang(directory: Path, name: str) -> None:
    """Until it is asked to stop, as training does; the file name.saved says that it was."""
    with StopRequests() as stops:
        (directory / name).write_text(str(os.getpid()))
        until(stops.received, "nobody asked it to stop")
    (directory / f"{name}.saved").touch()
    raise Stopped("saved", stops.received())


def main(directory: str) -> None:
    """What the tests below run in a process of its own."""
    try:
        side_by_side(dict(a="a", b="b"), functools.partial(hang, Path(directory)), 2, print)
    except Stopped as stopped:
        sys.exit(128 + stopped.signal)


def test_members_run_at_once_on_cores_of_their_own(tmp_path):
    said = []
    side_by_side(dict(a="a", b="b"), functools.partial(meet, tmp_path), 2, said.append)
    shares = [set((tmp_path / name).read_text().split()) for name in "ab"]
    assert not shares[0] & shares[1] and set.union(*shares) == {str(core) for core in os.sched_getaffinity(0)}
    assert len(said) == 2 and said[-1].endswith("0 of 2 members are left")


def test_a_member_without_a_result_does_not_end_the_others():
    said = []
    side_by_side({"first": "diverges", "second": "does well"}, end, 1, said.append)
    assert [line.split()[0] for line in said] == ["first", "second"]


@pytest.mark.parametrize("how, message", [("mistake", "^the text is too short$"), ("dies", "of bad ended by SIGKILL; .*--workers=1")])
def test_what_ends_a_member_is_told_in_a_line_and_stops_the_others(how, message, capfd):
    with pytest.raises(UserError, match=message):
        side_by_side({"other": "hangs", "bad": how}, end, 2, print)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_members_stop_with_the_program(number, tmp_path):
    command = [sys.executable, "-c", f"from tests import test_workers; test_workers.main({str(tmp_path)!r})"]
    program = subprocess.Popen(command, cwd=ROOT)
    until(lambda: len(list(tmp_path.iterdir())) == 2, "the members did not begin")
    program.send_signal(number)
    assert program.wait(WAIT) == (128 + number if number == signal.SIGTERM else -number)
    until(lambda: all((tmp_path / f"{name}.saved").exists() for name in "ab"), "a member was not told")
