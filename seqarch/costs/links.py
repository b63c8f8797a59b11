"""Seconds that collectives of optimised HLO take on the links between chips."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from seqarch.costs.devices import Placement
from seqarch.costs.hlo import Computation, Instruction, Module
from seqarch.costs.uncounted import COLLECTIVES, Uncounted, describe, operands

# Seconds of a hop from chip to chip. Source: Austin et al. 2025, "How to scale your model".
HOP_S = 1e-6
GROUPS = (  # how the sizes of groups are written
    re.compile(r"replica_groups=\{\{([\d,]+)\}"),
    re.compile(r"replica_groups=\[\d+,(\d+)\]<="),
    re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}"),
)
CHANNEL = re.compile(r"channel_id=(\d+)")


class Links(NamedTuple):
    """The links of a device.

    Attributes:
      rate: bytes/s of one link, in one direction.
      axes: axes of the grid along which there are other chips.
      devices: devices of the program.
    """

    rate: float
    axes: int
    devices: int


def links_of(placement: Placement) -> Links | None:
    """Returns the links of a placement's devices; None where no data sheet tells them."""
    sheet = placement.target
    if sheet.links is None:
        return None
    rate = sheet.links / (2 * sheet.axes * sheet.devices_per_chip)
    return Links(rate, max(1, sum(size > 1 for size in placement.shape)), placement.count)


def collective_seconds(around: Computation, collective: Instruction, links: Links | None) -> float:
    """Returns the seconds of a collective: its bytes over the links, and its hops.

    A group of all devices uses a link along each axis of their grid, a smaller one a single link,
    since chips at the end of a row without a way around have no other.

    Raises:
      Uncounted: where groups cannot be read, and without a data sheet.
    """
    opcode = collective.opcode.removesuffix("-start")
    size = _group(collective, opcode)
    if links is None or size is None or opcode not in COLLECTIVES:
        raise Uncounted(describe(collective))
    given = sum(each.bytes for each in operands(around, collective))
    moved = given * {
        "all-gather": size - 1,
        "all-reduce": 2 * (size - 1) / size,
        "reduce-scatter": (size - 1) / size,
        "all-to-all": max((size - 1) / size, size / 4),  # halves of a row exchange half of it
        "collective-permute": 1,
        "collective-broadcast": 1,
    }.get(opcode)
    hops = 1 if opcode == "collective-permute" else size - 1
    used = links.axes if size == links.devices else 1
    return moved / (links.rate * used) + HOP_S * hops


def collectives_within(
    module: Module, around: Computation, instruction: Instruction
) -> Iterator[tuple[str, Computation, Instruction]]:
    """Yields the collectives of an instruction, or within a fusion, with their channels.

    libtpu splits a collective over several fusions, whose parts have the same channel.
    """
    if instruction.opcode in COLLECTIVES:
        match = CHANNEL.search(instruction.attributes)
        yield match[1] if match else instruction.name, around, instruction
    elif instruction.opcode == "fusion":
        inside = module.computations[instruction.called["calls"]]
        for each in inside.instructions.values():
            yield from collectives_within(module, inside, each)


def _group(collective: Instruction, opcode: str) -> int | None:
    """Returns the devices of a group; None where it cannot be read."""
    if opcode == "collective-permute":
        return 2
    listed, counted, mesh = (each.search(collective.attributes) for each in GROUPS)
    if listed:
        return len(listed[1].split(","))
    if counted:
        return int(counted[1])
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    return None
