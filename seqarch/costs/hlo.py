"""Optimised HLO of a compiled program, read from its text.

    module = parse(compiled.as_text())
    for instruction in module.entry.instructions: ...

Only what the estimate of a time needs is read: opcodes, shapes with their layouts, operands, called
computations, and what libtpu says of an instruction's cycles.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
BITS = re.compile(r"^[a-z]+(\d+)")
TILE = re.compile(r"T\(([\d,]+)\)")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
INDEX = re.compile(r"\bindex=(\d+)")
ON_CHIP = re.compile(r"S\([1-9]\d*\)")  # any memory but HBM


class Array(NamedTuple):
    """A shape without tuples.

    Attributes:
      dtype: such as "bf16".
      dims: sizes of axes.
      layout: minor to major order of axes, tiles and memory, such as "1,0:T(8,128)S(1)".
    """

    dtype: str
    dims: tuple[int, ...]
    layout: str

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        """Bytes in memory, with the padding of its tiles."""
        bits = BITS.match(self.dtype)
        width = int(bits[1]) / 8 if bits else {"pred": 1.0}.get(self.dtype, 0.0)
        return width * math.prod(self._padded())

    @property
    def in_hbm(self) -> bool:
        """Whether it lies in the memory of the chip and not in one of its core."""
        return not ON_CHIP.search(self.layout)

    def _padded(self) -> list[int]:
        """Returns the sizes from minor to major, rounded up to whole tiles."""
        order, _, rest = self.layout.partition(":")
        minor = [self.dims[int(axis)] for axis in order.split(",")] if order else list(self.dims)
        tile = TILE.search(rest)
        if tile is None:
            return minor
        for place, size in enumerate(reversed(tile[1].split(","))):
            if place < len(minor):
                minor[place] = -(-minor[place] // int(size)) * int(size)
        return minor


class Instruction(NamedTuple):
    """One instruction.

    Attributes:
      name: without "%".
      opcode: such as "fusion".
      shape: text of its result's shape.
      operands: names, or the literal of a constant.
      attributes: text behind the operands.
    """

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def arrays(self) -> list[Array]:
        """The arrays of its result."""
        return arrays_of(self.shape)

    @property
    def bytes(self) -> float:
        """Bytes of its result."""
        return sum(array.bytes for array in self.arrays)

    @property
    def cycles(self) -> int | None:
        """What the compiler estimates; None where it says nothing."""
        match = CYCLES.search(self.attributes)
        return int(match[1]) if match else None

    @property
    def index(self) -> int | None:
        """The index of a get-tuple-element."""
        match = INDEX.search(self.attributes)
        return int(match[1]) if match else None

    @property
    def called(self) -> dict[str, str]:
        """Names of called computations by the attribute that names them."""
        return dict(CALLED.findall(self.attributes))

    @property
    def branches(self) -> list[str]:
        """Names of the computations of a conditional."""
        if match := BRANCHES.search(self.attributes):
            return [name.strip().lstrip("%") for name in match[1].split(",")]
        return [name for kind, name in CALLED.findall(self.attributes) if "_comp" in kind]

    def attribute(self, name: str) -> str:
        """Returns the text of an attribute such as slice_sizes={1,256}, without braces."""
        match = re.search(rf"\b{name}=\{{([^}}]*)\}}", self.attributes)
        return match[1] if match else ""


class Computation(NamedTuple):
    """A computation, with its instructions in the order in which they run.

    Attributes:
      name: without "%".
      instructions: its instructions by name.
      root: the one whose result it returns.
    """

    name: str
    instructions: Mapping[str, Instruction]
    root: Instruction


class Module(NamedTuple):
    """A program.

    Attributes:
      computations: all of them by name.
      entry: the one that runs.
    """

    computations: Mapping[str, Computation]
    entry: Computation


def parse(text: str) -> Module:
    """Reads the text of an optimised module.

    Raises:
      ValueError: where the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, name, found, root = None, None, {}, None
    for line in text.splitlines():
        if line.startswith("}") and name is not None:
            computations[name] = Computation(name, found, root)
            name = None
        elif header := HEADER.match(line):
            name, found, root = header[2], {}, None
            entry = name if header[1] else entry
        elif name is not None and (named := NAMED.match(line)):
            found[named[2]] = _instruction(named[2], line[named.end() :])
            root = found[named[2]] if named[1] else root
    if entry is None:
        raise ValueError("the compiler's text has no entry computation")
    return Module(computations, computations[entry])


def _instruction(name: str, text: str) -> Instruction:
    """Reads what stands behind "name = "."""
    end = _closed(text, 0) if text.startswith("(") else text.index(" ")
    opening = text.index("(", end)
    closing = _closed(text, opening)
    operands = tuple(_names(text[opening + 1 : closing - 1]))
    return Instruction(name, text[end:opening].strip(), text[:end], operands, text[closing:])


def _names(text: str) -> Iterator[str]:
    """Yields the names of operands, which newer text precedes with their shapes."""
    named = re.findall(r"%([\w.\-]+)", text)
    yield from named or [text.strip()] if text.strip() else []


def _closed(text: str, opening: int) -> int:
    """Returns the position behind the bracket that closes the one at `opening`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"brackets of {text[:80]!r} do not close")


@functools.lru_cache(2**14)
def arrays_of(shape: str) -> list[Array]:
    """Returns the arrays of a shape's text, which may be a tuple."""
    found = []
    for dtype, dims, layout in ARRAY.findall(shape):
        sizes = tuple(int(size.lstrip("<=")) for size in dims.split(",") if size)
        found.append(Array(dtype, sizes, layout))
    return found
