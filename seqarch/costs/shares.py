"""What the time of an optimised TPU program is spent on: kernels, products, loops and the rest."""

import re
from collections import Counter
from collections.abc import Callable, Mapping

from seqarch.costs.bundles import KernelWork
from seqarch.costs.hlo import Computation, Instruction, Module
from seqarch.costs.schedule import COPIES, KERNEL, LOOP, Rates, Replay
from seqarch.costs.trips import Constants, initial_constants, lasting_constants, trips
from seqarch.costs.uncounted import COLLECTIVES, is_free, target_of

TOKENS = "loops over tokens"  # loops in a layer, but for their kernels
PRODUCTS = "products"  # fusions of a matrix product with what is elementwise around it
LAYERS = "rest of the layers"  # norms, activations, copies
OUTSIDE = "outside of the layers"  # embedding, loss, optimizer, and casts of parameters
NUMBER = re.compile(r"(\.\d+|\.clone|\.remat\d*)+$")  # behind a name


def seconds_by_part(
    module: Module,
    rates: Rates,
    kernel: Callable[[str], KernelWork | None],
    loops: tuple[int, int],
) -> Mapping[str, float]:
    """Returns the seconds of each part of a program, without those of waiting for copies.

    Args:
      module: the program.
      rates: those of a device.
      kernel: as for `seqarch.costs.schedule.replay`.
      loops: trips of the loops over micro-batches and over layers. Where there is none over layers,
        they count as outside of it.

    Raises:
      Uncounted: as `seqarch.costs.schedule.replay`.
    """
    walk = _Walk(Replay(module, rates, kernel), loops)
    walk.add(module.entry, {}, 1.0, OUTSIDE)
    return walk.found


class _Walk:
    """Adds up seconds by part.

    Attributes:
      found: the seconds so far.
    """

    def __init__(self, replay: Replay, loops: tuple[int, int]):
        self.found: Counter[str] = Counter()
        self._replay, (self._batches, self._layers) = replay, loops

    def add(self, around: Computation, known: Constants, times: float, part: str) -> None:
        """Adds a computation.

        Args:
          around: the computation.
          known: constants among its argument.
          times: how often it runs.
          part: what it belongs to: OUTSIDE, LAYERS or TOKENS.
        """
        for each in around.instructions.values():
            kind, _, stage = each.opcode.rpartition("-")
            waits = stage in ("start", "done") and kind in (*COPIES, *COLLECTIVES)
            if waits or is_free(each) or each.opcode in COLLECTIVES:
                continue
            if each.opcode == "while":
                self._loop(around, each, known, times, part)
            elif inner := self._called(each):
                self.add(inner, {}, times, part)
            else:
                seconds = self._replay.own(around, each, known).total
                self.found[self._name(each, part)] += times * seconds

    def _loop(
        self, around: Computation, loop: Instruction, known: Constants, times: float, part: str
    ) -> None:
        count = trips(self._replay.module, loop, around, known) or 1.0
        inner = TOKENS
        if part == OUTSIDE:
            inner = {self._batches: OUTSIDE, self._layers: LAYERS}.get(count, TOKENS)
        computations = [self._replay.module.computations[loop.called[name]] for name in LOOP]
        lasting = lasting_constants(computations[0], initial_constants(loop, around, known))
        for each in computations:
            self.add(each, lasting, times * count, inner)

    def _called(self, each: Instruction) -> Computation | None:
        """Returns the computation whose instructions stand for an instruction."""
        name = None
        if each.opcode in ("call", "async-start"):
            name = each.called.get("to_apply", each.called.get("calls"))
        elif each.opcode == "conditional" and each.branches:
            name = max(each.branches, key=lambda branch: self._replay.called(branch).total)
        return None if name is None else self._replay.module.computations[name]

    def _name(self, each: Instruction, part: str) -> str:
        if target_of(each) == KERNEL:
            return NUMBER.sub("", each.name)
        return PRODUCTS if part != TOKENS and self._is_product(each) else part

    def _is_product(self, each: Instruction) -> bool:
        if each.opcode in ("convolution", "dot"):
            return True
        called = self._replay.module.computations.get(each.called.get("calls", ""))
        inside = called.instructions.values() if called else ()
        return any(
            inner.opcode in ("convolution", "dot", "fusion") and self._is_product(inner)
            for inner in inside
        )
