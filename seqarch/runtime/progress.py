"""Reports the progress of work: what is done, its rate, and the time that is left.

    with Progress(1000, "step", rate="tokens/s", scale=4096) as progress:
        with progress.compiling("the train step"):
            ...
        progress.advance(10, "loss 2.9")  # [step 10/1,000, 41,000 tokens/s, 99 s left] loss 2.9

On a terminal it shows a bar, elsewhere it prints lines, at most one every SAY_EVERY_S seconds.
Several threads may advance it.
"""

import contextlib
import multiprocessing
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax

from seqarch.runtime.stopwatch import Stopwatch

SAY_EVERY_S = 5.0  # time between lines of progress

Say = Callable[[str], None]


def print_line(line: str) -> None:
    """Prints a line and flushes it, on the first process of a cluster alone."""
    if jax.process_index() == 0:
        print(line, flush=True)


class Progress:
    """The progress of `total` units of work; a context manager.

    Args:
      total: units of work; the attribute may be changed during the work.
      unit: the word before the count, such as "step".
      done: units that are done already, which do not count for the rate.
      rate: the unit of the rate, such as "tokens/s"; "" shows no rate.
      scale: amount of the rate's unit in one unit of work, such as tokens per step.
      say: is called with lines; by default they are printed, with a bar where stdout is a terminal.
      console: of rich, for the bar; default: stdout.
    """

    _shown: ClassVar["Progress | None"] = None  # the one whose bar is on the terminal

    def __init__(
        self,
        total: float,
        unit: str = "",
        *,
        done: float = 0,
        rate: str = "",
        scale: float = 1.0,
        say: Say = print_line,
        console: Any = None,
    ):
        self.total, self.done = total, done
        self._unit, self._rate, self._scale, self._say = unit, rate, scale, say
        self._console, self._bar = console, None
        self._with_bar = console is not None or (say is print_line and _on_terminal())
        self._what, self._worked, self._busy = "", 0.0, 0.0
        self._said, self._watch, self._lock = -SAY_EVERY_S, Stopwatch(), threading.RLock()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bar, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar, Progress._shown = None, None

    def begin(self, what: str) -> None:
        """Begins a unit with a name; `end` counts it."""
        self._what = what
        self._watch.restart()
        if self._with_bar:
            self._update_bar("")

    def end(self) -> None:
        """Counts the unit that was begun as done, without printing a line."""
        self._count(1, self._watch.lap())
        if self._bar is not None and self.done == self.total:
            self.close()

    def advance(
        self,
        amount: float = 1,
        text: str = "",
        *,
        seconds: float | None = None,
        found: bool = False,
        always: bool = False,
    ) -> None:
        """Counts `amount` units as done.

        Args:
          amount: units.
          text: for the line or bar.
          seconds: their time; default: the time since the last units were done.
          found: whether they were done already, so that they do not count for the rate.
          always: whether the line is printed even if another one was printed just before.
        """
        with self._lock:
            if found:
                self._count(amount)
            else:
                self._count(amount, self._watch.lap() if seconds is None else seconds)
            self._show(text, always or self.done == self.total)

    def reach(self, done: float, total: float) -> None:
        """Counts up to `done` of `total`; the first call, with the compilation, has no rate."""
        first, self.total = self.done == 0, total
        self.advance(done - self.done, found=first)
        if first:
            self._watch.restart()

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Prints that `what` is compiled, and the time of it, which counts for no unit."""
        self.say(f"compiling {what}")
        if self._with_bar:
            self._update_bar(f"compiling {what}")
        watch = Stopwatch()
        yield
        self.say(f"compiled in {watch.seconds:.1f} s")
        self._watch.restart()

    def say(self, text: str) -> None:
        """Prints a line at once, with the current status if a unit was begun."""
        with self._lock:
            place = f"[{self._status()}] " if self._what else ""
            self._print(place + text)

    def _count(self, amount: float, seconds: float | None = None) -> None:
        """Counts units; `seconds` is None where they do not count for the rate."""
        self.done += amount
        self.total = max(self.total, self.done)
        if seconds is not None:
            self._worked += amount
            self._busy += seconds

    def _show(self, text: str, always: bool) -> None:
        """Updates the bar, or prints a line if SAY_EVERY_S have passed."""
        if self._with_bar:
            self._update_bar(text)
        if always or (not self._with_bar and time.monotonic() - self._said >= SAY_EVERY_S):
            self._said = time.monotonic()
            self._print(f"[{self._status()}] {text}".rstrip())
        if self.done == self.total:
            self.close()

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            self._say(line)

    def _status(self) -> str:
        current = 1 + self.done if self._what else self.done
        count = f"{current:,.0f}/{self.total:,.0f}" if current <= self.total else ""
        parts = [" ".join(filter(None, (self._unit, count, self._what)))]
        if self._rate and self._busy:
            parts.append(f"{self._scale * self._worked / self._busy:,.0f} {self._rate}")
        if self._worked and self.total > self.done:
            parts.append(f"{duration(self._seconds_left())} left")
        return ", ".join(parts)

    def _seconds_left(self) -> float:
        """Returns the time left at the rate so far, less that of the current unit so far."""
        whole = self._busy / self._worked * (self.total - self.done)
        return max(whole - (self._watch.seconds if self._what else 0), 0)

    def _update_bar(self, text: str) -> None:
        if self._bar is None:
            self._bar = self._open_bar()
        task = self._bar.task_ids[0]
        shown = f"{self._status()}  {text}".rstrip()
        self._bar.update(task, completed=self.done, total=self.total, description=shown)

    def _open_bar(self) -> Any:
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        if Progress._shown is not None:
            Progress._shown.close()
        Progress._shown = self
        text = TextColumn("{task.description}", markup=False)
        bar = Bar(BarColumn(20), text, console=self._console, transient=True)
        bar.add_task("", total=self.total)
        bar.start()
        return bar


def _on_terminal() -> bool:
    alone = multiprocessing.parent_process() is None and jax.process_index() == 0
    return alone and sys.stdout.isatty()


def duration(seconds: float) -> str:
    """Returns a time as text, such as "12.5 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
