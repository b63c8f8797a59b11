"""Replays the schedule of an optimised TPU program and adds up its time.

Instructions run in their order, each for the cycles that libtpu estimates. Copies and collectives
that start early run beside them, one after the other; an instruction that waits for one that is not
over yet waits for the rest of it. What an instruction without an estimate takes is bounded by its
bytes (seqarch.costs.uncounted), a kernel by its schedule (seqarch.costs.bundles), or there is no
estimate of the program.
"""

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from seqarch.costs.bundles import KernelWork
from seqarch.costs.hlo import Computation, Instruction, Module
from seqarch.costs.links import Links, collective_seconds, collectives_within
from seqarch.costs.trips import Constants, initial_constants, lasting_constants, trips
from seqarch.costs.uncounted import COLLECTIVES, Uncounted, bound, is_free, target_of

HOST = "S(5)"  # of a layout: memory of the host, whose link has no rate here
BODY = re.compile(r'"body":"[^"]*"')  # a kernel's code, among its attributes
KERNEL = "tpu_custom_call"  # target of the custom call of a Pallas kernel
LOOP = ("body", "condition")
COPIES = ("copy", "slice", "dynamic-slice")  # that have a start and an end


class Rates(NamedTuple):
    """The rates of a device.

    Attributes:
      clock: cycles/s.
      bandwidth: bytes/s of its memory.
      links: those to other chips.
    """

    clock: float
    bandwidth: float
    links: Links | None


class Seconds(NamedTuple):
    """Seconds of a program, by what they are spent on.

    Attributes:
      computing: instructions whose cycles libtpu estimates.
      bounded: instructions that are bounded by their bytes or rows.
      kernels: Pallas kernels, the larger of their bundles and their bytes.
      copying: waiting for copies from and to the device's memory.
      linking: waiting for collectives.
    """

    computing: float = 0.0
    bounded: float = 0.0
    kernels: float = 0.0
    copying: float = 0.0
    linking: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return math.fsum(self)

    def plus(self, other: "Seconds") -> "Seconds":
        """Returns the seconds of both, one after the other."""
        return Seconds(*map(sum, zip(self, other, strict=True)))

    def times(self, trips: float) -> "Seconds":
        """Returns the seconds of a loop."""
        return Seconds(*(trips * each for each in self))


def replay(
    module: Module, rates: Rates, kernel: Callable[[str], KernelWork | None] = lambda name: None
) -> Seconds:
    """Returns the seconds of a program.

    A conditional takes as long as its longest branch, a loop as many turns as
    `seqarch.costs.trips` says.

    Args:
      module: the program.
      rates: those of a device.
      kernel: returns what the kernel of an instruction needs, by its name, or None.

    Raises:
      Uncounted: for a loop of unknown trips, another custom call, and whatever else nothing tells
        the time of; the message names the instruction.
    """
    return Replay(module, rates, kernel).computation(module.entry, {})


class Replay(NamedTuple):
    """A program, the rates at which it is replayed, and what its kernels need."""

    module: Module
    rates: Rates
    kernel: Callable[[str], KernelWork | None]

    def computation(self, computation: Computation, known: Constants) -> Seconds:
        """Returns the seconds of a computation; known: constants among its argument."""
        clock, ends = _Clock(), _ends(self.module, computation)
        for each in computation.instructions.values():
            started, ended = ends.get(each.name, ((), ()))
            for channel, seconds in started:
                clock.start(channel, "linking", seconds(self.rates.links))
            kind, _, stage = each.opcode.rpartition("-")
            if stage in ("start", "done") and kind in (*COPIES, *COLLECTIVES):
                self._asynchronous(computation, each, clock)
            elif not (is_free(each) or each.opcode in COLLECTIVES):
                clock.spend(self.own(computation, each, known))
            for channel in ended:
                clock.wait(channel)
        clock.wait_for_all()
        return clock.spent

    def own(self, around: Computation, each: Instruction, known: Constants) -> Seconds:
        """Returns the seconds of an instruction and of what it calls."""
        if each.opcode == "while":
            return self._loop(around, each, known)
        if each.opcode == "conditional" and each.branches:
            branches = [self.called(name) for name in each.branches]
            return max(branches, key=lambda seconds: seconds.total)
        if each.opcode == "call":
            return self.called(each.called["to_apply"])
        if each.opcode == "async-start":
            return self.called(each.called["calls"])
        if each.opcode in ("async-update", "async-done"):
            return Seconds()
        if (cycles := each.cycles) is not None:
            return Seconds(computing=cycles / self.rates.clock)
        if target_of(each) == KERNEL and (needs := self._needs(each)):
            issuing, moving = needs.bundles / self.rates.clock, needs.bytes / self.rates.bandwidth
            return Seconds(kernels=max(issuing, moving))
        least = bound(self.module, around, each)
        moving, within = least.bytes / self.rates.bandwidth, least.cycles / self.rates.clock
        return Seconds(bounded=max(moving, within))

    def _needs(self, kernel: Instruction) -> KernelWork | None:
        """Returns what a kernel needs; libtpu writes the schedule of equal kernels once."""
        return next(filter(None, map(self.kernel, (kernel.name, *self._equal(kernel)))), None)

    def _equal(self, kernel: Instruction) -> Iterator[str]:
        """Yields the names of kernels with the same code."""
        body = BODY.search(kernel.attributes)
        for computation in self.module.computations.values() if body else ():
            for each in computation.instructions.values():
                if target_of(each) == KERNEL and body[0] in each.attributes:
                    yield each.name

    def called(self, name: str) -> Seconds:
        return self.computation(self.module.computations[name], {})

    def _loop(self, around: Computation, loop: Instruction, known: Constants) -> Seconds:
        count = trips(self.module, loop, around, known)
        if count is None:
            raise Uncounted(f"%{loop.name} (a loop of unknown trips)")
        called = loop.called
        body, condition = (self.module.computations[called[part]] for part in LOOP)
        lasting = lasting_constants(body, initial_constants(loop, around, known))
        turn = self.computation(body, lasting).plus(self.computation(condition, lasting))
        return turn.times(count)

    def _asynchronous(self, around: Computation, each: Instruction, clock: "_Clock") -> None:
        """Starts a copy or a collective, or waits for it."""
        kind, _, stage = each.opcode.rpartition("-")
        if stage == "done":
            clock.wait(each.operands[0])
        elif HOST in each.shape:
            raise Uncounted(f"%{each.name} (a copy from or to the host)")
        elif kind in COLLECTIVES:
            clock.start(each.name, "linking", collective_seconds(around, each, self.rates.links))
        else:
            users = around.instructions.values()
            done = next((user for user in users if user.operands[:1] == (each.name,)), each)
            clock.start(each.name, "copying", done.bytes / self.rates.bandwidth)


def _ends(module: Module, computation: Computation) -> Mapping[str, tuple]:
    """Returns the collectives that begin before an instruction and those that end after it.

    They are those without a start and a done of their own: whole ones, and those that libtpu
    spreads over fusions.
    """
    spans: dict[str, list] = {}
    for each in computation.instructions.values():
        for channel, around, collective in collectives_within(module, computation, each):
            seconds = functools.partial(collective_seconds, around, collective)
            spans.setdefault(channel, [each.name, seconds, each.name])[2] = each.name
    ends: dict[str, tuple] = {}
    for channel, (first, seconds, last) in spans.items():
        ends.setdefault(first, ([], []))[0].append((channel, seconds))
        ends.setdefault(last, ([], []))[1].append(channel)
    return ends


class _Clock:
    """The time in a computation, and what runs beside its instructions.

    Attributes:
      spent: seconds so far.
    """

    def __init__(self):
        self.spent = Seconds()
        self._free = dict(copying=0.0, linking=0.0)  # when memory and links have no more to do
        self._running: dict[str, tuple[str, float]] = {}

    def spend(self, seconds: Seconds) -> None:
        """Lets time pass."""
        self.spent = self.spent.plus(seconds)

    def start(self, name: str, kind: str, seconds: float) -> None:
        """Starts what runs beside the instructions, after all else of its kind."""
        self._free[kind] = max(self._free[kind], self.spent.total) + seconds
        self._running[name] = kind, self._free[kind]

    def wait(self, name: str) -> None:
        """Waits until what was started is over."""
        if name in self._running:
            kind, end = self._running.pop(name)
            self.spend(Seconds(**{kind: max(0.0, end - self.spent.total)}))

    def wait_for_all(self) -> None:
        """Waits for whatever still runs."""
        for name in list(self._running):
            self.wait(name)
