"""Trips of the loops in optimised HLO.

A loop's trips are those that the compiler names, or follow from its counter: where it begins, what
it adds and what it is compared with. A loop that says neither has those of its scope (see
seqarch.flops), or none that are known.
"""

import re
from collections.abc import Mapping

from seqarch.costs.hlo import Computation, Instruction, Module
from seqarch.flops import AT_MOST

KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
# The scope next to the loop: that of an outer loop is also in the names of those within it.
SCOPE = re.compile(AT_MOST.pattern + r'\)*/while"')  # in brackets where a gradient is taken
SAME = ("copy", "bitcast", "convert", "reshape")  # pass a number on

Constants = Mapping[int, int]  # of a computation's argument, a tuple, by index


def trips(module: Module, loop: Instruction, around: Computation, known: Constants) -> float | None:
    """Returns the trips of a loop; None where nothing tells them.

    Those of a scope are a mean of what its data may ask for (`seqarch.flops.count_flops`).

    Args:
      module: the program.
      loop: a `while` instruction.
      around: the computation that it stands in.
      known: constants among that computation's argument.
    """
    if match := KNOWN.search(loop.attributes):
        return float(match[1])
    count = _counted(module, loop, initial_constants(loop, around, known))
    named = SCOPE.findall(loop.attributes)
    return float(named[-1]) if count is None and named else count


def initial_constants(loop: Instruction, around: Computation, known: Constants) -> Constants:
    """Returns the constants among what a loop begins with."""
    start = around.instructions[loop.operands[0]]
    if start.opcode != "tuple":
        return {}
    values = (number(around, name, known) for name in start.operands)
    return {index: value for index, value in enumerate(values) if value is not None}


def lasting_constants(body: Computation, initial: Constants) -> Constants:
    """Returns the constants that each turn of a loop hands on to the next."""
    if body.root.opcode != "tuple":
        return {}
    lasting = {}
    for index, name in enumerate(body.root.operands):
        if index in initial and _argument(body, name) == index:
            lasting[index] = initial[index]
    return lasting


def number(computation: Computation, name: str, known: Constants) -> int | None:
    """Returns the value of a whole number that is constant; None for another."""
    made = _behind(computation, name)
    if made is None:
        return None
    if made.opcode == "constant" and re.fullmatch(r"-?\d+", made.operands[0]):
        return int(made.operands[0])
    return known.get(_argument(computation, name))


def _counted(module: Module, loop: Instruction, initial: Constants) -> float | None:
    """Returns the trips of a loop whose counter grows by a constant up to a constant."""
    called = loop.called
    condition, body = (module.computations[called[part]] for part in ("condition", "body"))
    known = lasting_constants(body, initial)
    root = _behind(condition, condition.root.name)
    direction = re.search(r"direction=(LT|LE|GT|GE)\b", root.attributes) if root else None
    if root is None or root.opcode != "compare" or direction is None:
        return None
    counter, stop = root.operands if direction[1] in ("LT", "LE") else reversed(root.operands)
    index, stop = _argument(condition, counter), number(condition, stop, known)
    if index is None or stop is None or index not in initial or body.root.opcode != "tuple":
        return None
    step = _step(body, index, known)
    if step is None or step < 1:
        return None
    last = stop + 1 if direction[1] in ("LE", "GE") else stop
    return float(max(0, -(-(last - initial[index]) // step)))


def _step(body: Computation, index: int, known: Constants) -> int | None:
    """Returns what a turn adds to a counter; None where it does something else."""
    added = _behind(body, body.root.operands[index])
    if added is None or added.opcode != "add":
        return None
    for counter, step in (added.operands, added.operands[::-1]):
        if _argument(body, counter) == index:
            return number(body, step, known)
    return None


def _behind(computation: Computation, name: str) -> Instruction | None:
    """Returns the instruction that makes a value, behind those that only pass it on."""
    made = computation.instructions.get(name)
    while made is not None and made.opcode in SAME:
        made = computation.instructions.get(made.operands[0])
    return made


def _argument(computation: Computation, name: str) -> int | None:
    """Returns the index of a value in the computation's argument; None where it is not of it."""
    made = _behind(computation, name)
    if made is None or made.opcode != "get-tuple-element":
        return None
    given = computation.instructions.get(made.operands[0])
    return made.index if given is not None and given.opcode == "parameter" else None
