"""What a model costs on a target: its memory against the context, the longest that fits, how many sequences fit at once.

Every number is a measured cell (seqarch.measure.cells) or follows from several: exponents and searches (.curves).
"""

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from seqarch.config import Config, to_dict
from seqarch.errors import UserError
from seqarch.measure.cells import Cell, Failed, Outcome
from seqarch.measure.curves import Largest, exponent, largest
from seqarch.measure.lab import Lab
from seqarch.measure.live import Actual
from seqarch.measure.memory import Measurement
from seqarch.measure.plans import PEAK
from seqarch.measure.tables import Row, format_bytes
from seqarch.measure.targets import place

LONGEST = 2**24  # tokens; a context that still fits is said to be longer
MOST = 2**20  # sequences at once
SERVED = (4096, 32768, 131072, 1048576)  # contexts at which sequences are counted
SEQUENCES = "sequences"
SHARES = {"train": 5, "prefill": 1, "decode": 1, SEQUENCES: 1}  # parts of a survey, and how much of the time each takes
AT_ONCE = 1.0  # seconds within which no part of a survey is measured
ROOM = 0.5  # of the memory that a step which runs may take: compilers work beside it


class Survey(NamedTuple):
    """One member on one target. cells: of its curves; row: what the tables show of it."""

    target: str
    cells: dict[Cell, Outcome]
    row: Row


class Part(NamedTuple):
    """What one phase, or SEQUENCES, tells of a member on a target. cells: of its curve; values: what the tables show."""

    cells: dict[Cell, Outcome]
    values: dict[str, Any]


def run(
    lab: Lab,
    members: dict[str, Config],
    targets: Sequence[str],
    lengths: Sequence[int],
    *,
    workers: int = 2,
    run_local: bool = False,
    say: Callable[[str], None] = print,
) -> list[Survey]:
    """Surveys all members on all targets; a target that refuses a member costs a line.

    run_local: on a present target also run the training steps that fit with room beside them; accelerators always do
    Raises UserError, the first one, where nothing could be surveyed.
    """
    jobs = [(target, name, part) for target, part, name in itertools.product(targets, SHARES, members)]
    progress, errors = Progress(sum(SHARES[part] for *_, part in jobs), say), {}

    def one(job: tuple[str, str, str]) -> Part | None:
        target, name, part = job
        began = time.monotonic()
        try:
            found = _part(lab, part, members[name], target, lengths, run_local)
        except UserError as error:
            if errors.setdefault(str(error), error) is error:
                say(f"{name} on {target}: {error}")
            return None
        progress.done(f"{name} on {target}: {part}", SHARES[part], found_at_once=time.monotonic() - began < AT_ONCE)
        return found

    parts: dict[tuple[str, str, str], Part | None] = {}
    with futures.ThreadPoolExecutor(2 * workers) as pool:  # twice, for a search waits for one cell after the other
        try:
            for _, group in itertools.groupby(jobs, key=lambda job: place(job[0]).present):  # a worker serves either kind
                parts |= zip(group := list(group), pool.map(one, group), strict=True)
        except KeyboardInterrupt:
            lab.end()
            raise
    surveys = list(_joined(members, targets, parts))
    if not surveys:
        raise next(iter(errors.values()))
    _say_failures(surveys, say)
    return surveys


def _say_failures(surveys: Sequence[Survey], say: Callable[[str], None]) -> None:
    for each in surveys:
        for cell, outcome in each.cells.items():
            if isinstance(outcome, Failed):
                say(f"{each.row.name} on {each.target}, {cell.phase} of {cell.length:,} tokens: {outcome.reason}")


def _joined(members: dict[str, Config], targets: Sequence[str], parts: dict[tuple[str, str, str], Part | None]) -> Iterator[Survey]:
    """Of those members and targets of which no part was refused."""
    for target, (name, config) in itertools.product(targets, members.items()):
        found = [parts[target, name, part] for part in SHARES]
        if None in found:
            continue
        cells, values = {}, {"target": target}
        for part in found:
            cells |= part.cells
            values |= part.values
        yield Survey(target, cells, Row(name, "model", values, to_dict(config)))


def _part(lab: Lab, part: str, config: Config, target: str, lengths: Sequence[int], run: bool) -> Part:
    if part == SEQUENCES:
        return Part({}, _sequences(lab, config, target))
    return _phase(lab, part, config, target, lengths, run)


def _phase(lab: Lab, phase: str, config: Config, target: str, lengths: Sequence[int], run: bool) -> Part:
    """Its curve and what fits. Training is of the fewest rows that the target's devices divide, serving of one."""
    rows = place(target).count * config.optim.accumulate if phase == "train" else 1
    cell = functools.partial(Cell, config, phase, rows, target=target)
    cells = [cell(length) for length in lengths]
    found = dict(zip(lengths, lab.measure_all(cells), strict=True))
    values = _curve(phase, found) | _longest(lab, phase, cell, found)
    if phase == "train" and place(target).present:
        values |= _actual(lab, cell, found, run)
    return Part(dict(zip(cells, found.values(), strict=True)), values)


def _sequences(lab: Lab, config: Config, target: str) -> dict[str, str]:
    """How many are decoded at once at each context; none is said of one whose programs fail to compile."""
    values = {}
    for length in SERVED:
        if fit := most_sequences(lab, config, target, length):
            values[f"lab/sequences@{length}"] = f"{fit.size:,}{'' if fit.beyond else ' or more'}"
    return values


def most_sequences(lab: Lab, config: Config, target: str, length: int) -> Largest | None:
    """The largest batch of a decoding step that fits; None where the devices' own number of rows fails to compile.

    Only multiples of that number are tried, which leave whole rows to each device; where not even one a device fits, fewer
    are, which share the heads of their states if they can.
    """
    devices = place(target).count
    outcome = lambda rows: lab.measure(Cell(config, "decode", rows, length, target))
    total = lambda rows: needed(outcome(rows))
    memory, empty = memory_of([outcome(devices)]), without_rows(outcome(devices))
    if memory is None:
        return None
    fit = largest(lambda n: total(n * devices), memory, empty, MOST)
    if fit.size or devices == 1:
        return Largest(fit.size * devices, fit.beyond and fit.beyond * devices)
    fit = largest(total, memory, empty, devices - 1)
    return Largest(fit.size, fit.beyond or devices)


class Progress:
    """Lines that say how much is done and how long the rest will take at the pace so far; from several threads.

    What was found at once, being on disk, tells nothing of the pace.
    """

    def __init__(self, total: int, say: Callable[[str], None]):
        self._total, self._say, self._done, self._worked = total, say, 0, 0
        self._start, self._lock = time.monotonic(), threading.Lock()

    def done(self, what: str, share: int, found_at_once: bool = False) -> None:
        with self._lock:
            self._done += share
            self._worked += 0 if found_at_once else share
            left = ""
            if self._worked:
                seconds = (time.monotonic() - self._start) / self._worked * (self._total - self._done)
                left = f", {seconds / 60:.1f} min left"
            self._say(f"[{self._done / self._total:.0%}{left}] {what}")


def _curve(phase: str, found: dict[int, Outcome]) -> dict[str, Any]:
    values: dict[str, Any] = {f"lab/{phase}@{length}": describe(outcome) for length, outcome in found.items()}
    measured = {length: each for length, each in found.items() if isinstance(each, Measurement)}
    values |= {f"lab/{phase}_bytes@{length}": each.total for length, each in measured.items()}
    grows = {"train": lambda m: m.working, "prefill": lambda m: m.working + m.state, "decode": lambda m: m.state}[phase]
    if fit := exponent(list(measured), [grows(each) for each in measured.values()]):
        values[f"lab/{phase}_exponent"] = str(fit)
    return values


def _longest(lab: Lab, phase: str, cell: Callable[[int], Cell], found: dict[int, Outcome]) -> dict[str, str]:
    memory = memory_of(found.values())
    if not memory:
        return {}
    known = {length: needed(outcome) for length, outcome in found.items()}
    fit = largest(lambda length: needed(lab.measure(cell(length))), memory, known, LONGEST)
    return {f"lab/{phase}_longest": f"{fit.size:,}" if fit.beyond else f"over {fit.size:,}"}


def _actual(lab: Lab, cell: Callable[[int], Cell], found: dict[int, Outcome], run: bool) -> dict[str, Any]:
    """Bytes of the steps that really ran, beside what was planned."""
    values = {}
    for length, planned in found.items():
        wanted = isinstance(planned, Measurement) and (run or planned.definition == PEAK)
        if wanted and planned.total <= ROOM * planned.memory:
            actual = lab.run(cell(length))
            if isinstance(actual, Actual):
                values[f"lab/planned_bytes@{length}"], values[f"lab/actual_bytes@{length}"] = actual
                share = f"{format_bytes(actual.peak)}, planned {100 * actual.planned / actual.peak:.0f} %"
                values[f"lab/actual@{length}"] = share
            else:
                values[f"lab/actual@{length}"] = f"not measured: {actual.reason}"
    return values


def describe(outcome: Outcome) -> str:
    """A cell of a table: "1.2 GiB", "needs 136 GiB of 15.8 GiB", or that it failed."""
    if isinstance(outcome, Failed):
        return "failed"
    if outcome.fits:
        return format_bytes(outcome.total)
    return f"needs {format_bytes(outcome.total)} of {format_bytes(outcome.memory)}"


def needed(outcome: Outcome) -> int | None:
    """The bytes of a cell, for `largest`; None where it failed."""
    return None if isinstance(outcome, Failed) else outcome.total


def without_rows(outcome: Outcome) -> dict[int, int]:
    """The bytes of a cell without any rows, for `largest`; none where it failed."""
    return {} if isinstance(outcome, Failed) else {0: outcome.parameters + outcome.optimizer}


def memory_of(outcomes: Iterable[Outcome]) -> int | None:
    """What the device has for programs; None where all failed."""
    return next((outcome.memory for outcome in outcomes if isinstance(outcome, Measurement)), None)
