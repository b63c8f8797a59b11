"""Progress: how much is done, how fast, and how long the rest will take."""

import io
import time

import pytest
from rich.console import Console

from seqarch.runtime.progress import Progress


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_time_left_follows_from_the_work_done(clock):
    said = []
    work = Progress(3, say=said.append)
    work.begin("a")
    work.say("is there already")
    work.begin("b")
    clock.now += 120
    work.say("training")
    work.end()
    work.begin("c")
    clock.now += 30
    work.say("measuring")
    work.end()
    work.say("done")
    assert said == [
        "[1/3 a] is there already", "[1/3 b] training", "[2/3 c, 3.5 min left] measuring",
        "[3/3 c, 1.2 min left] done",
    ]  # fmt: skip


def test_what_was_found_tells_nothing_of_the_pace(clock):
    said = []
    progress = Progress(100, say=said.append)
    progress.advance(80, "found", found=True)
    clock.now += 300
    progress.advance(5, "measured")
    assert said == ["[80/100] found", "[85/100, 15.0 min left] measured"]


def test_a_line_is_said_every_five_seconds_and_at_the_end(clock):
    said = []
    progress = Progress(10, "step", rate="tokens/s", scale=8, say=said.append)
    for step in range(1, 11):
        clock.now += 2
        progress.advance(1, f"loss {step}", always=step == 2)
    assert said == [
        "[step 1/10, 4 tokens/s, 18 s left] loss 1",
        "[step 2/10, 4 tokens/s, 16 s left] loss 2",
        "[step 5/10, 4 tokens/s, 10 s left] loss 5",
        "[step 8/10, 4 tokens/s, 4 s left] loss 8",
        "[step 10/10, 4 tokens/s] loss 10",
    ]


def test_compilation_is_said_and_does_not_spoil_the_estimate(clock):
    said = []
    progress = Progress(10, "step", say=said.append)
    with progress.compiling("the train step"):
        clock.now += 600
    clock.now += 6
    progress.advance(2)
    assert said == ["compiling the train step", "compiled in 600.0 s", "[step 2/10, 24 s left]"]


def test_the_first_call_of_a_counter_is_no_pace(clock):
    said = []
    progress = Progress(0, "tokens", rate="a second", say=said.append)
    clock.now += 60  # of which the most was compilation
    progress.reach(100, 1000)
    clock.now += 10
    progress.reach(200, 1000)
    assert said == ["[tokens 100/1,000]", "[tokens 200/1,000, 10 a second, 1.3 min left]"]


def test_on_a_terminal_it_is_a_bar_that_ends_with_the_work():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, _environ={})
    with Progress(2, "step", console=console, say=lambda line: pytest.fail(line)) as progress:
        progress.advance(1, "loss 2.9")
        assert Progress._shown is progress
        progress.say("saved [here]")
        progress.advance(1, "loss 2.8")
        assert Progress._shown is None
    text = screen.getvalue()
    assert "━" in text and "saved [here]" in text and "[step 2/2] loss 2.8" in text


def test_a_second_bar_takes_the_place_of_one_that_was_left(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, _environ={})
    for _ in range(2):
        progress = Progress(2, console=console)
        progress.advance()
    assert Progress._shown is progress
    progress.close()
