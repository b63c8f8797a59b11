"""Bundles and bytes of Pallas kernels, counted in the final schedules that libtpu writes.

A bundle is a cycle while nothing stalls. libtpu writes the schedule of each instruction where the
process was started with the flags of `dump_flags`; a loop's bundles count once per trip.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from seqarch.costs.uncounted import Uncounted

FLAGS = "LIBTPU_INIT_ARGS"  # the environment variable that libtpu reads as it is loaded
DUMP = "--xla_jf_dump_to="
GRANULE = 32  # bytes by which schedules count copies
BUNDLE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(LH|LB|LE|PB|PF|CT)?\s*:\s*(>*)\s*\{(.*)")
EXIT = re.compile(
    r"= scmp\.ge\.s32\.totalorder (?:\([^)]*\), )?(%\w+), (\d+) /\* loop exit test \*/"
)
DEFINED = re.compile(r"(%\w+) = (sadd\.s32|smov|sphi) (?:\([^)]*\), )?([^;/}]*)")
SPILLED = re.compile(r"sst \[smem:\[(#allocation\w+_spill)\]\] (%\w+)")
RELOADED = re.compile(r"(%\w+) = sld \[smem:\[(#allocation\w+_spill)\]\]")
CARRIED = re.compile(r"(%\w+) = (?:sphi |sld \[smem:\[#allocation\w+_spill\]\])")
COPIED = re.compile(r"(?:\{|;;)\s*%\d+ = dma\.\w+ .*?/\*size_in_granules=\*/(\d+)")
BLOCKS = re.compile(r"^iteration_bounds: \(([\d, ]+)\)")


class KernelWork(NamedTuple):
    """What a kernel needs at most, while nothing stalls.

    Attributes:
      bundles: that its core issues.
      bytes: that its copies move from and to the device's memory, each in every turn of its loops,
        but an operand of a single block once.
    """

    bundles: float
    bytes: float


class _Loop:
    """A loop of a schedule, or all of it.

    Attributes:
      depth: number of loops around its bundles, itself included.
      around: the next outer loop.
      bundles: its own, without those of inner loops.
      copies: bytes of its own copies, and whether each has a single block.
      carried: names of what its turns hand on, of which one is its counter.
    """

    def __init__(self, depth: int, around: "_Loop | None"):
        self.depth, self.around, self.bundles = depth, around, 0
        self.copies: list[list] = []
        self.carried: list[str] = []


def dump_flags(directory: Path) -> str:
    """Returns flags with which libtpu writes final schedules to a directory, and little else."""
    flags = (f"{DUMP}{directory}", "--xla_jf_dump_llo_text=true")
    return " ".join((*flags, "--xla_jf_dump_llo_pass_label_regex=.*final_bundles.*"))


def dump_directory() -> Path | None:
    """Returns where libtpu of this process writes schedules; None where it writes none."""
    named = re.search(rf"{DUMP}(\S+)", os.environ.get(FLAGS, ""))
    return Path(named[1]) if named else None


def clear_schedules(directory: Path) -> None:
    """Removes the schedules of an earlier program."""
    for path in directory.glob("*"):
        path.unlink()


def find_kernel(directory: Path | None, name: str) -> KernelWork | None:
    """Returns what the kernel of an instruction needs; None where no schedule of it was written.

    Raises:
      Uncounted: where its schedule has a loop of unknown trips.
    """
    if directory is None:
        return None
    named = re.compile(rf"\d+-{re.escape(name)}-\d+-final_bundles\.txt")
    found = sorted(path for path in directory.glob("*.txt") if named.fullmatch(path.name))
    return read_kernel(found[-1].read_text(errors="replace"), name) if found else None


def read_kernel(text: str, name: str) -> KernelWork:
    """Returns what a kernel needs, by the text of its final schedule.

    Raises:
      Uncounted: where it has a loop of unknown trips.
    """
    known, bundles, moved = _trips(text), 0.0, 0.0
    times: dict[_Loop, float] = {}
    for loop in _loops(text):
        counted = [known[name] for name in loop.carried if name in known]
        if loop.around is not None and len(counted) != 1:
            raise Uncounted(f"%{name} (a kernel with a loop of unknown trips)")
        times[loop] = counted[0] * times[loop.around] if loop.around else 1.0
        bundles += loop.bundles * times[loop]
        for size, is_single in loop.copies:
            moved += size * (1.0 if is_single else times[loop])
    return KernelWork(bundles, moved)


def _loops(text: str) -> list[_Loop]:
    """Returns the loops of a schedule, outer ones first; the first is the whole of it."""
    loop = _Loop(0, None)
    loops = [loop]
    last: list | None = None  # the copy that the next lines describe
    for line in text.splitlines():
        bundle = BUNDLE.match(line)
        if bundle is None:
            blocks = BLOCKS.match(line)
            if blocks and last is not None:
                last[1] = set(blocks[1].replace(" ", "").split(",")) == {"1"}
            continue
        mark, depth, rest = bundle[1], len(bundle[2]), bundle[3]
        if rest.startswith("}") and not depth:
            depth = loop.depth  # an empty bundle has no depth: it is a slot of what is before it
        while loop.depth > depth or (mark == "LB" and loop.depth == depth and loop.around):
            loop = loop.around
        if depth > loop.depth:
            earlier = [each for each in loops if each.depth == depth and mark != "LB"]
            loop = earlier[-1] if earlier else _Loop(depth, loop)  # some bundles stand behind
            loops += [] if earlier else [loop]
        loop.bundles += 1
        loop.carried += CARRIED.findall(rest)
        for size in COPIED.findall("{" + rest):
            loop.copies.append(last := [GRANULE * int(size), False])
    return loops


def _trips(text: str) -> dict[str, float]:
    """Returns the trips of loops by the name of their counter, from their exit tests.

    The test of an outer loop may stand in the last bundles of an inner one, and its counter may
    have been kept in memory. A loop whose counter, step or end is not a constant is left out.
    """
    defined = {match[1]: (match[2], match[3]) for match in DEFINED.finditer(text)}
    reloaded, trips = _reloaded(text), {}
    for counter, end in EXIT.findall(text):
        kind, operands = defined.get(counter, ("", ""))
        step, _, before = (part.strip() for part in operands.partition(","))
        carried, start = _carried(before, defined, reloaded)
        if kind == "sadd.s32" and step.isdigit() and start.isdigit() and int(step) > 0:
            trips[carried] = max(1.0, float(-(-(int(end) - int(start)) // int(step))))
    return trips


def _carried(
    name: str, defined: dict[str, tuple[str, str]], reloaded: dict[str, str]
) -> tuple[str, str]:
    """Returns what a loop carries a number as, a phi or what it reloads, and the number's start."""
    phi = reload = ""
    while True:
        kind, operands = defined.get(name, ("", ""))
        if kind == "sphi" and not phi:
            phi, name = name, operands.split(",")[0].strip()
        elif kind == "smov":
            name = operands.strip()
        elif name in reloaded and not phi:
            reload, name = name, reloaded[name]
        else:
            return phi or reload, name


def _reloaded(text: str) -> dict[str, str]:
    """Returns the names of spilled numbers by those that they are reloaded as.

    Slots are used again. A loop may also carry a number in a slot; then it is the one from before
    the loop.
    """
    spilled: dict[str, str] = {}
    found = {}
    for bundle in text.splitlines():
        for name, slot in RELOADED.findall(bundle):
            if slot in spilled:
                found[name] = spilled[slot]
        spilled.update(SPILLED.findall(bundle))
    return found
