"""Bounds of the time of instructions whose cycles libtpu does not tell.

They are those that move data: gathers, scatters, sorts, pads, copies of scalars, elementwise
instructions outside of fusions. Each takes as long as its bytes at the memory's bandwidth, or as
the rows and registers that the core moves, but at least LEAST cycles. Other instructions have no
bound.

Sorts stand before scatters, such as those of an embedding's gradient, which libtpu sorts by row. A
network that sorts n keys has log(n) (log(n) + 1) / 2 stages (Batcher 1968, "Sorting networks and
their applications"), in each of which every key is compared once. libtpu's need no more passes over
registers, whether or not they go through the device's memory in between.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from seqarch.costs.hlo import Array, Computation, Instruction, Module
from seqarch.errors import NoResult

LEAST = 100  # cycles; what libtpu estimates of the smallest copy within the core
LANES = 1024  # numbers that one vector instruction combines
REGISTER = 4096  # bytes that one vector instruction loads or stores
# Bundles of libtpu's own schedule on a v5e for each row that is read or written: 1,857 for a loop
# turn that gathers 128 rows of 4 KiB, 1,122 for one that adds 8 of them to a table.
GATHERED, SCATTERED = 16, 160
# Likewise for each register of each sorted array and each stage of a network: 3.2 to 8.3 in eleven
# sorts of 1,024 to 131,072 numbers, one to three arrays at once.
SORTED = 8
READS, WRITES = ("gather", "dynamic-slice", "slice"), ("scatter", "dynamic-update-slice")
COLLECTIVES = frozenset(
    "all-gather all-reduce reduce-scatter all-to-all collective-permute "
    "collective-broadcast".split()
)
FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all partition-id replica-id domain "
    "opt-barrier add-dependency".split()
)
FREE_CALLS = frozenset(  # targets that are notes to the compiler or name memory
    "AllocateBuffer AssumeGatherIndicesInBound AsyncCollectiveStart AsyncCollectiveDone "
    "ConcatBitcast GatherScatterIndicesBitpacked".split()
)
MOVES = frozenset(
    "copy pad reshape transpose broadcast iota concatenate reverse gather slice dynamic-slice "
    "scatter dynamic-update-slice select convert bitcast-convert reduce-precision compare and or "
    "xor not add subtract multiply divide remainder power maximum minimum clamp abs negate sign "
    "floor ceil round-nearest-afz round-nearest-even is-finite sqrt rsqrt cbrt exponential "
    "exponential-minus-one log log-plus-one logistic tanh tan cosine sine atan2 erf shift-left "
    "shift-right-logical shift-right-arithmetic popcnt count-leading-zeros real imag complex "
    "reduce reduce-window map sort".split()
)
TARGET = re.compile(r'custom_call_target="([^"]*)"')


class Bound(NamedTuple):
    """What an instruction needs at least; the larger part decides.

    Attributes:
      bytes: that it moves from and to the device's memory.
      cycles: of its rows, registers and combined numbers.
    """

    bytes: float
    cycles: float


class Uncounted(NoResult):
    """Nothing tells the time of an instruction; the message says of which."""


def is_free(instruction: Instruction) -> bool:
    """Returns whether an instruction takes no time."""
    return instruction.opcode in FREE or target_of(instruction) in FREE_CALLS


def target_of(instruction: Instruction) -> str:
    """Returns the target of a custom call; "" of another instruction."""
    match = TARGET.search(instruction.attributes)
    return match[1] if match and instruction.opcode == "custom-call" else ""


def describe(instruction: Instruction) -> str:
    """Returns an instruction in words, for a refusal."""
    target = target_of(instruction)
    what = f"a custom call of {target}" if target else f"a {instruction.opcode}"
    return f"%{instruction.name} ({what})"


def operands(around: Computation, instruction: Instruction) -> list[Instruction]:
    """Returns the instructions that make an instruction's operands."""
    names = (name for name in instruction.operands if name in around.instructions)
    return [around.instructions[name] for name in names]


def bound(module: Module, around: Computation, instruction: Instruction) -> Bound:
    """Returns the bound of an instruction without an estimate.

    Args:
      module: the program.
      around: the computation that it stands in.
      instruction: no loop, no call and no collective.

    Raises:
      Uncounted: where it does more than move data or combine numbers one by one.
    """
    if instruction.opcode == "fusion":
        return _of_fusion(module, instruction)
    if instruction.opcode not in MOVES:
        raise Uncounted(describe(instruction))
    cycles = _cycles(around, instruction)
    if instruction.opcode in WRITES:
        return _moving(2 * _update(around, instruction).arrays, cycles)
    if instruction.opcode in READS:
        return _moving(2 * instruction.arrays, cycles)
    given = (each for each in operands(around, instruction) if each.opcode != "constant")
    return _moving([*instruction.arrays, *_arrays(given)], cycles)


def _of_fusion(module: Module, fusion: Instruction) -> Bound:
    """Returns the bound of a fusion, by the arrays that cross its border.

    What a fused collective moves is not counted.
    """
    inside = module.computations[fusion.called["calls"]].instructions.values()
    computation, cycles = module.computations[fusion.called["calls"]], 0.0
    for each in inside:
        if each.opcode == "fusion":
            cycles += _of_fusion(module, each).cycles
        elif not (is_free(each) or each.opcode in COLLECTIVES):
            if each.opcode not in MOVES:
                raise Uncounted(f"%{fusion.name}, a fusion with {describe(each)}")
            cycles += _cycles(computation, each)
    if any(each.opcode in COLLECTIVES for each in inside):
        return Bound(0.0, cycles)
    given = (each for each in inside if each.opcode == "parameter")
    moved = [array for each in given for array in _used(computation, each)]
    writes = [each for each in inside if each.opcode in WRITES]
    for write in writes:
        moved += 2 * _update(computation, write).arrays
    return _moving(moved if writes else [*moved, *fusion.arrays], cycles)


def _used(inside: Computation, parameter: Instruction) -> Iterator[Array]:
    """Yields what a fusion reads of a parameter: of a table only the rows."""
    users = [each for each in inside.instructions.values() if parameter.name in each.operands]
    if all(each.opcode in READS and each.operands[0] == parameter.name for each in users):
        yield from _arrays(users)
    elif not all(each.opcode in WRITES and each.operands[0] == parameter.name for each in users):
        yield from parameter.arrays


def _update(around: Computation, write: Instruction) -> Instruction:
    """Returns what a write puts into its first operand."""
    return operands(around, write)[2 if write.opcode == "scatter" else 1]


def _moving(arrays: Iterable[Array], cycles: float) -> Bound:
    """Returns the bound of moving arrays, of which those on the chip take registers."""
    bytes_, registers = 0.0, 0.0
    for array in arrays:
        if array.in_hbm:
            bytes_ += array.bytes
        else:
            registers += array.bytes / REGISTER
    return Bound(bytes_, max(cycles, registers))


def _cycles(around: Computation, instruction: Instruction) -> float:
    """Returns the cycles of rows and of combined numbers, at least LEAST."""
    opcode, elements = instruction.opcode, _elements([instruction])
    if opcode == "gather":
        window = _product(instruction.attribute("slice_sizes").split(","))
        return max(LEAST, GATHERED * elements / window)
    if opcode == "scatter":
        updates = _update(around, instruction).arrays[0]
        axes = instruction.attribute("update_window_dims").split(",")
        window = math.prod(updates.dims[int(axis)] for axis in axes if axis)
        return max(LEAST, SCATTERED * updates.elements / window)
    if opcode == "sort":
        return max(LEAST, SORTED * elements / LANES * _stages(instruction))
    if opcode in ("dynamic-update-slice", *READS):
        return LEAST
    if opcode == "reduce-window":
        window = re.search(r"window=\{size=([\dx]+)", instruction.attributes)
        elements *= _product(window[1].split("x")) if window else 1
    if opcode in ("reduce", "map"):
        elements += _elements(operands(around, instruction))
    return max(LEAST, elements / LANES)


def _stages(sort: Instruction) -> float:
    """Returns the stages of a network that sorts the keys of one row."""
    keys = sort.arrays[0].dims[int(sort.attribute("dimensions"))]
    levels = math.ceil(math.log2(max(2, keys)))
    return levels * (levels + 1) / 2


def _arrays(instructions: Iterable[Instruction]) -> list[Array]:
    return [array for each in instructions for array in each.arrays]


def _elements(instructions: Iterable[Instruction]) -> float:
    return float(sum(array.elements for array in _arrays(instructions)))


def _product(sizes: Iterable[str]) -> float:
    """Returns the product of sizes as text, at least 1."""
    return max(1.0, math.prod(float(size) for size in sizes if size))
