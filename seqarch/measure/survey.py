"""What a model costs on a target: its memory against the context, the longest that fits, how many sequences fit at once.

Every number is a measured cell (seqarch.measure.cells) or follows from several: exponents and searches (.curves).
"""

import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from seqarch.config import Config, to_dict
from seqarch.errors import UserError
from seqarch.measure.cells import Cell, Failed, Lab, Outcome
from seqarch.measure.curves import exponent, largest
from seqarch.measure.live import Actual
from seqarch.measure.memory import Measurement
from seqarch.measure.plans import PEAK
from seqarch.measure.programs import PHASES
from seqarch.measure.tables import Row, format_bytes
from seqarch.measure.targets import place

LONGEST = 2**24  # tokens; a context that still fits is said to be longer
MOST = 2**20  # sequences at once
SERVED = (4096, 32768, 131072, 1048576)  # contexts at which sequences are counted
ROOM = 0.5  # of the memory that a step which runs may take: compilers work beside it


class Survey(NamedTuple):
    """One member on one target. cells: of its curves; row: what the tables show of it."""

    target: str
    cells: dict[Cell, Outcome]
    row: Row


def survey(
    lab: Lab,
    name: str,
    config: Config,
    target: str,
    lengths: Sequence[int],
    *,
    served: Sequence[int] = SERVED,
    run: bool = False,
    done: Callable[[str], None] = lambda phase: None,
) -> Survey:
    """Curves of all phases and what fits. Training is of the fewest rows that the target's devices divide, serving of one.

    run: on a present target also runs the training steps that fit with room beside them; accelerators always do
    done: is called after each of the phases, and after "sequences"
    """
    count = place(target).count
    cells, values = {}, {"target": target}
    for phase in PHASES:
        rows = count * config.optim.accumulate if phase == "train" else 1
        cell = functools.partial(Cell, config, phase, rows, target=target)
        found = {length: lab.measure(cell(length)) for length in lengths}
        cells |= {cell(length): outcome for length, outcome in found.items()}
        values |= _curve(phase, found) | _longest(lab, phase, cell, found)
        if phase == "train" and place(target).present:
            values |= _actual(lab, cell, found, run)
        done(phase)
    if memory := memory_of(cells.values()):
        for length in served:
            total = lambda n: needed(lab.measure(Cell(config, "decode", n * count, length, target)))  # noqa: B023, E731
            fit = largest(total, memory, {}, MOST)
            values[f"lab/sequences@{length}"] = f"{fit.size * count:,}{'' if fit.beyond else ' or more'}"
    done("sequences")
    return Survey(target, cells, Row(name, "model", values, to_dict(config)))


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
    """Surveys all members on all targets, several at once; a target that refuses a member costs a line.

    Raises UserError, the first one, where nothing could be surveyed.
    """
    pairs, errors = list(itertools.product(targets, members)), {}
    progress = Progress(len(pairs) * (len(PHASES) + 1), say)

    def one(pair: tuple[str, str]) -> Survey | None:
        target, name = pair
        done = lambda phase: progress.done(f"{name} on {target}: {phase}")  # noqa: E731
        try:
            return survey(lab, name, members[name], target, lengths, run=run_local, done=done)
        except UserError as error:
            if str(error) not in errors:
                say(f"{name} on {target}: {error}")
            errors[str(error)] = error
            return None

    with futures.ThreadPoolExecutor(workers) as pool:
        surveys = [each for each in pool.map(one, pairs) if each]
    if not surveys:
        raise next(iter(errors.values()))
    for each in surveys:
        for cell, outcome in each.cells.items():
            if isinstance(outcome, Failed):
                say(f"{each.row.name} on {each.target}, {cell.phase} of {cell.length:,} tokens: {outcome.reason}")
    return surveys


class Progress:
    """Lines that say what is done and how long the rest will take at the pace so far; from several threads."""

    def __init__(self, total: int, say: Callable[[str], None]):
        self._total, self._say, self._count = total, say, 0
        self._start, self._lock = time.monotonic(), threading.Lock()

    def done(self, what: str) -> None:
        with self._lock:
            self._count += 1
            left = (time.monotonic() - self._start) / self._count * (self._total - self._count)
            self._say(f"[{self._count}/{self._total}, {left / 60:.1f} min left] {what}")


def _curve(phase: str, found: dict[int, Outcome]) -> dict[str, Any]:
    values: dict[str, Any] = {f"lab/{phase}@{length}": describe(outcome) for length, outcome in found.items()}
    measured = {length: each for length, each in found.items() if isinstance(each, Measurement)}
    values |= {f"lab/{phase}_bytes@{length}": each.total for length, each in measured.items()}
    grows = {"train": lambda m: m.working, "prefill": lambda m: m.working + m.state, "decode": lambda m: m.state}[phase]
    if fit := exponent(list(measured), [grows(each) for each in measured.values()]):
        values[f"lab/{phase}_exponent"] = str(fit)
        values[f"lab/{phase}_exponent_value"], values[f"lab/{phase}_exponent_half"] = fit
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


def memory_of(outcomes: Iterable[Outcome]) -> int | None:
    """What the device has for programs; None where all failed."""
    return next((outcome.memory for outcome in outcomes if isinstance(outcome, Measurement)), None)
